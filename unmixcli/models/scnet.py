"""SCNet: a sparse encoder of three frequency bands, recurrent layers over frequency and time, and the way back.

"SCNet: Sparse Compression Network for Music Source Separation" (Tong, Zhu, Chen, Kang, Tao, Wu & Meng, ICASSP 2024,
arXiv:2401.13276). Checked against the public package `msst` 0.1.0 (models scnet and scnet_masked), which holds the code
that the published checkpoints were trained with. Left out: training, and windows shorter than the transform.

The spectrogram is that of the published code: the window is rectangular and the transform orthonormal. It is mapped,
not masked, so the stems need not add up to the mixture. `SCNetMasked` is a later variant that does mask, with a Hann
window.

Published protocol: segments of 11 s (`chunk_size`), a new one every `chunk_size / num_overlap`, the last one filled up
with its mirror image; with `normalize` the track is normalised by its mono mix. Our cross-fade is the triangle of
`segment.py`.

Everything is held with channels last, [b, f, t, c]: the LSTMs and the matrix products want rows of channels, and the
convolutions are half as fast again on a CPU as in the published layout. Legend: b batch, s stem, c channel of the
network, f bin, t frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models import onednn
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import FOUR_STEMS, require, without_memory
from unmixcli.models.spectrogram import OverlapAdd, centre_pad, spectra

_MASK_CHANNELS = 64  # inside the mask layer of SCNetMasked
_MASK_BINS = 256  # that it works on at a time
# What a published yaml also says and separating does not need.
_IGNORED = frozenset({"num_channels", "min_mean_abs", "batch_size", "dim_t"})


@dataclass(frozen=True)
class _Shape:
    """An entry's config, checked. Names and defaults are the published ones."""

    sources: tuple[str, ...] = FOUR_STEMS
    audio_channels: int = 2
    dims: tuple[int, ...] = (4, 32, 64, 128)
    nfft: int = 4096
    hop_size: int = 1024
    win_size: int = 4096
    normalized: bool = True
    band_SR: tuple[float, ...] = (0.175, 0.392, 0.433)  # noqa: N815 (published)
    band_stride: tuple[int, ...] = (1, 4, 16)
    band_kernel: tuple[int, ...] = (3, 4, 16)
    conv_depths: tuple[int, ...] = (3, 2, 1)
    compress: float = 4.0
    conv_kernel: int = 3
    num_dplayer: int = 6
    expand: int = 1
    sample_rate: int = 44100
    chunk_size: int = 485100
    num_overlap: int = 2
    normalize: bool = False
    instruments: tuple[str, ...] = ()
    target_instrument: str = ""

    @classmethod
    def read(cls, architecture: str, config: Mapping[str, Any]) -> _Shape:
        """The fields of `config` that there are.

        Raises:
            CheckpointError: a key that SCNet does not have, or a value it can't have.
        """
        known = {field.name: field.default for field in fields(cls)}
        if unknown := set(config) - set(known) - _IGNORED:
            raise CheckpointError(f"{architecture} has no {', '.join(sorted(unknown))} in its config.")
        given = {name: value for name, value in config.items() if name in known and value is not None}
        if "instruments" in given:
            given.setdefault("sources", given["instruments"])
        shape = cls(**{name: _checked(architecture, name, value, known[name]) for name, value in given.items()})
        shape._check(architecture)
        return shape

    def _check(self, architecture: str) -> None:
        bands = (self.band_SR, self.band_stride, self.band_kernel, self.conv_depths)
        require(
            architecture,
            (
                (self.audio_channels <= 2, f"audio_channels is {self.audio_channels}, expected 1 or 2"),
                (len(self.dims) >= 2, "dims needs at least two numbers"),
                (self.dims[0] == 2 * self.audio_channels, "dims does not begin with 2 * audio_channels"),
                (all(len(values) == 3 for values in bands), "band_* and conv_depths need three numbers each"),
                (self.nfft % 2 == 0, f"nfft is {self.nfft}, expected an even number"),
                (self.nfft % self.hop_size == 0, f"hop_size is {self.hop_size}, expected a divisor of nfft"),
                (self.win_size == self.nfft, f"win_size is {self.win_size}, expected nfft, {self.nfft}"),
                (self.conv_kernel % 2 == 1, f"conv_kernel is {self.conv_kernel}, expected an odd number"),
                (self.num_dplayer % 2 == 0, f"num_dplayer is {self.num_dplayer}, expected an even number"),
                (
                    min(self.dims[1:], default=1) >= self.compress >= 1,
                    "compress is not between 1 and the smallest of dims",
                ),
                (self.num_overlap <= 50, f"num_overlap is {self.num_overlap}, expected at most 50"),
                (not self.instruments or self._names_all, "instruments and sources are not the same number"),
                (not self.target_instrument or self._has_target, "target_instrument is not among the instruments"),
            ),
        )
        bins = self.nfft // 2 + 1
        for _ in self.dims[1:]:
            cuts = self.split(bins)
            lengths = [_padded(width, s) for width, s in zip(cuts, self.band_stride, strict=True)]
            require(
                architecture,
                (
                    (min(cuts) > 0, f"band_SR leaves a band without any of {bins} bins"),
                    (
                        all(s == 1 or (k % s == 0 and k <= n) for s, k, n in zip(*bands[1:3], lengths, strict=True)),
                        f"band_kernel {list(self.band_kernel)} does not fit band_stride and bands of {cuts} bins",
                    ),
                ),
            )
            bins = sum(self.strided(cuts))

    @property
    def _names_all(self) -> bool:
        return len(self.instruments) == len(self.sources) or len(self.sources) == 1

    @property
    def _has_target(self) -> bool:
        return self.target_instrument in (self.instruments or self.sources)

    def split(self, bins: int) -> list[int]:
        """Widths of the low, middle and high band of so many bins."""
        low, middle = math.ceil(bins * self.band_SR[0]), math.ceil(bins * (self.band_SR[0] + self.band_SR[1]))
        return [low, middle - low, bins - middle]

    def strided(self, widths: Sequence[int]) -> list[int]:
        """Widths of the bands after their strided convolutions."""
        return [
            width if s == 1 else (_padded(width, s) - k) // s + 1
            for width, s, k in zip(widths, self.band_stride, self.band_kernel, strict=True)
        ]

    def outputs(self) -> dict[str, int]:
        """The stems that the weights give, by our names, and where they stand among the network's outputs."""
        names = self.instruments if len(self.instruments) == len(self.sources) else self.sources
        if self.target_instrument:
            place = names.index(self.target_instrument) if len(names) > 1 else 0
            return {_stem(self.target_instrument): place}
        return {_stem(name): place for place, name in enumerate(names)}


