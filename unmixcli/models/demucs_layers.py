"""Encoder and decoder layers of the hybrid networks (HDemucs, HTDemucs), for one branch or for frequency bands.

See `hdemucs.py` for the paper. A layer of the frequency branch works on [b, c, f, t] and convolves along f, one of the
time branch on [b, c, t]. Attribute names are the published ones, as they are the tensors' names.

Legend: b batch, c channel of the network, f bin, t frame or sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.demucs_blocks import DConv, group_norm
from unmixcli.models.onednn import Conv1d, Conv2d

# Numbers that go through a residual block at once on each thread of the CPU.
_CACHED = 1 << 18


@dataclass(frozen=True)
class LayerSettings:
    """What the layers of one level have in common.

    Attributes:
        kernel, stride: of the convolution, along frequency or time.
        frequency: a layer of the frequency branch that still has more than one bin.
        padded: the convolution is padded by a quarter of its kernel (and the decoder's output cropped by it).
        norm: there are group norms, of `groups` groups.
        compress, depth, lstm, attention: of the residual blocks (`DConv`).
        context: frames that the decoder's 1×1 convolution sees on each side; context_encoder: the encoder's.
        square: in the frequency branch that context reaches over bins as well.
    """

    kernel: int
    stride: int
    frequency: bool
    padded: bool
    norm: bool
    groups: int
    compress: float
    depth: int
    lstm: bool
    attention: bool
    context: int
    context_encoder: int
    square: bool = True

    @property
    def padding(self) -> int:
        return self.kernel // 4 if self.padded else 0


class EncoderLayer(nn.Module):
    """Convolution with a stride, residual blocks, gated 1×1 convolution.

    Args:
        inputs, outputs: channels.
        residual: with residual blocks.
        empty: only the convolution: a time branch that ends in the frequency branch.
    """

    def __init__(self, inputs: int, outputs: int, s: LayerSettings, *, residual: bool, empty: bool = False) -> None:
        super().__init__()
        self.frequency = s.frequency
        self.stride = s.stride
        self.empty = empty
        if s.frequency:
            self.conv: nn.Module = Conv2d(inputs, outputs, (s.kernel, 1), (s.stride, 1), (s.padding, 0))
        else:
            self.conv = Conv1d(inputs, outputs, s.kernel, s.stride, s.padding)
        if empty:
            return
        self.norm1 = group_norm(outputs, s.groups, s.norm)
        width = 1 + 2 * s.context_encoder
        kind = Conv2d if s.frequency else Conv1d
        self.rewrite = kind(outputs, 2 * outputs, width, 1, s.context_encoder)
        self.norm2 = group_norm(2 * outputs, s.groups, s.norm)
        self.dconv = _residual(outputs, s) if residual else None

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """x [b, c, f, t] or [b, c, t]; `inject` is the time branch's end, added to the convolution's output."""
        if not self.frequency:
            x = x.flatten(1, 2) if x.dim() == 4 else x
            x = F.pad(x, (0, -x.shape[-1] % self.stride))
        y = self.conv(x)
        if self.empty:
            return y
        if inject is not None:
            y = y + (inject[:, :, None] if y.dim() == 4 else inject)
        y = self.norm1(y)
        if y.dim() == 4 and self.rewrite.kernel_size == (1, 1) and isinstance(self.norm2, nn.Identity):
            return _by_bins(self._rest, y)  # nothing mixes the bins
        y = F.gelu(y)
        if self.dconv is not None:
            y = _by_bins(self.dconv, y) if y.dim() == 4 else self.dconv(y)
        return F.glu(self.norm2(self.rewrite(y)), 1)

    def _rest(self, x: Tensor) -> Tensor:
        """What follows the convolution, for bins [n, c, t]."""
        y = F.gelu(x)
        if self.dconv is not None:
            y = self.dconv(y)
        return F.glu(self.rewrite(y[:, :, None])[:, :, 0], 1)


class DecoderLayer(nn.Module):
    """The way back: gated convolution, residual blocks, transposed convolution.

    Args:
        inputs, outputs: channels.
        residual: with residual blocks.
        empty: only the transposed convolution: where the time branch begins again.
        last: the outermost layer, without activation.
    """

    def __init__(
        self, inputs: int, outputs: int, s: LayerSettings, *, residual: bool, empty: bool = False, last: bool = False
    ) -> None:
        super().__init__()
        self.frequency = s.frequency
        self.padding = s.padding
        self.inputs = inputs
        self.empty = empty
        self.last = last
        if s.frequency:
            self.conv_tr: nn.Module = nn.ConvTranspose2d(inputs, outputs, (s.kernel, 1), (s.stride, 1))
        else:
            self.conv_tr = nn.ConvTranspose1d(inputs, outputs, s.kernel, s.stride)
        self.norm2 = group_norm(outputs, s.groups, s.norm)
        if empty:
            return
        width = 1 + 2 * s.context
        if not s.frequency:
            self.rewrite: nn.Module = Conv1d(inputs, 2 * inputs, width, 1, s.context)
        elif s.square:
            self.rewrite = Conv2d(inputs, 2 * inputs, width, 1, s.context)
        else:
            self.rewrite = Conv2d(inputs, 2 * inputs, (1, width), 1, (0, s.context))
        self.norm1 = group_norm(2 * inputs, s.groups, s.norm)
        self.dconv = _residual(inputs, s) if residual else None

    def forward(self, x: Tensor, skip: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """The layer's output, cropped to `length` frames in the time branch, and what went into the transposed
        convolution (where an empty time layer starts)."""
        y = self.before(x, skip)
        z = self.norm2(self.conv_tr(y))
        if not self.frequency:
            z = z[..., self.padding : self.padding + length]
        elif self.padding:
            z = z[..., self.padding : -self.padding, :]
        return (z if self.last else F.gelu(z)), y

    def before(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Everything before the transposed convolution."""
        if self.frequency and x.dim() == 3:
            x = x.unflatten(1, (self.inputs, -1))
        if self.empty:
            return x
        y = self.norm1(self.rewrite(x if skip is None else x + skip))
        return _by_bins(self._gated, y) if y.dim() == 4 else self._gated(y)

    def _gated(self, x: Tensor) -> Tensor:
        y = F.glu(x, 1)
        return y if self.dconv is None else self.dconv(y)


def _residual(channels: int, s: LayerSettings) -> DConv:
    return DConv(channels, compress=s.compress, depth=s.depth, lstm=s.lstm, attention=s.attention)


def _by_bins(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A block of [n, c, t] on each bin of [b, c, f, t] by itself. On the CPU a few bins at a time go through all of it,
    so that what is between its layers stays in the cache."""
    batch, channels, bins, frames = x.shape
    if x.device.type != "cpu":
        return block(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, bins)).transpose(1, 2)
    few = max(1, torch.get_num_threads() * _CACHED // (channels * frames))
    result: Tensor | None = None
    for item in range(batch):
        for start in range(0, bins, few):
            done = block(x[item, :, start : start + few].transpose(0, 1).contiguous())
            if result is None:
                result = x.new_empty(batch, done.shape[1], bins, done.shape[2])
            result[item, :, start : start + few] = done.transpose(0, 1)
    assert result is not None
    return result


# ---------------------------------------------------------------- bands


class BandedEncoder(nn.Module):
    """An encoder layer of its own for each frequency band.

    Args:
        ratios: where the bands meet, as fractions of the bins.
    """

    def __init__(
        self, inputs: int, outputs: int, s: LayerSettings, ratios: tuple[float, ...], *, residual: bool
    ) -> None:
        super().__init__()
        self.ratios = ratios
        self.kernel, self.stride, self.padding = s.kernel, s.stride, s.padding
        self.empty = False
        bare = replace(s, padded=False)
        self.layers = nn.ModuleList(
            EncoderLayer(inputs, outputs, bare, residual=residual) for _ in range(len(ratios) + 1)
        )

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[b, c, f, t] -> [b, c', f / stride, t]; the bands have no branch to merge with."""
        bins = x.shape[2]
        start = 0
        bands = []
        for number, (ratio, layer) in enumerate(zip((*self.ratios, 1.0), self.layers, strict=True)):
            first, last = number == 0, number == len(self.ratios)
            if last:
                stop = bins
            else:
                # a whole number of strided frames, given the padding at the low end of the first band
                stop = round(bins * ratio)
                room = stop - start + (self.padding if first else 0)
                frames = round((room - self.kernel) / self.stride + 1)
                stop = start + (frames - 1) * self.stride + self.kernel - (self.padding if first else 0)
            band = F.pad(x[:, :, start:stop], (0, 0, self.padding if first else 0, self.padding if last else 0))
            bands.append(layer(band))
            start = stop - self.kernel + self.stride
        return torch.cat(bands, 2)


class BandedDecoder(nn.Module):
    """A decoder layer of its own for each frequency band; neighbours overlap by the kernel less the stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        s: LayerSettings,
        ratios: tuple[float, ...],
        *,
        residual: bool,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.ratios = ratios
        self.stride, self.padding, self.overlap = s.stride, s.padding, s.kernel - s.stride
        self.empty, self.last = False, last
        bare = replace(s, padded=False, square=False)
        self.layers = nn.ModuleList(
            DecoderLayer(inputs, outputs, bare, residual=residual, last=True) for _ in range(len(ratios) + 1)
        )

    def forward(self, x: Tensor, skip: Tensor | None, length: int) -> tuple[Tensor, Tensor]:
        """See `DecoderLayer`."""
        if skip is not None:
            x = x + skip
        bins = x.shape[2]
        cuts = [0, *(round(bins * ratio) for ratio in self.ratios), bins]
        joined: Tensor | None = None
        for layer, start, stop in zip(self.layers, cuts, cuts[1:], strict=False):
            band, _ = layer(x[:, :, start:stop], None, length)
            if joined is None:
                joined = band
                continue
            assert isinstance(layer, DecoderLayer)
            # both neighbours brought their bias
            shared = joined[:, :, -self.overlap :] + band[:, :, : self.overlap]
            shared = shared - layer.conv_tr.bias.view(1, -1, 1, 1)  # type: ignore[operator]
            joined = torch.cat([joined[:, :, : -self.overlap], shared, band[:, :, self.overlap :]], 2)
        assert joined is not None
        if self.padding:
            joined = joined[:, :, self.padding : -self.padding]
        return (joined if self.last else F.gelu(joined)), x
