"""Blocks that BS-RoFormer and Mel-Band RoFormer share: bands of a spectrogram, transformers over time and over bands.

"Music Source Separation with Band-Split RoPE Transformer" (Lu, Wang, Kong & Hung, ICASSP 2024, arXiv:2309.02612) and
"Mel-Band RoFormer for Music Source Separation" (Wang, Lu & Won, 2023, arXiv:2310.01809). Checked against the public
package `audio-separator` 0.47.1, which holds the code that most checkpoints were trained with. Left out: training, and
the later variants that need other weights (value residuals, hyper-connections, PoPE, refined mask estimators).

A track's piece is held once, [f, t, d], and every layer adds to it in place, a few sequences at a time: their
activations stay in the processor's cache, and memory is that of one piece, whatever the depth. Published weights are
kept as they are, except that the gates' matrix stands below that of queries, keys and values: one product for both.

Legend: f band, t frame, d feature, n sequences, l length of a sequence, h head, c channel of the audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.onednn import attention, linear, packed

Layer = Callable[[Tensor], Tensor]
# Added to a mean square before its root; so small that only silence, which stays silence, is concerned.
_EPSILON = 1e-27
_ROWS_CPU = 2048  # features that pass through a layer at once: with all that they become, some megabytes
_ROWS_OTHER = 1 << 16
_LONG = 256  # positions from which attention by way of oneDNN is the faster one
_LINEAR_SCALE = 8.0  # of the products of keys and queries in attention over features
# What older checkpoints hold beside the weights: all of it follows from the config.
_DERIVED = (
    "freq_indices",
    "freqs_per_band",
    "num_freqs_per_band",
    "num_bands_per_freq",
    "rotary_embed.cached_freqs",
    "rotary_embed.cached_scales",
    "rotary_embed.dummy",
    "rotary_embed.scale",
)


class RMSNorm(nn.Module):
    """x / |x| · √d · gamma over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gamma.shape, self.gamma, _EPSILON)


