"""Layers in float32 on the CPU by way of oneDNN.

PyTorch hands float32 matrix products to MKL, which does not use the widest instructions of every maker's processors;
oneDNN, which it hands most convolutions to, does. On one core of an AMD EPYC with AVX-512 linear layers reach 240
instead of 107 GFLOP/s, attention takes 0.56 of the fused kernel's time, and 1×1 convolutions of a single segment on
one thread, which PyTorch hands to MKL as well, about half (`docs/benchmarks.md`). The results differ in the last bits.
Elsewhere (other devices and types, autocast, training, a build without oneDNN) PyTorch's own functions run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Scores held at once, in numbers: they are to stay in a core's cache.
_SCORES = 1 << 18


@functools.cache
def _product() -> Callable[..., Tensor] | None:
    """oneDNN's linear layer, which PyTorch keeps for its compiler: (x, weight, bias, activation, scalars, variant)."""
    if not torch.backends.mkldnn.is_available():
        return None
    function: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    try:
        if function is None or function(torch.ones(2, 3), torch.ones(4, 3), None, "none", [], "")[0, 0] != 3:
            return None
    except (RuntimeError, TypeError):  # another signature
        return None
    return lambda x, weight, *others: function(x.contiguous(), _dense(weight), *others)


def _dense(weight: Tensor) -> Tensor:
    """Rows or columns that lie side by side: for anything else oneDNN has a thousand times slower kernel."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def _usable(*tensors: Tensor) -> Callable[..., Tensor] | None:
    first = tensors[0]
    if first.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    if any(tensor.dtype != torch.float32 or tensor.numel() == 0 for tensor in tensors):
        return None
    return _product() if torch.backends.mkldnn.enabled else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and `F.gelu` (the exact one) on it if asked for.

    Args:
        x: [..., i].
        weight: [o, i].
        bias: [o].
    """
    product = _usable(x, weight)
    if product is None:
        result = F.linear(x, weight, bias)
        return F.gelu(result) if gelu else result
    return product(x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def packed(weight: Tensor, rows: int) -> Tensor:
    """A weight laid out for many calls of `linear` with about `rows` rows each, 1.1 times as fast; not to be kept.

    Where `linear` would not go through oneDNN, the weight itself.
    """
    if _usable(weight) is None or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return weight
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return laid_out


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention` without a mask: softmax(q kᵀ / √d) v, in blocks of queries.

    Args:
        queries: [B, H, N, D].
        keys, values: [B, H, M, D].

    Returns:
        [B, H, N, D].
    """
    product = _usable(queries, keys, values)
    if product is None:
        return F.scaled_dot_product_attention(queries, keys, values)
    batch, heads, count, width = queries.shape
    # as [row of scores, ...], each head's part in one piece
    q = (queries * width**-0.5).reshape(-1, count, width)
    k = keys.reshape(-1, *keys.shape[2:]).contiguous()
    v = values.transpose(2, 3).reshape(-1, width, values.shape[2]).contiguous()
    result = torch.empty_like(q)
    block = max(32, min(count, _SCORES // keys.shape[2]))
    for head in range(batch * heads):
        for start in range(0, count, block):
            scores = product(q[head, start : start + block], k[head], None, "none", [], "")
            scores = torch.softmax(scores, -1, out=scores)
            result[head, start : start + block] = product(scores, v[head], None, "none", [], "")
    return result.view(batch, heads, count, width)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Conv1d(nn.Conv1d):
    """`nn.Conv1d` through oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        product = _usable(x, self.weight) if _plain(self) else None
        if product is None or x.dim() != 3:
            return super().forward(x)
        if x.shape[0] == 1 and self.kernel_size == (1,) and self.stride == (1,) and self.groups == 1:
            result = product(self.weight[..., 0], x[0].t(), None, "none", [], "")[None]
            return result if self.bias is None else result.add_(self.bias[:, None])
        return _convolved(self, x[:, :, None], self.weight[:, :, None])[:, :, 0]


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` through oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or not _plain(self) or _usable(x, self.weight) is None:
            return super().forward(x)
        return _convolved(self, x, self.weight)


def _plain(layer: nn.Conv1d | nn.Conv2d) -> bool:
    """Padded with zeros, by numbers."""
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _convolved(layer: nn.Conv1d | nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """[b, i, h, w] -> [b, o, h', w'] with a layer's settings, which may be those of one dimension."""
    padding, stride, dilation = cast("tuple[int, ...]", layer.padding), layer.stride, layer.dilation
    if len(stride) == 1:  # the axis that is missing
        padding, stride, dilation = (0, *padding), (1, *stride), (1, *dilation)
    return torch.mkldnn_convolution(x, weight, layer.bias, padding, stride, dilation, layer.groups)
