"""U-Net masks: convolutions over bins and frames at several resolutions, with dense layers across the bins at each.

The shape of "Singing Voice Separation with Deep U-Net Convolutional Networks" (Jansson et al., ISMIR 2017) with the
blocks of "Investigating U-Nets with various Intermediate Blocks for Spectrogram-based Singing Voice Separation" (Choi
et al., ISMIR 2020): convolutions and `AcrossBands`. Neighbouring bins are first joined into the channels of a patch, so
that the largest images have few rows, and skipped connections are added, not joined: both for speed on a CPU. Features
and masks are those of `mask_network`.

Legend: b batch, s stem, c channel, k feature, f bin, n frame, h hidden, q patch (row of the image).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.mask_network import AcrossBands, FeatureNorm, MaskNetwork, Residual

# Dilations of the blocks at the lowest resolution.
_DEEP = (1, 2, 4)


def _block(hidden: int, rows: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(Residual(hidden, 3, dilation), AcrossBands(hidden, rows, max(8, rows // 8)))


class UNetMasks(MaskNetwork):
    """See the module and `MaskNetwork`. The channels grow by `growth` with each of `blocks` halvings."""

    defaults: ClassVar[Mapping[str, int]] = {"hidden": 32, "growth": 28, "blocks": 3, "patch": 4, "max_bin": 1536}

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        levels = self.read(config)["blocks"]
        # each level's two convolutions and its way down or up, in frames of its own resolution
        context = sum(6 * 2**k for k in range(levels)) + 2**levels * sum(d + 1 for d in _DEEP)
        super().__init__(config, stems, context=context, multiple=2**levels, seconds=16.0)
        self.max_bin, self.patch = self.settings["max_bin"], self.settings["patch"]
        step = self.patch << levels
        self.check((self.max_bin % step == 0, f"max_bin is {self.max_bin}, expected a multiple of {step}"))
        self.levels = levels
        rows = self.max_bin // self.patch
        sizes = [self.settings["hidden"] + k * self.settings["growth"] for k in range(levels + 1)]
        self.norm = FeatureNorm(self.features, self.max_bin)
        self.enter = nn.Conv2d(self.features * self.patch, sizes[0], 3, padding=1)
        self.encode = nn.ModuleList(_block(sizes[k], rows >> k) for k in range(levels))
        self.down = nn.ModuleList(nn.Conv2d(sizes[k], sizes[k + 1], 2, stride=2) for k in range(levels))
        self.deep = nn.Sequential(*(_block(sizes[-1], rows >> levels, dilation) for dilation in _DEEP))
        self.up = nn.ModuleList(nn.ConvTranspose2d(sizes[k + 1], sizes[k], 2, stride=2) for k in range(levels))
        self.decode = nn.ModuleList(_block(sizes[k], rows >> k) for k in range(levels))
        self.leave = nn.Sequential(
            nn.BatchNorm2d(sizes[0]), nn.ReLU(), nn.Conv2d(sizes[0], self.logits_per_bin * self.patch, 1)
        )

    def logits(self, features: Tensor) -> Tensor:
        """See `MaskNetwork`."""
        frames = features.shape[3]
        read = self.norm(features[:, :, : self.max_bin])
        read = F.pad(read, (0, -frames % (1 << self.levels)))
        image = read.unflatten(2, (-1, self.patch)).transpose(2, 3).flatten(1, 2)  # [b, (k patch), q, n]
        x = self.enter(image.contiguous(memory_format=torch.channels_last))
        skipped = []
        for block, down in zip(self.encode, self.down, strict=True):
            skipped.append(block(x))
            x = torch.relu(down(skipped[-1]))
        x = self.deep(x)
        for block, up, skip in zip(reversed(self.decode), reversed(self.up), reversed(skipped), strict=True):
            x = block(up(x) + skip)
        made: Tensor = self.leave(x).unflatten(1, (self.logits_per_bin, self.patch))
        return made.transpose(2, 3).flatten(2, 3)[..., :frames]
