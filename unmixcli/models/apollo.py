"""Apollo: what a lossy codec took away, put back by attention over 80 bands and convolutions over time.

"Apollo: Band-sequence Modeling for High-Quality Music Restoration in Compressed Audio" (Li & Luo, ICASSP 2025,
arXiv:2409.08514). Checked against the public package `msst` 0.1.0, which holds the authors' code. Left out: training.

The network writes a new spectrum, so that its one stem is the mixture repaired, not a part of it (`restores`). It hears
one channel at a time: this model has one channel, and the pipeline hands it each by itself.

The authors' program runs a file as one piece. Nothing in the network reaches further than three convolutions of seven
frames in every layer, so segments with that much context on both sides (`edge`, 0.55 s as published) give the same as
the whole file, up to rounding, wherever they are cut. Other programs cross-fade segments of 3 s without such context;
`num_overlap` of their files is not needed. Every segment is at least `_SEGMENT_EDGES` edges long, whatever `chunk_size`
says: shorter ones only compute more. The end is cut from whole frames: the published transform divides the last
samples of other lengths by a window that is nearly zero there.

A segment's features are held once, [f, t, d], and every layer adds to them in place, a few sequences at a time, as in
`roformer.py`. Legend: f band, t frame, d feature, w bins of a band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models import onednn
from unmixcli.models.base import SeparationModel
from unmixcli.models.roformer import blocks, rotate
from unmixcli.models.settings import read_settings, require, without_memory
from unmixcli.models.spectrogram import OverlapAdd, frame_count, spectra

BANDS = 80  # all but the last of one width
HEADS = 8
_KERNEL = 7  # frames
_BLOCKS = 3  # convolutions over time in a layer
_THETA = 10000.0  # the slowest rotation is so many times slower than the quickest
_EPSILON = 1e-5  # of the norms
_POWER_EPSILON = torch.finfo(torch.float32).eps  # of a band's power
_SEGMENT_EDGES = 18  # the edges are then a ninth of a segment
_ROWS_CPU = 2048  # see `roformer.py`

_DEFAULTS: dict[str, Any] = {
    "sr": 44100,
    "win": 20,  # milliseconds
    "feature_dim": 256,
    "layer": 6,
    "chunk_size": 132300,
    "num_overlap": 4,
    "normalize": False,
}
_READ_HERE = frozenset({"instruments", "target_instrument"})
_IGNORED = frozenset({"sample_rate", "num_channels", "min_mean_abs", "batch_size", "dim_t"})


class Apollo(SeparationModel):
    """See the module."""

    channels = 1
    overlap = 0.0
    edge_padding = "none"
    covers_mixture = False
    restores = True
    cpu_workers = True  # as for the RoFormers, whose layers are alike: blocks of some megabytes in a core's cache
    window: Tensor
    narrow: _Bands
    wide: _Bands
    layers: nn.ModuleList

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        values = _read(config)
        output = _output(config, stems)
        if list(stems) != [output]:
            raise CheckpointError(f"these weights have no stem {', '.join(stems)}; they give {output}.")
        self.stems = (output,)
        n_fft = values["sr"] * values["win"] // 1000
        self.sample_rate, self.hop = values["sr"], n_fft // 2
        self.segment_multiple = self.hop
        # the convolutions' reach, and a frame's own
        self.edge = (values["layer"] * _BLOCKS * (_KERNEL // 2) + 1) * self.hop
        length = max(values["chunk_size"], _SEGMENT_EDGES * self.edge)
        self.segment_length = length // self.hop * self.hop
        self.normalization = "track" if values["normalize"] else "none"
        parts = without_memory(lambda: _Parts(n_fft, values["feature_dim"], values["layer"]))
        for name, part in parts.named_children():
            setattr(self, name, part)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Apollo:
        """See `SeparationModel`. Keys: those of a published yaml's `model` section, `chunk_size`, `num_overlap` (not
        needed), `normalize`, `instruments`, `target_instrument`."""
        return cls(config, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The authors' package says nothing of the network but its class, which has one output."""
        return {"sources": ["restored"], **config}

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published tensors, with those of bands of one width in one, and all queries before all keys and values.

        Raises:
            CheckpointError: a band's tensors are missing or have another shape than its neighbours'.
        """
        values, state = _read(config), dict(super().convert_state(config, states))
        converted: dict[str, Tensor] = {}
        for name, bands in (("narrow", range(BANDS - 1)), ("wide", range(BANDS - 1, BANDS))):
            for published, ours in _OF_BANDS:
                tensors = [state.pop(published.format(band), None) for band in bands]
                found = [tensor.squeeze(-1) for tensor in tensors if tensor is not None]
                if len(found) < len(bands) or any(tensor.shape != found[0].shape for tensor in found):
                    raise CheckpointError(f"the weights do not fit: {published.format('N')} is missing or misshapen.")
                converted[f"{name}.{ours}"] = torch.stack(found)
        for layer in range(values["layer"]):
            for published, ours in _OF_A_LAYER:
                tensor = state.pop(f"net.{layer}.{published}", None)
                if tensor is not None:
                    converted[f"layers.{layer}.{ours}"] = _plain(ours, tensor)
            for table in ("cos_freq", "sin_freq"):  # of the rotation, computed here
                state.pop(f"net.{layer}.band_net.{table}", None)
        return {**converted, **state}  # what nobody knows is refused with the rest

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, 1, T] -> the mixture repaired, [B, 1, 1, T]."""
        length, n_fft = mixture.shape[-1], 2 * self.hop
        heard = F.pad(mixture[:, 0], (0, max(0, n_fft - length)))
        # mirrored at both ends, to whole hops
        padded = F.pad(heard, (self.hop, self.hop + -heard.shape[-1] % self.hop), mode="reflect")
        frames = frame_count(padded.shape[-1], n_fft, self.hop)
        added = OverlapAdd((len(mixture), 1, 1), frames, self.window, self.hop)
        for item, signal in enumerate(padded):
            added.add((item, 0, 0), self._restored(spectra(signal, self.window, self.hop)), 0)
        return added.signal(self.hop, length)

    def _restored(self, z: Tensor) -> Tensor:
        """A spectrogram to a new one, complex [t, bins] -> the same."""
        cut = self.narrow.bins
        x = torch.cat((self.narrow.split(z[:, :cut]), self.wide.split(z[:, cut:])))
        for layer in self.layers:
            cast(_Layer, layer).edit(x)
        return torch.cat((self.narrow.join(x[:-1]), self.wide.join(x[-1:])), 1)


