"""Band masks: a spectrum cut into bands that grow wider with frequency, and convolutions over bands and frames.

The split into bands, each with a layer of its own in and out, is that of "Music Source Separation with Band-Split RNN"
(Luo & Yu, TASLP 2023, arXiv 2209.15174). What joins bands and frames are, instead of recurrent layers, residual blocks
of one convolution, dilated in time, and dense layers across all bands (`AcrossBands`): few large matrix products, which
a CPU does many times faster. Features and masks are those of `mask_network`.

Legend: b batch, s stem, c channel, k feature, f bin, n frame, h hidden, q band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unmixcli.models.mask_network import AcrossBands, FeatureNorm, MaskNetwork, Residual

# How many frames the blocks look to each side, over and over.
_DILATIONS = (1, 2, 4, 8, 16)
# The widest bands are 40 times the narrowest.
_WIDEST = 40.0


class BandMasks(MaskNetwork):
    """See the module and `MaskNetwork`. `level`: frames to each side over which levels are evened out."""

    cpu_workers = True
    defaults: ClassVar[Mapping[str, int]] = {"hidden": 96, "bands": 48, "blocks": 8, "level": 43}

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        blocks = self.read(config)["blocks"]
        dilations = [_DILATIONS[k % len(_DILATIONS)] for k in range(blocks)]
        super().__init__(config, stems, context=sum(dilations), seconds=16.0)
        hidden = self.settings["hidden"]
        self.check((self.settings["bands"] * 4 <= self.bins, "bands are too many for its n_fft"))
        self.widths = band_widths(self.bins, self.settings["bands"])
        self.norm = FeatureNorm(self.features, self.bins)
        self.enter = nn.ModuleList(nn.Conv1d(self.features * width, hidden, 1) for width in self.widths)
        self.blocks = nn.Sequential(
            *(nn.Sequential(Residual(hidden, 1, d), AcrossBands(hidden, len(self.widths), 48)) for d in dilations),
            nn.BatchNorm2d(hidden),
        )
        self.leave = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(2 * hidden, 2 * hidden, 1), nn.ReLU(), nn.Conv1d(2 * hidden, self.logits_per_bin * width, 1)
            )
            for width in self.widths
        )

    def logits(self, features: Tensor) -> Tensor:
        """See `MaskNetwork`."""
        split = self.norm(features).split(self.widths, 2)
        read = torch.stack([layer(band.flatten(1, 2)) for layer, band in zip(self.enter, split, strict=True)], 2)
        hidden = self.blocks(read.to(memory_format=torch.channels_last))
        seen = torch.cat([hidden, read], 1).unbind(2)
        made = [
            layer(band).unflatten(1, (self.logits_per_bin, -1)) for layer, band in zip(self.leave, seen, strict=True)
        ]
        return torch.cat(made, 2)


def band_widths(bins: int, bands: int) -> list[int]:
    """Bins of each band, from low to high: at least 4, growing by a constant ratio from there, `bins` in all."""
    growth = torch.logspace(0, 1, bands, base=_WIDEST, dtype=torch.float64)
    low, high = 0.0, float(bins)
    for _ in range(60):
        scale = (low + high) / 2
        if (growth * scale).round().clamp_min(4).sum() <= bins:
            low = scale
        else:
            high = scale
    widths = [int(width) for width in (growth * low).round().clamp_min(4)]
    widths[-1] += bins - sum(widths)
    return widths
