"""Test-time augmentation: a model's average over inputs that are the same to a listener.

    (f(x) + swap f(swap x) - f(-x)) / 3        swap exchanges left and right

as MSST and UVR do ("TTA"). A model that treats both sides and both polarities alike gives what it gave before; others
gain a little, as errors that differ average out. It costs a pass for each term: three times the time, twice for models
of one channel. Where both channels are equal, as with mono files, swapping them changes nothing and isn't computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unmixcli.models.base import SeparationModel


class Augmented(SeparationModel):
    """A model like the one given, in everything but its estimates."""

    def __init__(self, model: SeparationModel) -> None:
        super().__init__()
        self.model = model
        for name in SeparationModel.__annotations__:
            setattr(self, name, getattr(model, name))
        self.train(model.training)

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`."""
        return self.model.context(used)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        total: Tensor = self.model(mixture)
        count = 2
        if mixture.shape[1] == 2:
            count = 3
            if torch.equal(mixture[:, 0], mixture[:, 1]):
                total = total + total.flip(2)
            else:
                total = total + self.model(mixture.flip(1)).flip(2)
        total = total - self.model(-mixture)
        return total / count
