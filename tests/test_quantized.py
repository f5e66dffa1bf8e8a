"""Quantised weights: against the public package's recorded bits, and damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import demucs_toys
import numpy as np
import pytest
import torch
from demucs_toys import build, package, published
from torch import Tensor

from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError
from unmixcli.quantized import SETTINGS, is_quantized, name_tensors, number_tensors
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "quantized.npz")
EXPECTED = {key.partition("/")[2]: torch.from_numpy(REFERENCE[key]) for key in REFERENCE.files if "/" in key}
PARAMETERS = [(name, value.shape) for name, value in EXPECTED.items()]


def recorded(**changes: Any) -> dict[str, Any]:
    """The state as the public package saves it."""
    keys = [f"table_{bits}" for bits in range(1, 15)]
    tables = [torch.from_numpy(REFERENCE[key]) if key in REFERENCE.files else None for key in keys]
    extremes = tuple(float(value) for value in REFERENCE["extremes"])
    return {
        "quantized": [(tables, extremes, torch.from_numpy(REFERENCE["widths"]))],
        "float16": [torch.from_numpy(REFERENCE[f"small_{number}"]) for number in range(3)],
        "others": [],
        "meta": {"init_kwargs": {"group_size": 8, "min_size": 0.001, "float16": True}, "packed": True},
        "__quantized": True,
        **changes,
    }


def test_unpacks_as_the_public_package() -> None:
    state = recorded()
    assert is_quantized(state)
    assert sum(table is not None for table in state["quantized"][0][0]) > 8, "many numbers of bits"
    found = name_tensors(number_tensors(state), PARAMETERS)
    assert list(found) == list(EXPECTED)
    for name, expected in EXPECTED.items():
        torch.testing.assert_close(found[name].float(), expected.float(), atol=1e-6, rtol=0)


def test_parameters_of_another_network_are_refused() -> None:
    tensors = number_tensors(recorded())
    for parameters, message in (
        (PARAMETERS[:-1], "more tensors than"),
        ([*PARAMETERS, ("extra", torch.Size([4]))], "nothing there has the sizes"),
        ([("0.weight", torch.Size([99, 99])), *PARAMETERS[1:]], "nothing there has the sizes"),
        ([("0.weight", torch.Size([999, 800])), *PARAMETERS[1:]], "for 99900 values"),
        ([("0.weight", torch.Size([3])), *PARAMETERS[1:]], "nothing there has the sizes"),
    ):
        with pytest.raises(CheckpointError, match=message):
            name_tensors(tensors, parameters)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantized": [1]},
        {"quantized": None},
        {"quantized": [([None] * 14, (0.0, 1.0), "widths")]},
        {"quantized": [([None] * 14, (0.0, "1"), torch.zeros(1, 4, 32, dtype=torch.int64))]},
        {"float16": ["text"]},
        {"meta": {}},
        {"meta": {"init_kwargs": {"group_size": "8"}}},
        {"meta": {"init_kwargs": {"group_size": 0}}},
        {"meta": {"init_kwargs": {"group_size": 1e300}}},
        {"meta": {"init_kwargs": {"group_size": 8, "min_size": float("nan")}}},
    ],
)
def test_damaged_states_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        name_tensors(number_tensors(recorded(**changes)), PARAMETERS)


@pytest.mark.parametrize("kind", ["dtype", "columns", "rows", "bits", "range"])
def test_damaged_tables_are_refused(kind: str) -> None:
    tensors = number_tensors(recorded())
    widths = tensors["quantized.0.widths"]
    tensors["quantized.0.widths"] = {
        "dtype": widths.int(),
        "columns": widths[..., :16],
        "rows": widths[:0],
        "bits": widths.repeat(1, 9, 1),
        "range": widths,
    }[kind]
    if kind == "range":
        tensors["quantized.0.range"] = torch.zeros(2, 5)
    with pytest.raises(CheckpointError):
        name_tensors(tensors, PARAMETERS)


def packed(values: Tensor, bits: int) -> Tensor:
    """Values as a table of `bits` bits, in the plainest way."""
    rows = -(-len(values) // 2048)
    table = np.zeros((rows, bits, 32), np.uint64)
    for index, value in enumerate(values.tolist()):
        row, shift, column = index // 2048, index % 2048 // 32, index % 32
        for bit in range(bits):
            table[row, bit, column] |= np.uint64((value >> bit & 1) << shift)
    return torch.from_numpy(table.view(np.int64))


@pytest.mark.parametrize("case", ["hdemucs", "demucs"])
def test_a_quantised_package_becomes_a_model(tmp_path: Path, case: str) -> None:
    model = build(case)
    state, quantised, rest = published(model), [], []
    for name, value in state.items():
        if value.numel() < 0.001 * 2**18:
            rest.append(value)
            continue
        low, high = float(value.min()), float(value.max())
        levels = ((value.float() - low) / (high - low) * 63).round().int().flatten()
        state[name] = (levels / 63 * (high - low) + low).view(value.shape)
        widths = torch.full((value.numel() // 8,), 6 - 2)
        quantised.append(([None] * 5 + [packed(levels, 6)] + [None] * 8, (low, high), packed(widths, 4)))
    assert quantised
    content = recorded(quantized=quantised, float16=rest)
    path = package(tmp_path / "q.th", case, content)
    entry = add_model([str(path)], name="mine").entry
    found = load_model(entry)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, state[name].float(), atol=1e-6, rtol=0)
    assert SETTINGS not in dict(found.named_parameters())
    assert found(demucs_toys.mixture()).isfinite().all()
