"""A moving average of the weights: what is measured and kept, while the weights themselves go on jumping about."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from unmixcli.models.base import SeparationModel


class MovingAverage:
    """A copy of a model that follows it slowly; with a decay of 0 it is the model's copy at the last update.

    Args:
        model: the one that is trained; it is not touched.
        decay: of each step. In the first steps it is (1 + n) / (10 + n), so that random initial weights are forgotten.

    Attributes:
        model: the copy, in evaluation mode, without gradients.
    """

    def __init__(self, model: SeparationModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: SeparationModel, updates: int) -> None:
        """Follow the model after its update number `updates` (counted from 1)."""
        if self.decay:
            self._follow(model, min(self.decay, (1 + updates) / (10 + updates)))

    @torch.no_grad()
    def refresh(self, model: SeparationModel) -> None:
        """Be the model's copy, if there is no average (called before the copy is used)."""
        if not self.decay:
            self._follow(model, 0.0)

    def _follow(self, model: SeparationModel, decay: float) -> None:
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(_tensors(self.model), _tensors(model), strict=True):
            if average.is_floating_point() and decay:
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        if averages:
            torch._foreach_lerp_(averages, values, 1 - decay)


def _tensors(model: SeparationModel) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
