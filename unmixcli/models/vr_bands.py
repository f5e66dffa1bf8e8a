"""One spectrogram made of several: the band layouts of the VR networks.

Each band has its own sample rate, window and hop; all hops last equally long, so frame n of every band is centred on
the same moment. From each band's spectrum a range of bins is taken, and the ranges lie on top of each other: low bands
finely resolved in frequency, high ones in time. Going back, every band is faded at the ends of its range so that
neighbours add up, transformed, and added to the band above after resampling.

The layouts (`vr_layouts.json`) are facts of the published files, named as published ("modelparams"), in words of our
own. Checked against audio-separator 0.47.1, which resamples with SciPy's `resample_poly` and libsamplerate's
"sinc_fastest"; both are windowed sincs, given here by their parameters. Left out: bins that matter in training only,
the mirrored high end (off where it is published), time reversal.

Legend: b batch, c channel, f bin, n frame, t sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.spectrum import istft, stft

# What the two channels are made of, (first, second) = matrix @ (left, right).
CHANNELS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "stereo": ((1, 0), (0, 1)),
    "mid_side": ((0.5, 0.5), (1, -1)),
    "mid_side_b2": ((0.5, 1), (1, -0.5)),
    "mid_side_c": ((1, 0.25), (-0.25, 1)),
    "stereo_n": ((1 / 0.9375, 0.25 / 0.9375), (0.25 / 0.9375, 1 / 0.9375)),
}
# Filters as (cut-off, β of the Kaiser window, zero crossings to each side). SciPy's default, and the one that
# libsamplerate's "sinc_fastest" is: the fit to its impulse response leaves -114 dB.
_FILTERS: dict[str, tuple[float, float, float]] = {"polyphase": (1.0, 5.0, 10.0), "sinc": (0.831471, 10.07839, 19.2329)}
_BACK = "sinc"  # published programs go up again with "sinc_fastest" in every layout


@dataclass(frozen=True)
class Band:
    """One band.

    Attributes:
        sample_rate: Hz.
        hop, n_fft: of its transform, samples at its rate.
        crop: first bin that is taken, and the one after the last.
        low_pass: bins between which the band fades out upwards, on the way back; None: it doesn't.
        high_pass: bins between which it fades out downwards, the higher one first.
        channels: row of `CHANNELS`, for networks of version 5.1.
        resampler: how the band is got from the next higher one: row of `_FILTERS`.
    """

    sample_rate: int
    hop: int
    n_fft: int
    crop: tuple[int, int]
    low_pass: tuple[int, int] | None = None
    high_pass: tuple[int, int] | None = None
    channels: str = "stereo"
    resampler: str = "polyphase"


@dataclass(frozen=True)
class Layout:
    """How bands make one spectrogram.

    Attributes:
        sample_rate: Hz, the highest band's.
        bins: that the network sees; the spectrogram has one more.
        bands: from the lowest to the highest.
        pre_filter: bins between which the spectrogram fades out before the network; None: it doesn't.
        channels: row of `CHANNELS` for all bands, for networks before version 5.1.
    """

    sample_rate: int
    bins: int
    bands: tuple[Band, ...]
    pre_filter: tuple[int, int] | None = None
    channels: str = "stereo"

    @classmethod
    def read(cls, value: Any) -> Layout:
        """A published name, or a mapping with the attributes above.

        Raises:
            CheckpointError: no such name, or values that make no spectrogram.
        """
        if isinstance(value, str):
            known = layouts()
            if value not in known:
                raise CheckpointError(f"vr has no layout {value!r}; it has {', '.join(known)}.")
            value = known[value]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"vr's layout is {value!r}, expected a name or a mapping.")
        try:
            bands = tuple(Band(**_as_pairs(band)) for band in value.get("bands", ()))
            layout = cls(**{**_as_pairs(value), "bands": bands})
        except TypeError as error:
            raise CheckpointError(f"vr's layout can't be read: {error}.") from error
        layout._check()
        return layout

    def _check(self) -> None:
        for message in self._faults():
            raise CheckpointError(f"vr's layout: {message}.")

    def _faults(self) -> list[str]:
        numbers = [self.sample_rate, self.bins, *(v for b in self.bands for v in (b.sample_rate, b.hop, b.n_fft))]
        pairs = [self.pre_filter, *(v for b in self.bands for v in (b.crop, b.low_pass, b.high_pass))]
        if not self.bands or not all(type(v) is int and 1 <= v <= 1 << 20 for v in numbers):
            return ["rates, hops and sizes are whole numbers of at least 1, and there is at least one band"]
        for pair in pairs:
            if pair is not None and not (len(pair) == 2 and all(type(v) is int and v >= 0 for v in pair)):
                return [f"{list(pair)} is no pair of bins"]
        top = self.bands[-1]
        faults = []
        if top.sample_rate != self.sample_rate:
            faults.append(f"the highest band has {top.sample_rate} Hz, expected {self.sample_rate} Hz")
        for band in self.bands:
            if band.hop * self.sample_rate != top.hop * band.sample_rate:
                faults.append(
                    f"a hop of {band.hop} samples at {band.sample_rate} Hz is not as long as the highest band's"
                )
            if band.n_fft % 2 or band.hop >= band.n_fft:
                faults.append(f"n_fft {band.n_fft} is not even and longer than the hop, {band.hop}")
            if not band.crop[0] < band.crop[1] <= band.n_fft // 2 + 1:
                faults.append(f"bins {list(band.crop)} are not in a spectrum of {band.n_fft // 2 + 1}")
            if band.channels not in CHANNELS or band.resampler not in _FILTERS:
                faults.append(f"{band.channels!r} or {band.resampler!r} is not known")
        if any(low.sample_rate > high.sample_rate for low, high in zip(self.bands, self.bands[1:], strict=False)):
            faults.append("the bands do not stand from the lowest rate to the highest")
        if self.channels not in CHANNELS:
            faults.append(f"channels are {self.channels!r}, expected one of {', '.join(CHANNELS)}")
        if (taken := sum(band.crop[1] - band.crop[0] for band in self.bands)) > self.bins + 1:
            faults.append(f"the bands have {taken} bins together, more than {self.bins + 1}")
        return faults


def _as_pairs(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@lru_cache(maxsize=1)
def layouts() -> dict[str, Any]:
    """The published layouts: name -> what `Layout.read` takes."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("vr_layouts.json").read_text(encoding="utf-8"))
    return found


