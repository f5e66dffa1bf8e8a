"""Small networks of the Demucs family with weights that follow from a seed, and packages of them as published."""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCES = ["drums", "vocals"]
LENGTH = 2100

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
        if name.endswith("scale") or ("norm" in name and name.endswith("weight")):
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
    try:
        torch.save(content, path)
    finally:
        for module in ("demucs", CASES[case][0].rpartition(".")[0]):
            sys.modules.pop(module, None)
    return path


def _published_class(name: str) -> type:
    """A class that pickles under this name, without the package it belongs to."""
    module_name, _, attribute = name.rpartition(".")
    sys.modules.setdefault("demucs", types.ModuleType("demucs"))
    module = sys.modules.setdefault(module_name, types.ModuleType(module_name))
    made = type(attribute, (), {"__module__": module_name})
    setattr(module, attribute, made)
    return made
