"""Hybrid Demucs: a U-Net on the spectrogram and one on the waveform that meet in the middle.

"Hybrid Spectrogram and Waveform Source Separation" (Défossez, MDX workshop 2021, arXiv:2111.03600). Checked against
the public package `demucs`: complex spectrograms as channels and magnitudes with the mixture's phase or the Wiener
filter, frequency bands with layers of their own, and the older alignment of some members of 2021's bags. Left out:
training, and the options that no released checkpoint uses. `htdemucs.py` puts a transformer between the same branches.

Published protocol (`demucs.apply`): the track normalised by its mono mix, segments as long as the package or the bag
says with an overlap of a quarter, triangular weights, and nothing beyond the ends of the track.

Legend: b batch, s source, c channel, f bin, t frame or sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.demucs_blocks import PackagedNetwork, named_state
from unmixcli.models.demucs_layers import BandedDecoder, BandedEncoder, DecoderLayer, EncoderLayer, LayerSettings
from unmixcli.models.settings import read_settings, require
from unmixcli.models.spectrogram import OverlapAdd, spectra
from unmixcli.models.wiener import wiener

_BLOCK = 300  # frames the Wiener filter works on
_EPSILON = 1e-5
SHARED_DEFAULTS: dict[str, Any] = {
    "audio_channels": 2,
    "channels": 48,
    "growth": 2.0,
    "nfft": 4096,
    "cac": True,
    "wiener_iters": 0,
    "multi_freqs": (),
    "freq_emb": 0.2,
    "emb_scale": 10.0,
    "kernel_size": 8,
    "time_stride": 2,
    "stride": 4,
    "context": 1,
    "context_enc": 0,
    "norm_starts": 4,
    "norm_groups": 4,
    "dconv_mode": 1,
    "dconv_depth": 2,
    "samplerate": 44100,
}
SHARED_IGNORED = frozenset({"end_iters", "emb_smooth", "dconv_init", "rescale"})
ONLY: dict[str, Any] = {"channels_time": None, "rewrite": True, "wiener_residual": False}


class Hybrid(PackagedNetwork):
    """Both branches and all around them; what is between encoders and decoders is for `middle`."""

    architecture: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    only: ClassVar[Mapping[str, Any]]
    ignored: ClassVar[frozenset[str]]
    from_zeros: ClassVar[bool]  # the decoders start from silence and hear the mixture through the skips alone
    window: Tensor
    encoder: nn.ModuleList
    decoder: nn.ModuleList
    tencoder: nn.ModuleList
    tdecoder: nn.ModuleList

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        values = read_settings(self.architecture, config, self.defaults, only=self.only, ignored=self.ignored)
        _check(self.architecture, values)
        super().__init__(self.architecture, values, config, stems)
        self.segment_length = int(values["segment"] * self.sample_rate)
        self.n_fft, self.hop = values["nfft"], values["nfft"] // 4
        self.freq_emb: FrequencyEmbedding | None = None
        self.adopt(lambda: _Branches(values, len(self.sources)))
        self.register_buffer("window", torch.hann_window(self.n_fft) / math.sqrt(self.n_fft), persistent=False)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published tensors; quantised ones unpacked."""
        return named_state(cls, config, super().convert_state(config, states))

    def middle(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """From the encoders to the decoders: frequency branch [b, c, f, t], time branch [b, c, t]."""
        return x, y

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        length = mixture.shape[-1]
        z = self._analyse(mixture)  # [b, c, t, f], complex
        x, mean, deviation = _standardised(self._as_channels(z))
        y, mean_t, deviation_t = _standardised(mixture)
        x, y = self._network(x, y)
        batch, sources = len(mixture), len(self.sources)
        x = x.unflatten(1, (sources, -1)) * deviation[:, None] + mean[:, None]
        y = y.view(batch, sources, self.channels, -1)[:, self._wanted]
        return y * deviation_t[:, None] + mean_t[:, None] + self._synthesise(x, z, length)

    def _network(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches: x [b, c, f, t] and y [b, c, t] -> the same with sources times the channels."""
        skips: list[Tensor] = []
        skips_t: list[Tensor] = []
        lengths: list[int] = []
        lengths_t: list[int] = []
        for level, encoder in enumerate(self.encoder):
            lengths.append(x.shape[-1])
            inject = None
            if level < len(self.tencoder):
                lengths_t.append(y.shape[-1])
                y = self.tencoder[level](y)
                if self.tencoder[level].empty:
                    inject = y
                else:
                    skips_t.append(y)
            x = encoder(x, inject)
            if level == 0 and self.freq_emb is not None:
                gain = self.values["freq_emb"] * self.values["emb_scale"]
                x = x + gain * self.freq_emb.embedding.weight.t()[..., None]
            skips.append(x)
        x, y = (torch.zeros_like(x), torch.zeros_like(x)) if self.from_zeros else self.middle(x, y)
        offset = len(self.decoder) - len(self.tdecoder)
        for level, decoder in enumerate(self.decoder):
            x, before = decoder(x, skips.pop(), lengths.pop())
            if level < offset:
                continue
            layer = self.tdecoder[level - offset]
            if layer.empty:
                y, _ = layer(before[:, :, 0], None, lengths_t.pop())
            else:
                y, _ = layer(y, skips_t.pop(), lengths_t.pop())
        return x, y

    # -------------------------------------------------------- spectrograms

    def _analyse(self, mixture: Tensor) -> Tensor:
        """[b, c, T] -> complex [b, c, ceil(T / hop), n_fft / 2]: without the last bin, frames on a common grid."""
        length = mixture.shape[-1]
        side = self._side
        right = side + -length % self.hop
        if self.values.get("hybrid_old"):
            padded = F.pad(mixture, (side, right))
        else:
            if length <= right:  # too short to be mirrored
                mixture = F.pad(mixture, (0, right + 1 - length))
            padded = F.pad(mixture, (side, right - max(0, right + 1 - length)), mode="reflect")
        return spectra(padded, self.window, self.hop)[..., :-1]

    @property
    def _side(self) -> int:
        return self.hop // 2 * 3

    def _as_channels(self, z: Tensor) -> Tensor:
        """What the frequency branch reads, [b, c, f, t]: real and imaginary part of each channel, or magnitudes."""
        if not self.values["cac"]:
            return z.abs().transpose(2, 3)
        return torch.view_as_real(z).permute(0, 1, 4, 3, 2).flatten(1, 2)

    def _synthesise(self, x: Tensor, z: Tensor, length: int) -> Tensor:
        """What the frequency branch gave for all sources, [b, s, c, f, t], as the wanted waveforms [b, s, c, T]."""
        batch, stems, frames = len(x), len(self._wanted), x.shape[-1]
        # two silent frames on each side count in the sum of windows, as published
        added = OverlapAdd((batch, stems, self.channels), frames + 4, self.window, self.hop)
        for item in range(batch):
            if self.values["cac"]:
                for stem, source in enumerate(self._wanted):
                    parts = x[item, source].unflatten(0, (self.channels, 2)).permute(0, 3, 2, 1)
                    added.add((item, stem), torch.view_as_complex(parts.contiguous()), 2)
                continue
            for start in range(0, frames, _BLOCK):
                mixture = z[item, :, start : start + _BLOCK]
                magnitudes = x[item, ..., start : start + _BLOCK].transpose(2, 3)
                masks = magnitudes / mixture.abs().clamp_min(1e-20)
                estimates = wiener(mixture, masks, self.values["wiener_iters"], self._wanted)
                for stem, spectrum in enumerate(estimates):
                    added.add((item, stem), spectrum, 2 + start)
        skip = 2 * self.hop + (0 if self.values.get("hybrid_old") else self._side)
        return added.signal(skip, length)


class HDemucs(Hybrid):
    """See the module."""

    architecture = "hdemucs"
    edge_padding = "none"
    from_zeros = True
    defaults: ClassVar[Mapping[str, Any]] = SHARED_DEFAULTS | {
        "depth": 6,
        "multi_freqs_depth": 2,
        "dconv_comp": 4.0,
        "dconv_attn": 4,
        "dconv_lstm": 4,
        "hybrid_old": False,
        "segment": Fraction(40),
    }
    only: ClassVar[Mapping[str, Any]] = ONLY | {"hybrid": True}
    ignored = SHARED_IGNORED


def _check(architecture: str, values: Mapping[str, Any]) -> None:
    hop = values["nfft"] // 4
    require(
        architecture,
        (
            (values["audio_channels"] in (1, 2), f"audio_channels is {values['audio_channels']}, expected 1 or 2"),
            (1 <= values["depth"] <= 10, f"depth is {values['depth']}, expected 1 to 10"),
            (1 <= values["channels"] <= 4096, f"channels is {values['channels']}, expected 1 to 4096"),
            (1 <= values["growth"] <= 4, f"growth is {values['growth']}, expected 1 to 4"),
            (hop >= 8 and values["nfft"] % 16 == 0, f"nfft is {values['nfft']}, expected a multiple of 16 from 32"),
            (values["kernel_size"] == 2 * values["stride"] >= 4, "kernel_size is not twice its stride, or below 4"),
            (values["time_stride"] >= 1, f"time_stride is {values['time_stride']}, expected at least 1"),
            (1 <= values["dconv_comp"] <= values["channels"], "dconv_comp is not between 1 and its channels"),
            (values["norm_groups"] >= 1, f"norm_groups is {values['norm_groups']}, expected at least 1"),
            (values["dconv_depth"] <= 12, f"dconv_depth is {values['dconv_depth']}, expected at most 12"),
            (max(values["context"], values["context_enc"]) <= 16, "context is above 16"),
            (values["samplerate"] >= 1, f"samplerate is {values['samplerate']}"),
            (list(values["multi_freqs"]) == sorted(set(values["multi_freqs"])), "multi_freqs do not rise"),
        ),
    )


class _Table(nn.Module):
    """An `nn.Embedding` that draws no numbers: building one without memory imports PyTorch's compiler (a second)."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class FrequencyEmbedding(nn.Module):
    """A vector that is added to every frame of a bin: which bin it is."""

    def __init__(self, bins: int, channels: int) -> None:
        super().__init__()
        self.embedding = _Table(bins, channels)


class _Branches(nn.Module):
    """The layers of both branches, as the published constructor makes them."""

    def __init__(self, values: Mapping[str, Any], sources: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.tencoder, self.tdecoder = nn.ModuleList(), nn.ModuleList()
        self.freq_emb: FrequencyEmbedding | None = None
        audio = values["audio_channels"]
        planes = 2 if values["cac"] else 1
        inputs, inputs_t = planes * audio, audio
        outputs = outputs_t = values["channels"]
        mode = values["dconv_mode"]
        bins = values["nfft"] // 2
        for level in range(values["depth"]):
            in_bins = bins > 1
            last_bins = in_bins and bins <= values["kernel_size"]
            s = _level(values, level, bins)
            if last_bins:
                outputs_t = outputs = max(outputs, outputs_t)
            out, out_t = (planes * audio * sources, audio * sources) if level == 0 else (inputs, inputs_t)
            encodes, decodes = bool(mode & 1), bool(mode & 2)
            ratios = values["multi_freqs"] if in_bins and level < values["multi_freqs_depth"] else ()
            if in_bins:
                st = _time_level(values, s)
                self.tencoder.append(EncoderLayer(inputs_t, outputs_t, st, residual=encodes, empty=last_bins))
                self.tdecoder.insert(
                    0, DecoderLayer(outputs_t, out_t, st, residual=decodes, empty=last_bins, last=level == 0)
                )
            if ratios:
                self.encoder.append(BandedEncoder(inputs, outputs, s, ratios, residual=encodes))
                self.decoder.insert(0, BandedDecoder(outputs, out, s, ratios, residual=decodes, last=level == 0))
            else:
                self.encoder.append(EncoderLayer(inputs, outputs, s, residual=encodes))
                self.decoder.insert(0, DecoderLayer(outputs, out, s, residual=decodes, last=level == 0))
            if in_bins:
                bins = 1 if bins <= values["kernel_size"] else bins // values["stride"]
            if level == 0 and values["freq_emb"]:
                self.freq_emb = FrequencyEmbedding(bins, outputs)
            inputs, inputs_t = outputs, outputs_t
            outputs, outputs_t = int(values["growth"] * outputs), int(values["growth"] * outputs_t)


def _level(values: Mapping[str, Any], level: int, bins: int) -> LayerSettings:
    """A level of the frequency branch, which goes on as a plain one when a single bin is left."""
    in_bins = bins > 1
    last_bins = in_bins and bins <= values["kernel_size"]
    kernel, stride = values["kernel_size"], values["stride"]
    if not in_bins:
        kernel, stride = 2 * values["time_stride"], values["time_stride"]
    return LayerSettings(
        kernel=bins if last_bins else kernel,
        stride=stride,
        frequency=in_bins,
        padded=not last_bins,
        norm=level >= values["norm_starts"],
        groups=values["norm_groups"],
        compress=values["dconv_comp"],
        depth=values["dconv_depth"],
        lstm=level >= values.get("dconv_lstm", level + 1),
        attention=level >= values.get("dconv_attn", level + 1),
        context=values["context"],
        context_encoder=values["context_enc"],
    )


def _time_level(values: Mapping[str, Any], s: LayerSettings) -> LayerSettings:
    """The time branch's twin of a level."""
    return replace(s, frequency=False, padded=True, kernel=values["kernel_size"], stride=values["stride"])


def _standardised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each item of [b, ...] without its mean and divided by its deviation; both of them, [b, 1, ...]."""
    axes = tuple(range(1, x.dim()))
    mean = x.mean(axes, keepdim=True)
    deviation = x.std(axes, correction=min(1, x[0].numel() - 1), keepdim=True)  # a single value has none
    return (x - mean) / (_EPSILON + deviation), mean, deviation
