"""Models small enough to see through, for tests of everything around a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.models.base import SeparationModel

Samples = NDArray[np.float32]


class Identity(SeparationModel):
    """One stem: the mixture itself."""

    stems = ("all",)
    segment_length = 4410
    edge = 150
    overlap = 0.25
    has_weights = False

    def forward(self, mixture: Tensor) -> Tensor:
        return mixture.unsqueeze(1).clone()


class Halves(SeparationModel):
    """Two stems that leave a fifth of the mixture over, and see `edge` samples to each side (a moving average)."""

    stems = ("vocals", "other")
    segment_length = 5000
    edge = 250
    overlap = 0.25
    has_weights = False

    def forward(self, mixture: Tensor) -> Tensor:
        kernel = torch.ones(self.channels, 1, 2 * self.edge + 1) / (2 * self.edge + 1)
        padded = torch.nn.functional.pad(mixture, (self.edge, self.edge))
        smooth = torch.nn.functional.conv1d(padded, kernel.to(mixture), groups=self.channels)
        return torch.stack((smooth, 0.8 * mixture - smooth), dim=1)


class Gains(SeparationModel):
    """Each stem is the input times a factor; rate, channels and segment as the config says."""

    has_weights = False
    built: ClassVar[list[str]] = []  # labels, in the order of building

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.factors = {stem: config["gains"][stem] for stem in stems}
        self.stems = tuple(stems)
        for name in ("sample_rate", "channels", "segment_length", "edge", "overlap", "normalization"):
            if name in config:
                setattr(self, name, config[name])

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Gains:
        Gains.built.append(str(config.get("label", "")))
        return cls(config, stems)

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([factor * mixture for factor in self.factors.values()], dim=1)


class Stream:
    """An array as a pipeline source that comes in blocks of given lengths, in turn."""

    def __init__(
        self, samples: Samples, sample_rate: int, lengths: tuple[int, ...] = (1000,), layout: str | None = None
    ) -> None:
        self.samples = samples
        self.sample_rate = sample_rate
        self.channels = samples.shape[0]
        self.channel_layout = layout
        self.duration = samples.shape[1] / sample_rate
        self.name = "test"
        self.lengths = lengths

    def blocks(self) -> Iterator[Samples]:
        position, turn = 0, 0
        while position < self.samples.shape[1]:
            length = self.lengths[turn % len(self.lengths)]
            yield self.samples[:, position : position + length]
            position, turn = position + length, turn + 1