class BandSplit:
    """Between the waveform and the spectrogram of a layout.

    Args:
        layout: which bands.
        per_band: True: every band has channels of its own (version 5.1), False: the layout has.
    """

    def __init__(self, layout: Layout, *, per_band: bool) -> None:
        self.layout = layout
        self.hop = layout.bands[-1].hop
        self._channels = [CHANNELS[band.channels if per_band else layout.channels] for band in layout.bands]
        self._bins = layout.bins + 1
        recursive = not per_band and len(layout.bands) > 1
        self._pre_filter = _pre_filter(layout, recursive=recursive)
        self._fades = [_fade(band) for band in layout.bands]
        pairs = list(zip(layout.bands, layout.bands[1:], strict=False))
        self._down = [_resampling(high.sample_rate, low.sample_rate, low.resampler) for low, high in pairs]
        self._up = [_resampling(low.sample_rate, high.sample_rate, _BACK) for low, high in pairs]

    @property
    def reach(self) -> int:
        """Frames to each side, at most, between a sample and a frame that have to do with each other."""
        frames = 0.0
        filters = 0.0  # hops
        for number in reversed(range(len(self.layout.bands))):
            band = self.layout.bands[number]
            if number < len(self._down):
                filters += max(self._down[number].reach, self._up[number].reach) / band.hop
            frames = max(frames, filters + band.n_fft / 2 / band.hop)
        return math.ceil(frames) + 1

    def analyse(self, wave: Tensor) -> Tensor:
        """[b, c, t], t a multiple of the hop -> complex [b, c, f, n], n = t / hop + 1."""
        frames = wave.shape[-1] // self.hop + 1
        spectrum = torch.zeros(*wave.shape[:2], self._bins, frames, dtype=torch.complex64, device=wave.device)
        stop = sum(band.crop[1] - band.crop[0] for band in self.layout.bands)
        for number in reversed(range(len(self.layout.bands))):
            band = self.layout.bands[number]
            if number < len(self._down):
                wave = self._down[number](wave)
            x = stft(_turned(wave, self._channels[number]), band.n_fft, band.hop)
            start = stop - (band.crop[1] - band.crop[0])
            spectrum[:, :, start:stop] = x[:, :, band.crop[0] : band.crop[1]]
            stop = start
        if self._pre_filter is not None:
            spectrum *= self._pre_filter.to(spectrum.device)[:, None]
        return spectrum

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """The way back: complex [b, c, f, n] -> [b, c, t], t = (n - 1) * hop. The input is left as it is."""
        wave: Tensor | None = None
        start = 0
        for number, band in enumerate(self.layout.bands):
            stop = start + band.crop[1] - band.crop[0]
            x = spectrum[:, :, start:stop] * self._fades[number].to(spectrum.device)[:, None]
            x = F.pad(x, (0, 0, band.crop[0], band.n_fft // 2 + 1 - band.crop[1]))
            inverse = np.linalg.inv(np.array(self._channels[number])).tolist()
            part = _turned(istft(x, band.n_fft, band.hop, (x.shape[-1] - 1) * band.hop), inverse)
            wave = part if wave is None else self._up[number - 1](wave) + part
            start = stop
        assert wave is not None
        return wave


def _turned(wave: Tensor, matrix: Any) -> Tensor:
    """Other channels, [b, c, t] -> [b, c, t]; in float32 whatever the precision."""
    if tuple(map(tuple, matrix)) == CHANNELS["stereo"]:
        return wave
    (a, b), (c, d) = matrix
    left, right = wave.unbind(1)
    return torch.stack([a * left + b * right, c * left + d * right], 1)


def _pre_filter(layout: Layout, *, recursive: bool) -> Tensor | None:
    """Gains [f] before the network. The programs before version 5.1 have for several bands g(b) = 10^(-(b - start)
    (3.5 - g(b - 1)) / 20) instead of a ramp: -2.5 dB at the first bin, then ever steeper."""
    if layout.pre_filter is None:
        return None
    start, stop = layout.pre_filter
    if not recursive:
        return _ramp_down(layout.bins + 1, start, stop).float()
    gains = torch.ones(layout.bins + 1)
    gain = 1.0
    for number in range(start + 1, min(stop, layout.bins + 1)):
        gain = 10 ** (-(number - start) * (3.5 - gain) / 20)
        gains[number] = gain
    return gains


def _ramp_down(count: int, start: int, stop: int) -> Tensor:
    """1 below bin `start`, 0 from `stop` - 1 on, a line between. [count], float64"""
    bins = torch.arange(count, dtype=torch.float64)
    line = 1 - (bins - start + 1) / max(1, stop - start)
    return torch.where(bins < min(start, stop), 1.0, torch.where(bins >= stop, 0.0, line)).clamp(0, 1)


def _fade(band: Band) -> Tensor:
    """Gains of the bins taken from a band, on the way back. [crop]"""
    count = band.n_fft // 2 + 1
    bins = torch.arange(count, dtype=torch.float64)
    gains = torch.ones(count, dtype=torch.float64)
    if band.low_pass is not None:
        gains *= _ramp_down(count, *band.low_pass)
    if band.high_pass is not None:
        start, stop = band.high_pass
        gains *= ((bins - stop) / (start - stop + 1)).clamp(0, 1)
    return gains[band.crop[0] : band.crop[1]].float()


class Resampling:
    """Resampling by up / down with a windowed sinc, without delay; silence stands around the signal.

    Output n lies at input n * down / up. With n = q * up + p, and h the filter on the grid of up samples per input
    sample,

        y[q up + p] = Σ_j x[q down + j] h[p down - j up]:

    a convolution with a stride of `down` and `up` output channels, one for each p.

    Args:
        up, down: the ratio in lowest terms.
        taps: h, of odd length, its middle at 0.
    """

    def __init__(self, up: int, down: int, taps: np.ndarray[Any, Any]) -> None:
        half = len(taps) // 2
        self.up, self.down = up, down
        self._before = half // up
        after = ((up - 1) * down + half) // up
        index = np.arange(up)[:, None] * down - np.arange(-self._before, after + 1) * up
        self._weight = torch.from_numpy(np.where(abs(index) <= half, taps[(index + half).clip(0, 2 * half)], 0)).float()
        self._taps = half

    @property
    def reach(self) -> float:
        """Samples, at the lower of both rates, that an output sees to each side."""
        return self._taps / max(self.up, self.down)

    def __call__(self, signal: Tensor) -> Tensor:
        """[..., t] -> [..., ceil(t * up / down)]"""
        length = signal.shape[-1]
        wanted = -(-length * self.up // self.down)
        steps = -(-wanted // self.up)
        after = (steps - 1) * self.down + self._weight.shape[1] - self._before - length
        padded = F.pad(signal.reshape(-1, 1, length), (self._before, max(0, after)))
        with torch.autocast(signal.device.type, enabled=False):
            found = F.conv1d(padded.float(), self._weight.to(signal.device)[:, None], stride=self.down)
        return found[..., :steps].transpose(1, 2).reshape(*signal.shape[:-1], -1)[..., :wanted]


def _unchanged() -> Resampling:
    return Resampling(1, 1, np.ones(1))


def _resampling(before: int, after: int, name: str) -> Resampling:
    common = math.gcd(before, after)
    up, down = after // common, before // common
    if up == down:
        return _unchanged()
    cutoff, beta, crossings = _FILTERS[name]
    scale = max(up, down)  # grid samples between zero crossings at full bandwidth
    half = math.floor(crossings * scale)
    t = np.arange(-half, half + 1) / scale
    window = np.i0(beta * np.sqrt(np.clip(1 - (t / crossings) ** 2, 0, 1))) / np.i0(beta)
    taps = cutoff * np.sinc(cutoff * t) * window
    return Resampling(up, down, taps * (up / taps.sum()))
