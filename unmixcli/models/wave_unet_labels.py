"""Telling a Wave-U-Net which instruments play: a vector of labels z that joins a feature map h in one of its layers.

"End-to-End Sound Source Separation Conditioned on Instrument Labels" (Slizovskaia, Kim, Haro & Gómez, ICASSP 2019,
arXiv:1811.01850; code `Veleslavia/vimss`, GPL-3, read and not copied). Its published network multiplies the map at the
bottom with each label and stacks the products ("stack"); the paper names three more forms and three places:

    concat          [h; z over all samples]     H + K channels
    additive        h + A z
    multiplicative  h · (m + M z)
    stack           [h z_1; … h z_K]            H K channels, h the slower index

    before      the waveform that goes in
    bottleneck  the map at the bottom
    after       the last map before the outputs

A and M begin as zeros and m as ones: without training, a network that is told nothing new. The published code spreads
z over batch and time in an order that mixes them up unless all labels of a batch are equal; here each item has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError

CONDITIONINGS = ("concat", "additive", "multiplicative", "stack")
PLACES = ("before", "bottleneck", "after")
# Mean square under which a source counts as silent in an excerpt: -80 dBFS.
_SILENCE = 1e-8


class Conditioning(nn.Module):
    """See the module: [b, h, t] -> [b, h', t].

    Args:
        kind: one of `CONDITIONINGS`.
        width: H, channels of the map.
        labels: which of the sources play, by their number.
        sources: K.
    """

    labels: Tensor

    def __init__(self, kind: str, width: int, labels: Sequence[int], sources: int) -> None:
        super().__init__()
        self.kind = kind
        self.channels = {"concat": width + sources, "stack": width * sources}.get(kind, width)
        if kind in ("additive", "multiplicative"):
            self.weight = nn.Parameter(torch.zeros(width, sources))
        if kind == "multiplicative":
            self.gain = nn.Parameter(torch.ones(width))
        chosen = torch.tensor([[1.0 if number in labels else 0.0 for number in range(sources)]])
        self.register_buffer("labels", chosen, persistent=False)
        self._heard: Tensor | None = None  # not a buffer: it has a batch's shape, and averages of weights copy those

    def listen(self, references: Tensor) -> None:
        """Take the labels of the next pass from what sounds: [B, K, C, T]."""
        self._heard = (references.flatten(2).square().mean(-1) > _SILENCE).to(self.labels)

    def forward(self, h: Tensor) -> Tensor:
        heard, self._heard = self._heard, None
        z = self.labels.expand(len(h), -1) if heard is None else heard
        if self.kind == "concat":
            return torch.cat([h, z[:, :, None].expand(-1, -1, h.shape[-1])], 1)
        if self.kind == "stack":
            return (h[:, :, None] * z[:, None, :, None]).flatten(1, 2)
        change = (z @ self.weight.t())[:, :, None]
        return h + change if self.kind == "additive" else h * (self.gain[:, None] + change)


def read_labels(config: Mapping[str, Any], sources: Sequence[str]) -> list[int]:
    """Numbers of the sources that `labels` in a config names; all of them where it names none.

    Raises:
        CheckpointError: a name that isn't a source, or labels for a network that takes none.
    """
    labels = config.get("labels", ())
    if not isinstance(labels, (list, tuple)) or not all(isinstance(name, str) for name in labels):
        raise CheckpointError(f"wave_unet's labels are {labels!r}, expected a list of names.")
    if unknown := [name for name in labels if name not in sources]:
        raise CheckpointError(
            f"wave_unet knows no {', '.join(unknown)}; the instruments that it knows: {', '.join(sources)}."
        )
    if labels and config.get("conditioning", "none") == "none":
        raise CheckpointError("this wave_unet is not conditioned on labels, and labels were given.")
    return [sources.index(name) for name in labels] or list(range(len(sources)))
