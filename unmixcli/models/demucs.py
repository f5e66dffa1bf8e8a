"""Demucs on the waveform alone: versions 1 and 2 (convolutions and an LSTM) and version 3 (residual blocks).

"Music Source Separation in the Waveform Domain" (Défossez, Usunier, Bottou & Bach, 2019, arXiv:1911.13254); version 3
takes the residual blocks of "Hybrid Spectrogram and Waveform Source Separation" (arXiv:2111.03600). Checked against the
public package `demucs`, 4.1.0 for version 3 and 2.0.3 for the older ones. Left out: training, and the options that no
released checkpoint uses.

Published protocol (`demucs.apply`): the track normalised by its mono mix; a segment is made as long as the strides
want, in its middle, with what stands in the track before and after it and silence beyond the ends; overlap a quarter
(version 1: none), triangular weights.

Legend: b batch, s source, c channel, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.base import EdgePadding
from unmixcli.models.demucs_blocks import BLSTM, DConv, PackagedNetwork, group_norm, named_state
from unmixcli.models.settings import read_settings, require

_EPSILON = 1e-5
_ZEROS = 24  # zero crossings of the resampler's sinc on each side
_ROLLOFF = 0.945  # its cut-off, as a fraction of the lower Nyquist frequency
DEFAULTS: dict[str, Any] = {
    "audio_channels": 2,
    "channels": 64,
    "growth": 2.0,
    "depth": 6,
    "kernel_size": 8,
    "stride": 4,
    "samplerate": 44100,
}


class TimeDemucs(PackagedNetwork):
    """What the versions share. `values` are the settings, `_Layers` the network."""

    edge_padding: EdgePadding = "zero"
    architecture: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    only: ClassVar[Mapping[str, Any]]
    ignored: ClassVar[frozenset[str]]
    scaled: ClassVar[bool] = False  # divided by 1 + 1e-5 where nothing is normalised
    hears_context: ClassVar[bool] = True  # what is missing to a valid length is taken from the track, not silence
    encoder: nn.ModuleList
    decoder: nn.ModuleList

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        values = read_settings(self.architecture, config, self.defaults, only=self.only, ignored=self.ignored)
        _check(self.architecture, values)
        super().__init__(self.architecture, values, config, stems)
        self.lstm: BLSTM | None = None
        self.adopt(lambda: self.layers(values, len(self.sources)))
        used = self.used_length()
        self.edge = sum(self.context(used)) // 2
        self.segment_length = used + 2 * self.edge

    @property
    def lost(self) -> int:
        """Samples that a level's convolution over its context loses."""
        return 0

    def layers(self, values: Mapping[str, Any], sources: int) -> nn.Module:
        """The network: a module with `encoder`, `decoder` and perhaps `lstm`."""
        raise TypeError("a version of Demucs says what its layers are")

    def used_length(self) -> int:
        """Samples of a segment that are used."""
        length = int(self.values["segment"] * self.sample_rate)
        return max(2, length - length % 2)

    def valid_length(self, length: int) -> int:
        """The shortest input, at least `length`, whose strides come out even and whose output covers `length`."""
        return self._strided(length, self.lost)

    def _strided(self, length: int, lost: int) -> int:
        kernel, stride, depth = self.values["kernel_size"], self.values["stride"], self.values["depth"]
        factor = 2 if self.values.get("resample") else 1
        length *= factor
        for _ in range(depth):
            length = max(1, math.ceil((length - kernel) / stride) + 1) + lost
        for _ in range(depth):
            length = (length - 1) * stride + kernel
        return math.ceil(length / factor)

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`: whatever is missing to the valid length, half of it on each side."""
        missing = self.valid_length(used) - used if self.hears_context else 0
        return missing // 2, missing - missing // 2

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. Where T is no length that the strides want, it is made one by
        silence on both sides; where it is, the outermost samples that lack context are silent."""
        length = mixture.shape[-1]
        whole = length >= self.valid_length(1) and self._strided(length, 0) == length
        valid = length if whole and self.hears_context else self.valid_length(length)
        mean, deviation = mixture.new_zeros(1, 1, 1), mixture.new_ones(1, 1, 1)
        if self.values.get("normalize"):
            mean, deviation = _mono_level(mixture)
        x = (mixture - mean) / (_EPSILON + deviation) if self.values.get("normalize") or self.scaled else mixture
        x = F.pad(x, ((valid - length) // 2, valid - length - (valid - length) // 2))
        estimates = self._network(x).unflatten(1, (len(self.sources), self.channels))[:, self._wanted]
        missing = length - estimates.shape[-1]
        if missing <= 0:
            estimates = estimates[..., -missing // 2 : -missing // 2 + length]
        else:
            estimates = F.pad(estimates, (missing // 2, missing - missing // 2))
        return estimates * deviation[:, None] + mean[:, None]

    def _network(self, x: Tensor) -> Tensor:
        """[b, c, t] -> [b, (s c), t']."""
        if self.values.get("resample"):
            x = resample_twice(x)
        skips = []
        for encoder in self.encoder:
            x = encoder(x)
            skips.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        for decoder in self.decoder:
            skip = skips.pop()
            start = (skip.shape[-1] - x.shape[-1]) // 2
            x = decoder(x + skip[..., start : start + x.shape[-1]])
        return resample_half(x) if self.values.get("resample") else x


class Demucs(TimeDemucs):
    """Version 3."""

    architecture = "demucs"
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS | {
        "resample": True,
        "lstm_layers": 0,
        "context": 1,
        "gelu": True,
        "norm_starts": 4,
        "norm_groups": 4,
        "dconv_mode": 1,
        "dconv_depth": 2,
        "dconv_comp": 4.0,
        "dconv_attn": 4,
        "dconv_lstm": 4,
        "normalize": True,
        "segment": Fraction(40),
    }
    only: ClassVar[Mapping[str, Any]] = {"rewrite": True, "glu": True}
    ignored = frozenset({"dconv_init", "rescale"})

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published tensors; in older packages a norm that isn't there was not counted either."""
        state = named_state(cls, config, super().convert_state(config, states))
        for name in [name for name in state if name.split(".")[2:3] == ["2"]]:
            side, level, _, kind = name.split(".")
            if (new := f"{side}.{level}.3.{kind}") not in state:
                state[new] = state.pop(name)
        return state

    def layers(self, values: Mapping[str, Any], sources: int) -> nn.Module:
        return _Layers3(values, sources)


class _Layers3(nn.Module):
    def __init__(self, values: Mapping[str, Any], sources: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        kernel, stride, context = values["kernel_size"], values["stride"], values["context"]
        inputs, channels = values["audio_channels"], values["channels"]
        act = nn.GELU if values["gelu"] else nn.ReLU
        for level in range(values["depth"]):
            normed = level >= values["norm_starts"]

            def norm(size: int, normed: bool = normed) -> nn.Module:
                return group_norm(size, values["norm_groups"], normed)

            def residual(size: int = channels, level: int = level) -> DConv:
                return DConv(
                    size,
                    compress=values["dconv_comp"],
                    depth=values["dconv_depth"],
                    lstm=level >= values["dconv_lstm"],
                    attention=level >= values["dconv_attn"],
                )

            encode: list[nn.Module] = [nn.Conv1d(inputs, channels, kernel, stride), norm(channels), act()]
            encode += [residual()] if values["dconv_mode"] & 1 else []
            encode += [nn.Conv1d(channels, 2 * channels, 1), norm(2 * channels), nn.GLU(1)]
            outputs = inputs if level else sources * values["audio_channels"]
            decode: list[nn.Module] = [
                nn.Conv1d(channels, 2 * channels, 2 * context + 1, padding=context),
                norm(2 * channels),
                nn.GLU(1),
            ]
            decode += [residual()] if values["dconv_mode"] & 2 else []
            decode += [nn.ConvTranspose1d(channels, outputs, kernel, stride)]
            decode += [norm(outputs), act()] if level else []
            self.encoder.append(nn.Sequential(*encode))
            self.decoder.insert(0, nn.Sequential(*decode))
            inputs, channels = channels, int(values["growth"] * channels)
        if values["lstm_layers"]:
            self.lstm = BLSTM(inputs, values["lstm_layers"], pieces=False)


def _check(architecture: str, values: dict[str, Any]) -> None:
    """Check the settings against each other, and add what follows from them."""
    require(
        architecture,
        (
            (values["audio_channels"] in (1, 2), f"audio_channels is {values['audio_channels']}, expected 1 or 2"),
            (1 <= values["depth"] <= 10, f"depth is {values['depth']}, expected 1 to 10"),
            (1 <= values["channels"] <= 4096, f"channels is {values['channels']}, expected 1 to 4096"),
            (1 <= values["growth"] <= 4, f"growth is {values['growth']}, expected 1 to 4"),
            (1 <= values["stride"] <= values["kernel_size"] <= 64, "stride is not between 1 and its kernel_size"),
            (values["lstm_layers"] <= 8, f"lstm_layers is {values['lstm_layers']}, expected at most 8"),
            (values["context"] <= 16, f"context is {values['context']}, expected at most 16"),
            (1 <= values.get("dconv_comp", 1) <= values["channels"], "dconv_comp is not between 1 and its channels"),
            (values.get("dconv_depth", 0) <= 12, "dconv_depth is above 12"),
            (values.get("norm_groups", 1) >= 1, "norm_groups is 0"),
            (values["samplerate"] >= 1, f"samplerate is {values['samplerate']}"),
        ),
    )


def _mono_level(mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each item's mono mix, [b, 1, 1]."""
    mono = mixture.mean(1, keepdim=True)
    correction = min(1, mono.shape[-1] - 1)
    return mono.mean(-1, keepdim=True), mono.std(-1, correction=correction, keepdim=True)


# ---------------------------------------------------------------- resampling


def _taps(places: Tensor) -> Tensor:
    """A windowed sinc at `places`, in periods of the lower of both rates; sums to one."""
    places = (places * _ROLLOFF).clamp(-_ZEROS, _ZEROS)
    taps = torch.sinc(places) * torch.cos(torch.pi * places / (2 * _ZEROS)).square()
    return taps / taps.sum()


def resample_twice(x: Tensor) -> Tensor:
    """[b, c, t] at twice the rate, [b, c, 2 t]: one filter for the samples that were there, one for those between.

    The published resampler (`julius.resample_frac`): a sinc of 24 zero crossings under a squared cosine.
    """
    width = math.ceil(_ZEROS / _ROLLOFF)
    place = torch.arange(-width, width + 1, device=x.device, dtype=x.dtype)
    filters = torch.stack([_taps(place), _taps(place - 0.5)])[:, None]
    padded = F.pad(x.flatten(0, 1)[:, None], (width, width), mode="replicate")
    return F.conv1d(padded, filters).transpose(1, 2).reshape(*x.shape[:2], -1)


def resample_half(x: Tensor) -> Tensor:
    """[b, c, t] at half the rate, [b, c, t // 2], by the same resampler."""
    width = math.ceil(2 * _ZEROS / _ROLLOFF)
    place = torch.arange(-width, width + 2, device=x.device, dtype=x.dtype)
    padded = F.pad(x.flatten(0, 1)[:, None], (width, width + 2), mode="replicate")
    halved = F.conv1d(padded, _taps(place / 2)[None, None], stride=2)
    return halved.view(*x.shape[:2], -1)[..., : x.shape[-1] // 2]