def _stem(name: str) -> str:
    return name.lower().replace(" ", "_")


def _padded(width: int, stride: int) -> int:
    return -(-width // stride) * stride


def _checked(architecture: str, name: str, value: Any, default: Any) -> Any:
    """A value of the default's type, lists as tuples."""

    def good(item: Any, like: Any) -> bool:
        if isinstance(like, bool):
            return isinstance(item, bool)
        if isinstance(like, int):
            return type(item) is int and 1 <= item <= 10_000_000
        if isinstance(like, float):
            return type(item) in (int, float) and 0 < item <= 1e6
        return isinstance(item, str) and bool(item)

    if not isinstance(default, tuple):
        if not good(value, default):
            raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected {_EXPECTED[type(default)]}.")
        return value
    like = default[0] if default else ""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 64 or not all(good(v, like) for v in value):
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected a list, each {_EXPECTED[type(like)]}.")
    return tuple(value)


_EXPECTED: dict[type, str] = {
    bool: "true or false",
    int: "a whole number of at least 1",
    float: "a number above 0",
    str: "a name",
}


class SCNet(SeparationModel):
    """See the module."""

    architecture: ClassVar[str] = "scnet"
    window: Tensor
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    separation_net: _SeparationNet

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.shape = shape = _Shape.read(self.architecture, config)
        outputs = shape.outputs()
        if missing := [stem for stem in stems if stem not in outputs]:
            raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(outputs)}.")
        self.stems = tuple(stems)
        self._wanted = [outputs[stem] for stem in stems]
        self.sample_rate, self.channels = shape.sample_rate, shape.audio_channels
        self.segment_length = shape.chunk_size
        self.overlap = 1 - 1 / shape.num_overlap
        self.normalization = "track" if shape.normalize else "none"
        self.covers_mixture = not shape.target_instrument and len(outputs) > 1
        made = without_memory(self.layers)
        for name, part in (*made.named_children(), *made.named_parameters(recurse=False)):
            setattr(self, name, part)
        window = self.analysis_window(shape.nfft) * (shape.nfft**-0.5 if shape.normalized else 1.0)
        self.register_buffer("window", window, persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> SCNet:
        """See `SeparationModel`. Keys: those of a published yaml's `model` and `audio` sections under their names, and
        `num_overlap`, `normalize`, `instruments`, `target_instrument`."""
        return cls(config, stems)

    def layers(self) -> nn.Module:
        """The parts of the network under their published names."""
        return _Layers(self.shape)

    @staticmethod
    def analysis_window(length: int) -> Tensor:
        """The window of the transform, [n_fft], before it is normalised."""
        return torch.ones(length)

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`: a shorter last segment is filled up, since the network has seen only whole ones."""
        return 0, max(0, self.segment_length - used)

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        length, shape = mixture.shape[-1], self.shape
        # An even number of frames, so that the transform over time can be undone; the published code adds at least a
        # sample, and can't take what is shorter than half a window.
        frames = max(length // shape.hop_size + 1, shape.nfft // 2 // shape.hop_size + 1)
        frames += 1 - frames % 2
        padded = centre_pad(F.pad(mixture, (0, frames * shape.hop_size - length)), shape.nfft)
        z = spectra(padded, self.window, shape.hop_size)  # [b, c, t, f], complex
        # (left real, left imaginary, right real, right imaginary)
        x = torch.view_as_real(z).permute(0, 3, 2, 1, 4).flatten(3)  # [b, f, t, c]
        y = self.spectra(x).unflatten(3, (len(self.stems), self.channels, 2))
        added = OverlapAdd((len(mixture), len(self.stems), self.channels), y.shape[2], self.window, shape.hop_size)
        for item, of_item in enumerate(y):
            for stem in range(len(self.stems)):
                # [f, t, c, 2] -> [c, t, f, 2]
                separated = of_item[:, :, stem].permute(2, 1, 0, 3).contiguous()
                added.add((item, stem), torch.view_as_complex(separated), 0)
        return added.signal(shape.nfft // 2, length)

    def spectra(self, x: Tensor) -> Tensor:
        """The spectrogram of the mixture to those of the wanted stems, [b, f, t, c] -> [b, f, t, (s c)]."""
        return self.network(x, self._channels(x.shape[3]))

    def network(self, x: Tensor, kept: Sequence[int]) -> Tensor:
        """All layers, of whose outputs the channels `kept` are computed. [b, f, t, c] -> [b, f, t, kept]."""
        skips: list[Tensor] = []
        widths: list[list[int]] = []
        for encoder in self.encoder:
            widths.append(self.shape.split(x.shape[1]))
            x, skip = encoder(x, widths[-1])
            skips.append(skip)
        x = self.separation_net(x)
        for level, pair in enumerate(self.decoder):
            fusion, upsample = cast("nn.ModuleList", pair)
            last = level == len(self.decoder) - 1
            x = upsample(fusion(x, skips.pop()), widths.pop(), kept if last else None)
        return x

    def _channels(self, per_stem: int) -> list[int]:
        """The network's output channels that hold the wanted stems."""
        return [stem * per_stem + channel for stem in self._wanted for channel in range(per_stem)]


class SCNetMasked(SCNet):
    """SCNet with a learned vector per bin added to its input, a Hann window, and complex masks instead of spectra."""

    architecture = "scnet_masked"
    pos_embed_f: Tensor
    mask_layer: nn.Sequential

    def layers(self) -> nn.Module:
        """See `SCNet`."""
        return _MaskedLayers(self.shape)

    @staticmethod
    def analysis_window(length: int) -> Tensor:
        """See `SCNet`."""
        return torch.hann_window(length)

    def spectra(self, x: Tensor) -> Tensor:
        """See `SCNet`. Every mask depends on the network's outputs of all stems."""
        bins, channels = x.shape[1], x.shape[3]
        outputs = len(self.shape.sources) * channels
        y = self.network(x + _channels_last(self.pos_embed_f), range(outputs))
        first, second = cast("nn.Conv2d", self.mask_layer[0]), cast("nn.Conv2d", self.mask_layer[2])
        assert second.bias is not None
        kept = self._channels(channels)
        weight, bias = second.weight[kept, :, 0, 0], second.bias[kept]
        masked = x.new_empty(*x.shape[:3], len(kept))
        y = F.pad(y, (0, 0, 0, 0, 1, 1))
        for start in range(0, bins, _MASK_BINS):  # the hidden layer of all bins at once would be the largest tensor
            stop = min(bins, start + _MASK_BINS)
            rows = _channels_first(y[:, start : stop + 2])
            hidden = F.conv2d(rows, first.weight, first.bias, padding=(0, 1))
            mask = F.linear(F.gelu(_channels_last(hidden)), weight, bias).tanh_()
            mixture = torch.view_as_complex(x[:, start:stop].unflatten(3, (-1, 2)))
            product = torch.view_as_complex(mask.unflatten(3, (len(self.stems), -1, 2))) * mixture[:, :, :, None]
            masked[:, start:stop] = torch.view_as_real(product).flatten(3)
        return masked


class _Layers(nn.Module):
    def __init__(self, shape: _Shape) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, (outer, inner) in enumerate(zip(shape.dims, shape.dims[1:], strict=False)):
            self.encoder.append(_Encoder(outer, inner, shape))
            outer *= 1 if level else len(shape.sources)
            self.decoder.insert(0, nn.ModuleList([_Fusion(inner), _Upsample(inner, outer, shape)]))
        self.separation_net = _SeparationNet(shape.dims[-1], shape.expand, shape.num_dplayer)


class _MaskedLayers(_Layers):
    def __init__(self, shape: _Shape) -> None:
        super().__init__(shape)
        outputs = shape.dims[0] * len(shape.sources)
        self.pos_embed_f = nn.Parameter(torch.zeros(1, shape.dims[0], shape.nfft // 2 + 1, 1))
        self.mask_layer = nn.Sequential(
            nn.Conv2d(outputs, _MASK_CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS, outputs, 1),
            nn.Tanh(),
        )


class _Encoder(nn.Module):
    """Three bands with a strided convolution over frequency and blocks of their own, then a convolution over all.

    [b, f, t, c] -> [b, f', t, c'] twice: the output and what the decoder gets.
    """

    def __init__(self, channels: int, out: int, shape: _Shape) -> None:
        super().__init__()
        convolutions = (
            nn.Conv2d(channels, out, (kernel, 1), (stride, 1))
            for kernel, stride in zip(shape.band_kernel, shape.band_stride, strict=True)
        )
        self.SDlayer = nn.ModuleDict({"convs": nn.ModuleList(convolutions)})
        self.conv_modules = nn.ModuleList(_Blocks(out, depth, shape) for depth in shape.conv_depths)
        self.globalconv = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
        bands = []
        layers = zip(cast("nn.ModuleList", self.SDlayer["convs"]), self.conv_modules, strict=True)
        for band, (layer, blocks) in zip(x.split(list(widths), 1), layers, strict=True):
            convolution = cast("nn.Conv2d", layer)
            (kernel, _), (stride, _) = convolution.kernel_size, convolution.stride
            missing = kernel - 1 if stride == 1 else -band.shape[1] % stride
            band = F.pad(band, (0, 0, 0, 0, missing // 2, missing - missing // 2))
            bands.append(F.gelu(blocks(_layered(band, convolution))))
        skip = torch.cat(bands, 1)
        return _layered(skip, self.globalconv), skip


class _Blocks(nn.Module):
    """Residual blocks along time, every bin for itself, [b, f, t, c] -> the same."""

    def __init__(self, channels: int, depth: int, shape: _Shape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Block(channels, int(channels / shape.compress), shape.conv_kernel) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        # Every bin is an item of its own; torch knows channels last only where there are two more dimensions.
        rows = x.flatten(0, 1)[:, None]  # [(b f), 1, t, c]
        for layer in self.layers:
            rows = layer(rows)
        return rows.view(x.shape)


class _Block(nn.Sequential):
    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__(
            nn.GroupNorm(1, channels),
            nn.Conv1d(channels, 2 * hidden, kernel, padding=kernel // 2),
            nn.GLU(1),
            nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden),
            nn.GroupNorm(1, hidden),
            nn.SiLU(),
            nn.Conv1d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        norm, widen, _, along, second_norm, _, narrow = self
        y = F.glu(_convolved_in_time(_layered(x, norm), cast("nn.Conv1d", widen)), -1)
        y = F.silu(_layered(_convolved_in_time(y, cast("nn.Conv1d", along)), second_norm), inplace=True)
        return _convolved_in_time(y, cast("nn.Conv1d", narrow)).add_(x)


class _Fusion(nn.Module):
    """Decoder input and skip added, then convolved and gated. [b, f, t, c] -> the same.

    The published layer convolves two copies of its input, one after the other in the channels: that is one copy and the
    sum of the weights' halves.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        first, second = self.conv.weight.chunk(2, 1)
        y = F.conv2d(_channels_first(x + skip), first + second, self.conv.bias, padding=1)
        return F.glu(_channels_last(y), -1)


class _Upsample(nn.Module):
    """Each band's transposed convolution over frequency, cut to the width it had. [b, f, t, c] -> [b, f', t, c']."""

    def __init__(self, channels: int, out: int, shape: _Shape) -> None:
        super().__init__()
        self.shape = shape
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(channels, out, (kernel, 1), (stride, 1))
            for kernel, stride in zip(shape.band_kernel, shape.band_stride, strict=True)
        )

    def forward(self, x: Tensor, widths: Sequence[int], kept: Sequence[int] | None) -> Tensor:
        """`widths` of the bands in the output; `kept`: the channels to compute, None: all."""
        bands = []
        for band, layer, width in zip(x.split(self.shape.strided(widths), 1), self.convtrs, widths, strict=True):
            convolution = cast("nn.ConvTranspose2d", layer)
            weight, bias = convolution.weight, convolution.bias
            assert bias is not None
            if kept is not None and len(kept) < len(bias):
                weight, bias = weight[:, kept], bias[kept]
            y = _channels_last(F.conv_transpose2d(_channels_first(band), weight, bias, convolution.stride))
            bands.append(y.narrow(1, (y.shape[1] - width) // 2, width))
        return torch.cat(bands, 1)


class _SeparationNet(nn.Module):
    """Recurrent layers over frequency and time, in turn on frames and on their Fourier transform over time.

    [b, f, t, c] -> the same; t is even.
    """

    def __init__(self, channels: int, expand: int, layers: int) -> None:
        super().__init__()
        self.dp_modules = nn.ModuleList(_DualPath(channels * (1 + level % 2), expand) for level in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for level, module in enumerate(self.dp_modules):
            x = module(x)
            if level % 2 == 0:
                turned = torch.fft.rfft(x, dim=2, norm="ortho")
                x = torch.cat([turned.real, turned.imag], 3)
            else:
                x = torch.fft.irfft(torch.complex(*x.chunk(2, 3)), dim=2, norm="ortho")
        return x


class _DualPath(nn.Module):
    """A bidirectional LSTM over frequency and one over time, each added to what it saw. [b, f, t, c] -> the same."""

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__()
        self.lstm_layers = nn.ModuleList(nn.LSTM(channels, channels * expand, bidirectional=True) for _ in range(2))
        self.linear_layers = nn.ModuleList(onednn.Linear(2 * channels * expand, channels) for _ in range(2))
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        batch, bins, frames, channels = x.shape
        # over frequency: bins are steps, frames are items
        y = _layered(x, self.norm_layers[0]).transpose(0, 1).reshape(bins, batch * frames, channels)
        y = self._run(0, y).view(bins, batch, frames, channels)
        x = x + y.transpose(0, 1)
        # over time
        y = _layered(x, self.norm_layers[1]).permute(2, 0, 1, 3).reshape(frames, batch * bins, channels)
        y = self._run(1, y).view(frames, batch, bins, channels)
        return x.add_(y.permute(1, 2, 0, 3))

    def _run(self, number: int, x: Tensor) -> Tensor:
        result: Tensor = self.linear_layers[number](self.lstm_layers[number](x)[0])
        return result


# ---------------------------------------------------------------- layers on [b, f, t, c]


def _channels_first(x: Tensor) -> Tensor:
    """[b, f, t, c] as torch's layers name it, [b, c, f, t]; nothing is moved."""
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _layered(x: Tensor, layer: nn.Module) -> Tensor:
    return _channels_last(layer(_channels_first(x)))


def _convolved_in_time(x: Tensor, layer: nn.Conv1d) -> Tensor:
    """Every bin's frames, one dimension of two."""
    weight = layer.weight[:, :, None]
    y = F.conv2d(_channels_first(x), weight, layer.bias, padding=(0, weight.shape[3] // 2), groups=layer.groups)
    return _channels_last(y)