class Attention(nn.Module):
    """Attention with rotary position embedding ("RoFormer", Su et al., 2021, arXiv:2104.09864) and a gate per head."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.norm = RMSNorm(width)
        self.to_qkv_gates = nn.Linear(width, 3 * inner + heads, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(heads))
        self.to_out = nn.Linear(inner, width, bias=False)
        self.freqs = nn.Parameter(torch.zeros(head_width // 2))  # radians per position

    def prepared(self, length: int) -> Layer:
        """The layer for sequences of `length`, [n, l, d] -> [n, l, d]: what is to be added to its input."""
        angles = torch.arange(length, device=self.freqs.device).outer(self.freqs.float())
        turns = torch.polar(torch.ones_like(angles), angles)[:, None]  # [l, 1, pairs]
        weights = [packed(layer.weight, _ROWS_CPU) for layer in (self.to_qkv_gates, self.to_out)]
        return lambda x: self._attend(x, turns, *weights)

    def _attend(self, x: Tensor, turns: Tensor, to_qkv_gates: Tensor, to_out: Tensor) -> Tensor:
        inner = self.to_out.in_features
        mixed = linear(self.norm(x), to_qkv_gates)
        rotate(mixed[..., : 2 * inner].unflatten(-1, (2 * self.heads, -1)), turns)
        q, k, v = mixed[..., : 3 * inner].unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attend = attention if x.shape[1] >= _LONG else F.scaled_dot_product_attention
        heard = attend(q, k, v).transpose(1, 2)  # [n, l, h, d / h]
        gates = torch.sigmoid(mixed[..., 3 * inner :] + self.gate_bias)
        return linear((heard * gates[..., None]).flatten(2), to_out)


def rotate(x: Tensor, turns: Tensor) -> None:
    """Turn neighbours (a, b) in the last axis as the complex numbers a + ib, in place.

    Args:
        x: [n, l, h, d].
        turns: complex of modulus 1, [l, 1, d / 2].
    """
    pairs = x.unflatten(-1, (-1, 2))
    if x.dtype == torch.float32 and x.device.type == "cpu" and x.stride(1) % 2 == 0:
        torch.view_as_complex(pairs).mul_(turns)
        return
    a, b = pairs.float().unbind(-1)
    real, imaginary = turns.real, turns.imag
    pairs.copy_(torch.stack((a * real - b * imaginary, b * real + a * imaginary), -1))


class LinearAttention(nn.Module):
    """Attention of features to features over all tokens ("XCiT", El-Nouby et al., 2021, arXiv:2106.09681).

    The d/h by d/h products of keys and queries are sums over tokens, so tokens come in blocks, in any order.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def add_to(self, x: Tensor) -> None:
        """x [n, l, d], edited in place: every token is a row, wherever it stands."""
        heads, inner = self.heads, self.to_out.in_features
        products = x.new_zeros(heads, inner // heads, inner // heads)
        squares = x.new_zeros(2, heads, inner // heads)
        for part in blocks(x):
            q, k = linear(self.norm(part).flatten(0, 1), self.to_qkv.weight[: 2 * inner]).float().chunk(2, -1)
            q, k = (y.unflatten(-1, (heads, -1)).permute(1, 2, 0) for y in (q, k))  # [h, d / h, token]
            products += q @ k.transpose(1, 2)
            squares += torch.stack((q.square().sum(-1), k.square().sum(-1)))
        sizes = squares.sqrt().clamp(min=1e-12)
        products /= sizes[0, :, :, None] * sizes[1, :, None]
        weights = torch.softmax(products * self.temperature.exp() * _LINEAR_SCALE, -1)
        for part in blocks(x):
            v = linear(self.norm(part), self.to_qkv.weight[2 * inner :]).unflatten(-1, (heads, -1))
            heard = torch.einsum("hij,nlhj->nlhi", weights.to(v.dtype), v)
            part += linear(heard.flatten(2), self.to_out.weight)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def prepared(self) -> Layer:
        """The layer, [..., d] -> [..., d]: what is to be added to its input."""
        expand, contract = (packed(layer.weight, _ROWS_CPU) for layer in (self.expand, self.contract))

        def feed(x: Tensor) -> Tensor:
            hidden = linear(self.norm(x), expand, self.expand.bias, gelu=True)
            return linear(hidden, contract, self.contract.bias)

        return feed


class Transformer(nn.Module):
    """Layers of attention and feed-forward over sequences [n, l, d], which are edited in place.

    Args:
        width: d.
        depth: layers.
        heads, head_width: of the attention.
        norm_output: the last layer's output is normalised.
        linear_attention: attention of features to features over all sequences instead of positions.
    """

    def __init__(
        self,
        width: int,
        *,
        depth: int,
        heads: int,
        head_width: int,
        norm_output: bool,
        linear_attention: bool = False,
    ) -> None:
        super().__init__()
        kind = LinearAttention if linear_attention else Attention
        self.layers = nn.ModuleList(
            nn.ModuleList([kind(width, heads, head_width), FeedForward(width)]) for _ in range(depth)
        )
        self.norm = RMSNorm(width) if norm_output else None

    def edit(self, x: Tensor) -> None:
        """x [n, l, d], any strides of n and l."""
        for number, pair in enumerate(self.layers):
            attend, feed = cast("tuple[Attention | LinearAttention, FeedForward]", tuple(cast(nn.ModuleList, pair)))
            last = number == len(self.layers) - 1
            steps = [feed.prepared()]
            if isinstance(attend, LinearAttention):
                attend.add_to(x)
            else:
                steps.insert(0, attend.prepared(x.shape[1]))
            for part in blocks(x):
                for step in steps:
                    part += step(part)
                if last and self.norm is not None:
                    part.copy_(self.norm(part))


def blocks(x: Tensor) -> Iterator[Tensor]:
    """Views of a few sequences each of x [n, l, d]."""
    rows = _ROWS_CPU if x.device.type == "cpu" else _ROWS_OTHER
    return iter(x.split(max(1, rows // x.shape[1])))


class BandSplit(nn.Module):
    """A norm and a linear layer for the bins of each band.

    Args:
        width: d.
        sizes: numbers per frame in each band.
    """

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.width = width
        self.to_features = nn.ModuleList(nn.Sequential(RMSNorm(size), nn.Linear(size, width)) for size in sizes)

    def forward(self, bands: Sequence[Tensor]) -> Tensor:
        """Every band's numbers [t, size] -> features [f, t, d]."""
        frames = bands[0].shape[0]
        features = bands[0].new_empty(len(bands), frames, self.width)
        for feature, band, pair in zip(features, bands, self.to_features, strict=True):
            norm, layer = cast("tuple[RMSNorm, nn.Linear]", tuple(cast(nn.Sequential, pair)))
            feature.copy_(linear(norm(band), layer.weight, layer.bias))
        return features


class MaskEstimator(nn.Module):
    """A few linear layers per band from features to a mask.

    Args:
        width: d.
        sizes: numbers per frame in each band.
        layers: linear layers.
        hidden: features between them.
    """

    def __init__(self, width: int, sizes: Sequence[int], *, layers: int, hidden: int) -> None:
        super().__init__()
        self.to_freqs = nn.ModuleList()
        for size in sizes:
            widths = [width, *[hidden] * (layers - 1), 2 * size]
            self.to_freqs.append(nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths)))

    def band(self, number: int, features: Tensor) -> Tensor:
        """The mask of one band, [t, d] -> [t, size]."""
        first, *others = cast("list[nn.Linear]", list(cast(nn.ModuleList, self.to_freqs[number])))
        x = linear(features, first.weight, first.bias)
        for layer in others:
            x = linear(tanh(x), layer.weight, layer.bias)
        return F.glu(x, -1)


def tanh(x: Tensor) -> Tensor:
    """tanh x = 2 σ(2 x) - 1, in place: a fifth of the time of `torch.tanh` on a CPU, 2e-7 off."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.tanh_()
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under the names above; what follows from the config is left out.

    Raises:
        CheckpointError: attention without its gates.
    """
    converted = {}
    for name, tensor in state.items():
        if name.endswith(_DERIVED):
            continue
        if name.endswith(".to_qkv.weight"):
            place = name.removesuffix("to_qkv.weight")
            gates = state.get(f"{place}to_gates.weight")
            if gates is None or gates.dim() != 2 or tensor.dim() != 2 or gates.shape[1] != tensor.shape[1]:
                raise CheckpointError(f"the weights hold no {place}to_gates.weight that fits {name}.")
            converted[f"{place}to_qkv_gates.weight"] = torch.cat((tensor, gates.to(tensor.dtype)))
        elif not name.endswith(".to_gates.weight"):
            converted[_renamed(name)] = tensor
    return converted


def _renamed(name: str) -> str:
    """A published name as ours: layers are not numbered where they have a name."""
    for published, ours in (
        (".to_gates.bias", ".gate_bias"),
        (".to_out.0.weight", ".to_out.weight"),
        (".to_out.1.weight", ".to_out.weight"),
        (".to_qkv.0.weight", ".to_qkv.weight"),
        (".rotary_embed.freqs", ".freqs"),
        (".net.0.gamma", ".norm.gamma"),
    ):
        if name.endswith(published):
            return name.removesuffix(published) + ours
    name = name.replace(".net.1.", ".expand.").replace(".net.4.", ".contract.")
    if name.startswith("mask_estimators."):  # mask_estimators.s.to_freqs.f.0.{0, 2, ...}: every second is a Tanh
        place = name.split(".")
        if len(place) == 7 and place[4] == "0" and place[5].isdigit() and int(place[5]) % 2 == 0:
            name = ".".join((*place[:4], str(int(place[5]) // 2), place[6]))
    return name
