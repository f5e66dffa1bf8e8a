"""Weights that were saved as a few bits each, as tensors again.

"Differentiable Model Compression via Pseudo Quantization Noise" (Défossez, Adi & Synnaeve, 2021, arXiv:2104.09987),
written from a description of the files. Groups of neighbouring weights share a number of bits; a weight is
min + level / (2^bits - 1) · (max - min). Checked against `diffq` 0.2.4.

Such a file lists its parameters in the network's order and does not name them, nor say how large they are. So the first
step only numbers what it holds (`number_tensors`), and the second, which knows the network, unpacks it
(`name_tensors`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError

SETTINGS = "quantized.settings"
_COLUMNS = 32  # values side by side; each bit of the 64 of an integer belongs to another row of them
_WORD = 64
_MAX_BITS = 16
_DEFAULTS = {"group_size": 1, "min_size": 0.01, "min_bits": 2}
_MIB_OF_FLOATS = 2**20 / 4


def is_quantized(state: Any) -> bool:
    """Whether this is such a state."""
    return isinstance(state, Mapping) and state.get("__quantized") is True


def number_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a quantised state holds, numbered: `quantized.N.widths`, `quantized.N.range`, `quantized.N.bits.B` for each
    parameter that was packed, `rest.N` for the others, and `SETTINGS` (size of a group, MiB from which a parameter is
    packed, least number of bits).

    Raises:
        CheckpointError: the state is not laid out like that.
    """
    tensors: dict[str, Tensor] = {}
    try:
        arguments = {**_DEFAULTS, **state["meta"]["init_kwargs"]}
        tensors[SETTINGS] = torch.tensor([float(arguments[name]) for name in _DEFAULTS], dtype=torch.float64)
        for number, (tables, extremes, widths) in enumerate(state["quantized"]):
            tensors[f"quantized.{number}.widths"] = widths
            tensors[f"quantized.{number}.range"] = torch.stack([torch.as_tensor(value).float() for value in extremes])
            for bits, table in enumerate(tables, start=1):
                if table is not None:
                    tensors[f"quantized.{number}.bits.{bits}"] = table
        rest = [*state["float16"], *state["others"]]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"its quantised weights are damaged: {error!r:.200}.") from error
    tensors |= {f"rest.{number}": tensor for number, tensor in enumerate(rest)}
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError("something among its quantised weights is no tensor.")
    return tensors


def name_tensors(state: Mapping[str, Tensor], parameters: Sequence[tuple[str, torch.Size]]) -> dict[str, Tensor]:
    """The tensors of `number_tensors` unpacked, under their names and in their shapes.

    Args:
        state: as `number_tensors` gives it.
        parameters: name and shape of each of the network's parameters, in the published order.

    Raises:
        CheckpointError: they are not those of this network, or damaged.
    """
    settings = state[SETTINGS].double().flatten().tolist()
    if len(settings) != len(_DEFAULTS) or not all(0 <= value < 1e6 for value in settings) or settings[0] < 1:
        raise CheckpointError(f"the quantised weights have the impossible settings {settings[:8]}.")
    group_size, min_size, min_bits = settings
    named = {}
    packed = others = 0
    for name, shape in parameters:
        count = shape.numel()
        if count >= min_size * _MIB_OF_FLOATS:
            if f"quantized.{packed}.widths" not in state or count % group_size:
                raise _misfit(name, shape)
            named[name] = _unpack(state, f"quantized.{packed}", count, int(group_size), int(min_bits)).view(shape)
            packed += 1
        else:
            tensor = state.get(f"rest.{others}")
            if tensor is None or tensor.shape != shape:
                raise _misfit(name, shape)
            named[name] = tensor
            others += 1
    if f"quantized.{packed}.widths" in state or f"rest.{others}" in state:
        raise CheckpointError("the quantised weights hold more tensors than the network has parameters.")
    return named


def _misfit(name: str, shape: torch.Size) -> CheckpointError:
    return CheckpointError(
        f"the quantised weights do not fit: nothing there has the sizes {tuple(shape)} of {name}.",
        hint="the config does not describe these weights.",
    )


def _unpack(state: Mapping[str, Tensor], key: str, count: int, group_size: int, min_bits: int) -> Tensor:
    """One parameter, flat, [count]."""
    groups = count // group_size
    widths = _values(state[f"{key}.widths"], groups) + min_bits
    extremes = state.get(f"{key}.range", torch.empty(0)).float()
    if extremes.shape[:1] != (2,) or extremes[0].numel() not in (1, groups):
        raise CheckpointError(f"{key} has a range of the sizes {tuple(extremes.shape)}, expected 2 of 1 or {groups}.")
    low, high = extremes[0].reshape(-1, 1), extremes[1].reshape(-1, 1)
    shares = torch.zeros(groups, group_size)  # levels as fractions of the largest one
    left = groups
    for name in state:
        if (match := re.fullmatch(rf"{re.escape(key)}\.bits\.(\d+)", name)) is None:
            continue
        bits = int(match[1])
        chosen = widths == bits
        levels = _values(state[name], int(chosen.sum()) * group_size)
        left -= int(chosen.sum())
        shares[chosen] = levels.view(-1, group_size).float() / (2**bits - 1)
    if left:
        raise CheckpointError(f"{key} lacks the values of {left} groups of weights.")
    return (shares * (high - low) + low).flatten()


def _values(packed: Tensor, count: int) -> Tensor:
    """[rows, bits, 32] integers -> their first `count` values: bit b of value 2048 · row + 32 · s + i is bit s of
    packed[row, b, i]."""
    good = packed.dtype == torch.int64 and packed.dim() == 3 and packed.shape[2] == _COLUMNS
    if not good or packed.shape[1] > _MAX_BITS or packed.shape[0] * _WORD * _COLUMNS < count:
        raise CheckpointError(
            f"packed weights are {packed.dtype} of the sizes {tuple(packed.shape)}, "
            f"expected int64 [rows, bits, {_COLUMNS}] for {count} values."
        )
    shifts = torch.arange(_WORD)[:, None]
    values = torch.zeros(packed.shape[0], _WORD, _COLUMNS, dtype=torch.int32)
    for bit in range(packed.shape[1]):
        values |= ((packed[:, bit, None, :] >> shifts) & 1).int() << bit
    return values.flatten()[:count]
