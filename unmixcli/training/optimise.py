"""Optimisers of the recipe's names, and the learning rate over a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from unmixcli.models.base import SeparationModel
from unmixcli.training.recipe import OptimiserSection, ScheduleSection


def make_optimiser(model: SeparationModel, section: OptimiserSection) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters.

    Biases and gains (tensors of one dimension) are not decayed: pulling them to zero regularises nothing.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate = float(section.learning_rate or 0.0)
    if section.kind == "lbfgs":
        return torch.optim.LBFGS(
            parameters,
            lr=rate,
            max_iter=section.iterations,
            history_size=section.history,
            line_search_fn="strong_wolfe",
        )
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    first, second = section.betas
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=(first, second))


class Schedule:
    """The factor on the learning rate.

    Args:
        section: kind and numbers.
    """

    def __init__(self, section: ScheduleSection) -> None:
        self.section = section
        self.height = 1.0  # after the falls so far (plateau)
        self._best = -math.inf
        self._waited = 0

    def factor(self, step: int, progress: float) -> float:
        """The factor for a step.

        Args:
            step: counted from 0.
            progress: how much of the run is over, 0 to 1.
        """
        rise = min(1.0, (step + 1) / self.section.warmup) if self.section.warmup else 1.0
        if self.section.kind == "cosine":
            floor = self.section.floor
            return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))))
        return rise * self.height

    def observe(self, score: float) -> None:
        """A validation score (higher is better; NaN is never better)."""
        if score > self._best:
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self.section.kind == "plateau" and self._waited >= self.section.patience:
            self.height, self._waited = max(self.section.floor, self.height * self.section.factor), 0

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on."""
        return {"height": self.height, "best": self._best, "waited": self._waited}

    def load(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.height, self._best, self._waited = float(state["height"]), float(state["best"]), int(state["waited"])
