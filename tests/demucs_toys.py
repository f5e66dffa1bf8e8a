"""Small networks of the Demucs family with weights that follow from a seed, and packages of them as published."""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel

SOURCES = ["drums", "vocals"]
LENGTH = 2100

_D = {"channels": 4, "depth": 3, "norm_starts": 1, "norm_groups": 2, "dconv_attn": 2, "dconv_lstm": 2}
_H = {"channels": 4, "nfft": 256, "depth": 4, "norm_starts": 2, "norm_groups": 2, "dconv_attn": 2, "dconv_lstm": 2}
_HT = {
    "channels": 4,
    "nfft": 256,
    "depth": 3,
    "dconv_mode": 3,
    "t_layers": 3,
    "t_heads": 2,
    "dconv_comp": 2,
    "segment": "1/21",
}

# name -> (class in the public package, architecture here, the constructor's arguments but for the sources)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "demucs": ("demucs.demucs.Demucs", "demucs", _D),
    "demucs_plain": (
        "demucs.demucs.Demucs",
        "demucs",
        _D | {"normalize": False, "resample": False, "gelu": False, "dconv_mode": 3, "lstm_layers": 2},
    ),
    "demucs_v2": ("demucs.model.Demucs", "demucs_v2", {"channels": 4, "depth": 3}),
    "demucs_v1": ("demucs.model.Demucs", "demucs_v1", {"channels": 4, "depth": 3}),
    "conv_tasnet": ("demucs.tasnet.ConvTasNet", "conv_tasnet", {"N": 8, "L": 10, "B": 6, "H": 12, "X": 3, "R": 2}),
    "htdemucs": ("demucs.htdemucs.HTDemucs", "htdemucs", _HT | {"bottom_channels": 24}),
    "htdemucs_6s": ("demucs.htdemucs.HTDemucs", "htdemucs", _HT),
    "hdemucs": ("demucs.hdemucs.HDemucs", "hdemucs", _H),
    "hdemucs_amplitude": ("demucs.hdemucs.HDemucs", "hdemucs", _H | {"cac": False}),
    "hdemucs_wiener": ("demucs.hdemucs.HDemucs", "hdemucs", _H | {"cac": False, "wiener_iters": 1, "end_iters": 1}),
    "hdemucs_old": ("demucs.hdemucs.HDemucs", "hdemucs", _H | {"hybrid_old": True}),
    "hdemucs_bands": (
        "demucs.hdemucs.HDemucs",
        "hdemucs",
        _H | {"multi_freqs": [0.25, 0.5], "norm_starts": 3, "dconv_attn": 3, "dconv_lstm": 3, "dconv_mode": 3},
    ),
}


def seeded_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by name and shape, float16 as published: loud enough that every layer shows in the output."""
    state = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        values = values * 1.5 / fan**0.5 if fan else 0.1 * values
        if name.endswith("scale") or ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            values = 0.3 + 3 * abs(values)
        state[name] = torch.from_numpy(values).half()
    return state


def mixture(channels: int = 2, length: int = LENGTH) -> Tensor:
    """Seeded noise with some tones, [1, C, T]."""
    noise = np.random.RandomState(7).standard_normal((1, channels, length))
    tones = np.sin(np.arange(length) * np.array([[0.03], [0.11]])[:channels])
    return torch.from_numpy(0.1 * noise + 0.3 * tones).float()


def arguments(case: str) -> dict[str, Any]:
    """The constructor's arguments as a package holds them."""
    values = {"sources": SOURCES, **CASES[case][2]}
    return {key: Fraction(value) if key == "segment" else value for key, value in values.items()}


def package(path: Path, case: str, state: Mapping[str, Any], **changes: Any) -> Path:
    """Write a package as `demucs.states` does: a dictionary that names its class, saved by torch."""
    content = {"klass": _published_class(CASES[case][0]), "args": (), "kwargs": arguments(case) | changes}
    content |= {"state": dict(state), "training_args": {"epochs": 1, "dset": {"samplerate": 44100}}}
    _save(content, path, case)
    return path


def package_of_version_1(path: Path, case: str, state: Mapping[str, Any], **kwargs: Any) -> Path:
    """Write a file as version 1 did: a tuple in torch's older format. Sources were counted, not named."""
    content = (_published_class(CASES[case][0]), (), {**CASES[case][2], **kwargs}, dict(state))
    _save(content, path, case, _use_new_zipfile_serialization=False)
    return path


def _save(content: Any, path: Path, case: str, **options: Any) -> None:
    try:
        torch.save(content, path, **options)
    finally:
        for module in ("demucs", CASES[case][0].rpartition(".")[0]):
            sys.modules.pop(module, None)


def _published_class(name: str) -> type:
    """A class that pickles under this name, without the package it belongs to."""
    module_name, _, attribute = name.rpartition(".")
    sys.modules.setdefault("demucs", types.ModuleType("demucs"))
    module = sys.modules.setdefault(module_name, types.ModuleType(module_name))
    made = type(attribute, (), {"__module__": module_name})
    setattr(module, attribute, made)
    return made


def build(case: str, stems: list[str] | None = None, **changes: Any) -> SeparationModel:
    """A network of `CASES` with its weights."""
    _, architecture, config = CASES[case]
    model = architecture_class(architecture).from_config({**config, "sources": SOURCES, **changes}, stems or SOURCES)
    model.load_state_dict(published(model), strict=True)
    return model.eval()


def published(model: SeparationModel) -> dict[str, Tensor]:
    """The state of a package of this network."""
    return seeded_state({name: tuple(value.shape) for name, value in model.state_dict().items()})


def write(folder: Path, case: str, **changes: Any) -> Path:
    """A package of a case."""
    return package(folder / f"{case}.th", case, published(build(case)), **changes)


def plain_protocol(
    model: SeparationModel, track: Tensor, length: int, padded: Callable[[int], int], overlap: float = 0.25
) -> Tensor:
    """Normalise, cut, centre, run, weight, add, divide: `demucs.apply` in its simplest words.

    Args:
        model: of any stems.
        track: [C, T].
        length: samples of a segment.
        padded: samples that the model wants to see for a part of that many samples.

    Returns:
        [S, C, T].
    """
    reference = track.mean(0)
    mean, scale = reference.mean(), reference.std() + 1e-8
    normal, total = (track - mean) / scale, track.shape[-1]
    ramp = torch.arange(1, length // 2 + 1, dtype=torch.float32)
    weight = torch.cat([ramp, torch.arange(length - length // 2, 0, -1)]) / (length - length // 2)
    result, weights = torch.zeros(len(model.stems), *track.shape), torch.zeros(total)
    for start in range(0, total, int((1 - overlap) * length)):
        stop = min(start + length, total)
        used = stop - start
        missing = padded(used) - used
        first, last = start - missing // 2, stop + missing - missing // 2
        piece = torch.nn.functional.pad(normal[:, max(0, first) : last], (max(0, -first), max(0, last - total)))
        estimate = model(piece[None])[0][..., missing // 2 : missing // 2 + used]
        result[..., start:stop] += weight[:used] * estimate
        weights[start:stop] += weight[:used]
    return result / weights * scale + mean