class _Parts(nn.Module):
    def __init__(self, n_fft: int, features: int, layers: int) -> None:
        super().__init__()
        width = n_fft // (2 * BANDS)
        self.narrow = _Bands(BANDS - 1, width, features)
        self.wide = _Bands(1, n_fft // 2 + 1 - (BANDS - 1) * width, features)
        self.layers = nn.ModuleList(_Layer(features) for _ in range(layers))


class _Bands(nn.Module):
    """The way into the network and out of it for bands of one width: a norm and a linear layer for each.

    Args:
        count: f.
        width: w, bins.
        features: d.
    """

    def __init__(self, count: int, width: int, features: int) -> None:
        super().__init__()
        self.bins, self.width = count * width, width
        numbers = 2 * width + 1
        self.split_norm = nn.Parameter(torch.ones(count, numbers))
        self.split_weight = nn.Parameter(torch.zeros(count, features, numbers))
        self.split_bias = nn.Parameter(torch.zeros(count, features))
        self.join_norm = nn.Parameter(torch.ones(count, features))
        self.join_weight = nn.Parameter(torch.zeros(count, 4 * width, features))
        self.join_bias = nn.Parameter(torch.zeros(count, 4 * width))

    def split(self, z: Tensor) -> Tensor:
        """Every band's bins, scaled to a power of one, and the power's logarithm: complex [t, f * w] -> [f, t, d]."""
        bins = torch.view_as_real(z).unflatten(1, (-1, self.width))  # [t, f, w, 2]
        power = (bins.square().sum((2, 3)) + _POWER_EPSILON).sqrt()[..., None]
        numbers = torch.cat(((bins / power[..., None]).transpose(2, 3).flatten(2), power.log()), 2)
        return _linear(_normal(numbers.transpose(0, 1), self.split_norm), self.split_weight, self.split_bias)

    def join(self, x: Tensor) -> Tensor:
        """[f, t, d] -> complex [t, f * w]."""
        y = F.glu(_linear(_normal(x, self.join_norm), self.join_weight, self.join_bias), -1)
        pairs = y.float().unflatten(2, (2, self.width)).permute(1, 0, 3, 2).contiguous()  # [t, f, w, 2]
        return torch.view_as_complex(pairs).flatten(1)


def _normal(x: Tensor, weight: Tensor) -> Tensor:
    """x / rms(x) over the last axis, with a weight for every band. [f, t, n], [f, n] -> [f, t, n]"""
    return F.rms_norm(x, x.shape[-1:], None, _EPSILON) * weight[:, None]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[f, t, i], [f, o, i], [f, o] -> [f, t, o]"""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


class _Layer(nn.Module):
    """Attention among the bands of a frame, then convolutions over the frames of a band."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.attention = _Attention(features)
        self.gated = _Gated(features)
        self.convolutions = nn.ModuleList(_Convolution(features) for _ in range(_BLOCKS))

    def edit(self, x: Tensor) -> None:
        """x [f, t, d], edited in place."""
        turns = self.attention.turns(len(x))
        packs = [step.packed() for step in (self.attention, self.gated)]
        for part in blocks(x.transpose(0, 1)):
            y = part.contiguous()
            y += self.attention(y, turns, *packs[0])
            y += self.gated(y, *packs[1])
            part.copy_(y)
        packs = [cast(_Convolution, step).packed() for step in self.convolutions]
        for part in blocks(x):
            for step, pack in zip(self.convolutions, packs, strict=True):
                part += step(part, *pack)


class _Step(nn.Module):
    """A norm, and linear layers around something. Some of a segment's rows go through it at once."""

    def __init__(self, features: int, into: int, out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(features))
        self.into = nn.Linear(features, into, bias=bias)
        self.out = nn.Linear(out, features, bias=bias)

    def packed(self) -> tuple[Tensor, Tensor]:
        """Both weights laid out for many calls."""
        into, out = (onednn.packed(layer.weight, _ROWS_CPU) for layer in (self.into, self.out))
        return into, out

    def normal(self, x: Tensor) -> Tensor:
        """[..., d] -> the same."""
        return F.rms_norm(x, self.norm.shape, self.norm, _EPSILON)


class _Attention(_Step):
    """Attention with rotary position embedding ("RoFormer", Su et al., 2021, arXiv:2104.09864) over bands."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 3 * features, features)

    def turns(self, length: int) -> Tensor:
        """Rotations of the pairs of a head, complex [length, 1, pairs]."""
        pairs = self.norm.shape[0] // HEADS // 2
        device = self.norm.device
        speeds = _THETA ** -(torch.arange(pairs, device=device) / pairs)
        angles = torch.arange(length, device=device).outer(speeds)
        return torch.polar(torch.ones_like(angles), angles)[:, None]

    def forward(self, x: Tensor, turns: Tensor, into: Tensor, out: Tensor) -> Tensor:
        """What is to be added to x, [t, f, d] -> the same."""
        mixed = onednn.linear(self.normal(x), into).unflatten(-1, (3 * HEADS, -1))
        rotate(mixed[..., : 2 * HEADS, :], turns)
        q, k, v = mixed.unflatten(2, (3, HEADS)).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # [t, f, h, d / h]
        return onednn.linear(heard.flatten(2), out)


class _Gated(_Step):
    """A feed-forward layer, one half of which is a gate for the other."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 8 * features, 4 * features)

    def forward(self, x: Tensor, into: Tensor, out: Tensor) -> Tensor:
        """What is to be added to x, [t, f, d] -> the same."""
        gate, y = F.silu(onednn.linear(self.normal(x), into), inplace=True).chunk(2, -1)
        return onednn.linear(F.silu(gate).mul_(y), out)


class _Convolution(_Step):
    """Every feature's seven frames, then a feed-forward layer."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 4 * features, 4 * features, bias=True)
        self.along = onednn.Conv2d(features, features, (1, _KERNEL), padding=(0, _KERNEL // 2), groups=features)

    def forward(self, x: Tensor, into: Tensor, out: Tensor) -> Tensor:
        """What is to be added to x, [f, t, d] -> the same."""
        # every band an item of its own, with channels last: half a dozen times as fast as in the published layout
        along = self.along(x[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0]
        hidden = F.silu(onednn.linear(self.normal(along), into, self.into.bias), inplace=True)
        return onednn.linear(hidden, out, self.out.bias)


# published name, with the band's number -> name in `_Bands`
_OF_BANDS = (
    ("BN.{}.0.weight", "split_norm"),
    ("BN.{}.1.weight", "split_weight"),
    ("BN.{}.1.bias", "split_bias"),
    ("output.{}.0.weight", "join_norm"),
    ("output.{}.1.weight", "join_weight"),
    ("output.{}.1.bias", "join_bias"),
)
# published name below `net.N` -> name in `_Layer`
_OF_A_LAYER = (
    ("band_net.input_norm.weight", "attention.norm"),
    ("band_net.weight.weight", "attention.into.weight"),
    ("band_net.output.weight", "attention.out.weight"),
    ("band_net.MLP.0.weight", "gated.norm"),
    ("band_net.MLP.1.weight", "gated.into.weight"),
    ("band_net.MLP_output.weight", "gated.out.weight"),
    *(
        (f"seq_net.blocks.{block}.conv.{published}", f"convolutions.{block}.{ours}")
        for block in range(_BLOCKS)
        for published, ours in (
            ("0.weight", "along.weight"),
            ("0.bias", "along.bias"),
            ("1.weight", "norm"),
            ("2.weight", "into.weight"),
            ("2.bias", "into.bias"),
            ("4.weight", "out.weight"),
            ("4.bias", "out.bias"),
        )
    ),
)


def _plain(name: str, tensor: Tensor) -> Tensor:
    """A published tensor as our layer holds it: convolutions over one frame are linear layers."""
    if name.endswith("along.weight"):
        return tensor[:, :, None] if tensor.dim() == 3 else tensor
    if name.endswith(("into.weight", "out.weight")) and tensor.dim() == 3 and tensor.shape[2] == 1:
        tensor = tensor[:, :, 0]
    if name == "attention.into.weight" and tensor.shape[0] % (3 * HEADS) == 0:
        # (head, query / key / value, d / h) -> (query / key / value, head, d / h)
        tensor = tensor.unflatten(0, (HEADS, 3, -1)).transpose(0, 1).flatten(0, 2)
    return tensor


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked, with the published defaults.

    Raises:
        CheckpointError: an unknown key, or a value that can't be used.
    """
    own = {name: value for name, value in config.items() if name not in _READ_HERE}
    values = read_settings("apollo", own, _DEFAULTS, only={}, ignored=_IGNORED)
    sr, win, width = values["sr"], values["win"], values["feature_dim"]
    n_fft = sr * win // 1000
    require(
        "apollo",
        (
            (1000 <= sr <= 768_000, f"sr is {sr}, expected 1000 to 768000"),
            (
                2 * BANDS <= n_fft <= 2**16 and n_fft % 2 == 0,
                f"win is {win} ms, {n_fft} samples at {sr} Hz, expected an even number of {2 * BANDS} to 65536 samples",
            ),
            (
                2 * HEADS <= width <= 4096 and width % (2 * HEADS) == 0,
                f"feature_dim is {width}, expected a multiple of {2 * HEADS} up to 4096",
            ),
            (1 <= values["layer"] <= 64, f"layer is {values['layer']}, expected 1 to 64"),
            (values["chunk_size"] >= 1, f"chunk_size is {values['chunk_size']}, expected at least 1"),
            (1 <= values["num_overlap"] <= 50, f"num_overlap is {values['num_overlap']}, expected 1 to 50"),
        ),
    )
    return values


def _output(config: Mapping[str, Any], stems: Sequence[str]) -> str:
    """The name of the network's one output."""
    target, names = config.get("target_instrument"), config.get("instruments", list(stems))
    good = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    if not good or (target is not None and target not in names):
        raise CheckpointError(f"apollo's instruments are {names!r} and its target {target!r}, expected names.")
    if target is None and len(names) > 1:
        raise CheckpointError(f"apollo has one output, and none of {', '.join(names)} is its target_instrument.")
    return str(target or names[0])
