"""What networks read for inference share: batch normalisation that is folded to a scale and an offset."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """A batch normalisation in evaluation mode, [b, c, h, w]: a scale and an offset per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.offset = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.offset, x, self.scale)


def channels_last(tensor: Tensor) -> Tensor:
    """A weight or an image in the layout that convolutions on a CPU like best; anything else as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
