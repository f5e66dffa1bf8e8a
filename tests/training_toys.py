"""A tiny network and sounds that it can learn to tell apart; `python training_toys.py ARGS` is `unmix` with it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unmixcli.models import ARCHITECTURES
from unmixcli.models.base import SeparationModel
from unmixcli.spectrum import istft, stft
from unmixcli.training.recipe import Recipe, parse_recipe
from unmixcli.training.sources import Sources
from unmixcli.training.validation import Passage

RATE = 8000
STEMS = ("vocals", "other")
N_FFT, HOP = 128, 64


class Tiny(SeparationModel):
    """Masks of each frame by itself, which add to one. Config: hidden, dropout."""

    sample_rate = RATE
    segment_length = RATE
    edge = N_FFT
    trainable = True

    def __init__(self, stems: Sequence[str], hidden: int = 16, dropout: float = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        self.stems = tuple(stems)
        bins = N_FFT // 2 + 1
        self.layers = nn.Sequential(
            nn.Linear(bins, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, bins * len(stems))
        )
        self.norm = nn.BatchNorm1d(bins)
        self.norm.running_mean += offset

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Tiny:
        return cls(stems, **config)

    def forward(self, mixture: Tensor) -> Tensor:
        return self.training_outputs(mixture, {"waveforms"})["waveforms"]

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        time.sleep(float(os.environ.get("TOY_DELAY", "0")) * self.training)
        x = stft(mixture, N_FFT, HOP)  # [B, C, F, N]
        loud = self.norm((x.abs().mean(1) + 1e-3).log())
        logits = self.layers(loud.transpose(1, 2)).unflatten(-1, (len(self.stems), -1))  # [B, N, S, F]
        spectra = logits.softmax(2).permute(0, 2, 3, 1)[:, :, None] * x[:, None]
        outputs = {"spectra": spectra}
        if "waveforms" in wanted:
            outputs["waveforms"] = istft(spectra, N_FFT, HOP, mixture.shape[-1])
        return outputs

    def training_spectra(self, waves: Tensor) -> Tensor:
        return stft(waves, N_FFT, HOP)


class Plain(Tiny):
    """The same without spectra to offer."""

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        return {"waveforms": super().training_outputs(mixture, {"waveforms"})["waveforms"]}

    def training_spectra(self, waves: Tensor) -> None:
        return None


def register() -> None:
    ARCHITECTURES["tiny"] = f"{__name__}:Tiny"
    ARCHITECTURES["plain_tiny"] = f"{__name__}:Plain"


def stems_of(index: int, length: int) -> NDArray[np.float32]:
    """A low tone and high noise, [S, 2, length]; numbers other than `index` sound otherwise."""
    rng = np.random.default_rng([7, index])
    t = np.arange(length) / RATE
    tone = 0.4 * np.sin(2 * np.pi * rng.uniform(200, 900) * t + rng.uniform(0, 6))
    noise = np.diff(rng.standard_normal((2, length + 2)), n=2) * 0.1
    return np.stack([np.stack([tone, tone]), noise]).astype(np.float32)


class Items:
    """Excerpts by number."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"stems": torch.from_numpy(stems_of(index, self.length))}


def _passage(number: int) -> Passage:
    def read() -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        stems = stems_of(1_000_000 + number, RATE)
        return stems.sum(0), dict(zip(STEMS, stems, strict=True))

    return Passage(f"passage {number}", RATE, read)


def sources(recipe: Recipe, model: SeparationModel) -> Sources:
    """Instead of folders."""
    length = round(recipe.data.seconds * RATE)
    return Sources(Items(length), [_passage(number) for number in range(2)], fingerprint="toys")


def recipe(**sections: Any) -> Recipe:
    """A recipe of a few quick steps, sections laid over it."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"architecture": "tiny", "stems": list(STEMS)},
        "data": {"seconds": 0.25},
        "loss": [{"kind": "l1", "on": "waveform"}],
        "training": {"steps": 8, "batch_size": 2, "log_every": 2, "ema": 0.9},
        "optimiser": {"learning_rate": 0.01},
        "validation": {"steps": 4},
    }
    for name, section in sections.items():
        merged = isinstance(section, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **section} if merged else section
    return parse_recipe(values)


def songs(folder: Path, count: int = 3, seconds: float = 2.0) -> Path:
    """Track folders with the same sounds."""
    for number in range(count):
        place = folder / f"song{number}"
        place.mkdir(parents=True)
        for name, samples in zip(STEMS, stems_of(number, round(seconds * RATE)), strict=True):
            soundfile.write(place / f"{name}.wav", samples.T, RATE)
    return folder


if __name__ == "__main__":
    from unmixcli.cli import main

    ARCHITECTURES["tiny"] = "training_toys:Tiny"
    main()
