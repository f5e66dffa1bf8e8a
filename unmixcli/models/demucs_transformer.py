"""The transformer between the branches of HTDemucs: each attends itself and, in every other layer, the other one.

See `htdemucs.py`. Attribute names are the published ones, as they are the tensors' names. Attention runs in PyTorch's
fused kernel, which never holds the table of all scores.

Legend: b batch, c channel, n token, h head.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.demucs_blocks import LayerScale
from unmixcli.models.onednn import Linear, attention, linear


@dataclass(frozen=True)
class TransformerSettings:
    """Published settings: number of `layers`, attention `heads`, width of the feed-forward part in multiples of the
    channels, norms at the input and after each layer, longest wavelength and weight of the positions."""

    layers: int
    heads: int
    hidden_scale: float
    norm_in: bool
    norm_out: bool
    max_period: float
    position_weight: float


class CrossTransformer(nn.Module):
    """Tokens of the spectrogram [b, c, f, t] and of the waveform [b, c, t'] in, the same out."""

    def __init__(self, channels: int, s: TransformerSettings) -> None:
        super().__init__()
        self.max_period, self.position_weight = s.max_period, s.position_weight
        self.norm_in: nn.Module = nn.LayerNorm(channels) if s.norm_in else nn.Identity()
        self.norm_in_t: nn.Module = nn.LayerNorm(channels) if s.norm_in else nn.Identity()
        self.layers, self.layers_t = nn.ModuleList(), nn.ModuleList()
        for level in range(s.layers):
            kind = _SelfLayer if level % 2 == 0 else _CrossLayer
            self.layers.append(kind(channels, s))
            self.layers_t.append(kind(channels, s))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        channels, bins, frames = x.shape[1:]
        x = self.norm_in(x.transpose(1, 3).flatten(1, 2))  # [b, (t f), c]
        x = x + self.position_weight * _positions_2d(channels, bins, frames, self.max_period, x.device)
        y = self.norm_in_t(y.transpose(1, 2))
        y = y + self.position_weight * _positions(channels, y.shape[1], self.max_period, y.device)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            x, y = layer(x, y), layer_t(y, x)
        return x.unflatten(1, (frames, bins)).transpose(1, 3), y.transpose(1, 2)


class _Attention(nn.Module):
    """Multi-head attention with the tensors of `nn.MultiheadAttention`."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * channels))
        self.out_proj = Linear(channels, channels)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Both [b, n, c]; values come from the keys."""
        channels = queries.shape[-1]
        if queries is keys:
            parts = linear(queries, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            split = (channels, 2 * channels)
            (wq, wk), (bq, bk) = self.in_proj_weight.split(split), self.in_proj_bias.split(split)
            parts = (linear(queries, wq, bq), *linear(keys, wk, bk).chunk(2, -1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out_proj(attention(q, k, v).transpose(1, 2).flatten(2))


class _TokenNorm(nn.GroupNorm):
    """One mean and deviation over all tokens and channels of an item, [b, n, c]."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        # as a norm over two axes: three times as fast as `var_mean`
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[1:], eps=self.eps), self.weight)


class _Layer(nn.Module):
    """What both kinds share: x + gain · part(norm(x)), then a feed-forward part the same way."""

    def __init__(self, channels: int, s: TransformerSettings) -> None:
        super().__init__()
        hidden = int(channels * s.hidden_scale)
        self.linear1 = Linear(channels, hidden)
        self.linear2 = Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm_out: nn.Module = _TokenNorm(channels) if s.norm_out else nn.Identity()
        self.gamma_1 = LayerScale(channels)
        self.gamma_2 = LayerScale(channels)

    def _fed(self, x: Tensor, normed: Tensor) -> Tensor:
        """x with the feed-forward part of `normed` added."""
        hidden = linear(normed, self.linear1.weight, self.linear1.bias, gelu=True)
        return torch.addcmul(x, self.linear2(hidden), self.gamma_2.scale)


class _SelfLayer(_Layer):
    def __init__(self, channels: int, s: TransformerSettings) -> None:
        super().__init__(channels, s)
        self.self_attn = _Attention(channels, s.heads)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """`other`, the other branch, is not heard."""
        normed = self.norm1(x)
        x = torch.addcmul(x, self.self_attn(normed, normed), self.gamma_1.scale)
        return self.norm_out(self._fed(x, self.norm2(x)))


class _CrossLayer(_Layer):
    def __init__(self, channels: int, s: TransformerSettings) -> None:
        super().__init__(channels, s)
        self.cross_attn = _Attention(channels, s.heads)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        x = torch.addcmul(x, self.cross_attn(self.norm1(x), self.norm2(other)), self.gamma_1.scale)
        return self.norm_out(self._fed(x, self.norm3(x)))


@functools.lru_cache(maxsize=4)
def _positions(channels: int, length: int, max_period: float, device: torch.device) -> Tensor:
    """Positions along one axis, [n, c]: all cosines, then all sines."""
    half = channels // 2
    place = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    phase = place / max_period ** (torch.arange(half, device=device, dtype=torch.float32) / (half - 1))
    return torch.cat([phase.cos(), phase.sin()], -1)


@functools.lru_cache(maxsize=4)
def _positions_2d(channels: int, bins: int, frames: int, max_period: float, device: torch.device) -> Tensor:
    """Positions on a plane, [(t f), c]: half of c for the frame, half for the bin, sines and cosines in turn."""
    half = channels // 2
    rates = max_period ** -(torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)

    def waves(count: int) -> Tensor:
        phase = torch.arange(count, device=device, dtype=torch.float32)[:, None] * rates
        return torch.stack([phase.sin(), phase.cos()], -1).flatten(1)

    times = waves(frames)[:, None].expand(-1, bins, -1)
    places = waves(bins)[None].expand(frames, -1, -1)
    return torch.cat([times, places], -1).flatten(0, 1)
