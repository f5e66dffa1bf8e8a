"""Weights of VR networks that follow from names and shapes, and the small networks that were recorded."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# name -> (arguments of the public network, config here, bins, frames)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "aspp_31191": ({"nn_architecture": 31191}, {"network": 31191}, 64, 272),
    "aspp_33966": ({"nn_architecture": 33966}, {"network": 33966}, 64, 272),
    "aspp_129605": ({"nn_architecture": 129605}, {"network": 129605}, 64, 288),
    "lstm": ({"nout": 16, "nout_lstm": 32}, {"nout": 16, "nout_lstm": 32}, 64, 160),
}
# layout -> (version 5.1, Hz, hop)
BANDS: dict[str, tuple[bool, int, int]] = {
    "1band_sr44100_hl1024": (False, 44100, 1024),
    "2band_32000": (False, 32000, 352),
    "3band_44100_mid": (False, 44100, 512),
    "3band_44100_msb2": (False, 44100, 432),
    "4band_44100": (False, 44100, 512),
    "4band_v3_sn": (True, 44100, 480),
    "4band_v4_ms_fullband": (True, 44100, 576),
}
# name -> (arguments of the public network, config here, the public name of the first stem)
_NET = {"nout": 8, "nout_lstm": 8}
_PATH = {"layout": "4band_v3", "window": 160, **_NET}
PATHS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "path": (_NET, _PATH | {"aggression": 5}, "Instrumental"),
    "path_plain": (_NET, _PATH | {"aggression": 0}, "Instrumental"),
    "path_vocals": (_NET, _PATH | {"aggression": 5, "instruments": ["vocals", "instrumental"]}, "Vocals"),
}


def every(values: NDArray[Any]) -> NDArray[Any]:
    """Some of the last two axes of a result, as they are stored: waveforms (long) more thinly."""
    step = 37 if values.shape[-1] > 2000 else 5
    return values[..., ::step] if values.shape[-2] == 2 else values[..., ::7, ::step]


def seeded_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by name and shape, such that the masks use most of their range. The two branches that the public code
    lets share their weights get the same ones."""
    state = {}
    for name, shape in shapes.items():
        seed = zlib.crc32(name.replace("aspp.conv7.", "aspp.conv6.").encode())
        values = np.random.RandomState(seed).standard_normal(shape)
        if len(shape) > 1:
            values *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "weight")):
            values = 0.5 + abs(values) / 2
        else:
            values *= 0.1
        state[name] = torch.from_numpy(np.asarray(values, np.float32))
    return state


def magnitudes(bins: int, frames: int) -> Tensor:
    """Seeded magnitudes as a network sees them: mostly small, at most 1. [1, 2, bins + 1, frames]"""
    return torch.from_numpy(np.random.RandomState(3).random_sample((1, 2, bins + 1, frames)) ** 4).float()


def waves(samples: int) -> Tensor:
    """A few tones under seeded noise whose spectrum falls, different in both channels. [1, 2, T]"""
    noise = np.random.RandomState(5).standard_normal((2, samples))
    low = 0.02 * np.cumsum(noise, 1)
    low -= low.mean(1, keepdims=True)
    tones = np.sin(np.arange(samples) * np.array([[0.02, 0.11, 0.7]]).T).sum(0)
    return torch.from_numpy(0.05 * (low / abs(low).max() * 8 + 0.3 * noise + tones))[None].float()


def path_wave() -> Tensor:
    """The mixture of `PATHS`: 1.8 s of `waves`, its first half quiet."""
    wave = waves(480 * 170)
    return wave * torch.where(torch.arange(wave.shape[-1]) < wave.shape[-1] // 2, 0.05, 1.0)
