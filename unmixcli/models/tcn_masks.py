"""TCN masks: dilated convolutions over the frames of a spectrogram, one soft mask per stem, channel and bin.

A small network to learn training with, and a base line for larger ones: it learns within minutes on a CPU. The frames
are read as in "Open-Unmix" (Stöter et al., JOSS 2019: all bins of both channels into one layer, and back), what joins
them in time are the residual blocks of dilated convolutions of "Conv-TasNet" (Luo & Mesgarani, 2019, arXiv 1809.07454),
here full ones instead of separable. Features and masks are those of `mask_network`.

Legend: b batch, s stem, c channel, k feature, f bin, n frame, h hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from unmixcli.models.mask_network import FeatureNorm, MaskNetwork


class _Block(nn.Module):
    """What surrounds a frame, at a distance, added to it. [b, h, n] -> [b, h, n]."""

    def __init__(self, hidden: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation),
            nn.BatchNorm1d(hidden),
            nn.PReLU(hidden),
            nn.Conv1d(hidden, hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = x + self.layers(x)
        return joined


class TCNMasks(MaskNetwork):
    """See the module and `MaskNetwork`. Block k looks 2^k frames to each side."""

    defaults: ClassVar[Mapping[str, int]] = {
        "max_bin": 1487,  # what is read of a spectrum: up to 16 kHz
        "hidden": 256,
        "blocks": 5,
    }

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        blocks = self.read(config)["blocks"]
        super().__init__(config, stems, context=2**blocks - 1)
        self.max_bin = self.settings["max_bin"]
        hidden = self.settings["hidden"]
        self.norm = FeatureNorm(self.features, self.max_bin)
        self.enter = nn.Conv1d(self.features * self.max_bin, hidden, 1)
        self.blocks = nn.Sequential(*(_Block(hidden, 2**k) for k in range(blocks)))
        self.leave = nn.Conv1d(hidden, self.logits_per_bin * self.bins, 1)

    def logits(self, features: Tensor) -> Tensor:
        """See `MaskNetwork`."""
        read = self.norm(features[:, :, : self.max_bin])
        made: Tensor = self.leave(self.blocks(self.enter(read.flatten(1, 2))))
        return made.unflatten(1, (self.logits_per_bin, -1))
