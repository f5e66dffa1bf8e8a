"""Voices taken apart into pitch, spectral envelope and breath, and put together again on another pitch and timing.

Analysis and synthesis are WORLD's (Morise, Yokomori, Ozawa: "WORLD: a vocoder-based high-quality speech synthesis
system for real-time applications", 2016) through pyworld. Recordings that end early are continued to 22 kHz: breath and
consonants go on as bright as they end, voiced sound falls by about 12 dB per octave, and all of it is breath up there.
Otherwise a network would learn that sound without highs is a voice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from unmixcli.training.synthesis.melody import FRAME
from unmixcli.training.synthesis.needs import need
from unmixcli.training.synthesis.sound import RATE, Random, Samples, load, resample

BINS = 1025  # of an envelope: 0 to 22.05 kHz
_BREATH_BINS = 65  # the share of breath is smooth; kept on a coarser grid
_FLOOR_HZ = 60.0


@dataclass(frozen=True)
class Analysis:
    """A recording in frames of 8 ms.

    Attributes:
        pitch: Hz per frame [N], 0 where unvoiced.
        envelope: natural logarithm of power [N, 1025]; voiced frames are at 0 on average over 100 Hz - 5 kHz.
        breath: share of noise in the amplitude, 0 … 1, [N, 65].
    """

    pitch: NDArray[np.float64]
    envelope: NDArray[np.float16]
    breath: NDArray[np.float16]

    @property
    def frames(self) -> int:
        """N."""
        return len(self.pitch)


@lru_cache(maxsize=300)
def analyse(path: Path) -> Analysis:
    """Analyse a recording at its own bandwidth and continue it to 22 kHz. Kept, since speakers sing many songs."""
    world = need("pyworld")
    audio, rate = load(path)
    mono = audio.mean(axis=0, keepdims=True)
    own = rate if rate in (16000, 22050, 24000) else RATE
    mono = resample(mono, rate, own)
    wave = np.ascontiguousarray(mono[0], np.float64)
    wave = np.pad(wave, (0, max(0, own // 4 - len(wave))))
    wave += 1e-5 * np.random.default_rng(0).standard_normal(len(wave))  # exact silence has no spectrum
    pitch, times = world.dio(wave, own, f0_floor=_FLOOR_HZ, frame_period=1000 * FRAME)
    pitch = world.stonemask(wave, pitch, times, own)
    envelope = np.log(world.cheaptrick(wave, pitch, times, own) + 1e-12)
    breath = world.d4c(wave, pitch, times, own)
    return _completed(pitch, envelope, breath, own)


def _completed(
    pitch: NDArray[np.float64], envelope: NDArray[np.float64], breath: NDArray[np.float64], rate: int
) -> Analysis:
    """On the common grid, continued above the recording's own bandwidth, at a common level."""
    grid = np.linspace(0.0, RATE / 2, BINS)
    own = np.linspace(0.0, rate / 2, envelope.shape[1])
    edge = _bandwidth(envelope, own)
    inside = grid <= edge
    full = np.empty((len(pitch), BINS))
    position = grid[inside] / own[1]
    index = np.minimum(position.astype(int), len(own) - 2)
    part = (position - index).astype(np.float64)
    full[:, inside] = envelope[:, index] * (1 - part) + envelope[:, index + 1] * part
    if not inside.all():
        last = int(inside.sum()) - 1
        below = grid > 0.75 * edge
        tail = full[:, below & inside].mean(axis=1, keepdims=True)
        octaves = np.log2(grid[last + 1 :] / grid[last])[None]
        voiced = (pitch > 0)[:, None]
        slope = np.where(voiced, -12.0, -4.0) * (np.log(10.0) / 10.0)
        full[:, last + 1 :] = tail + slope * octaves
    coarse = np.linspace(0.0, RATE / 2, _BREATH_BINS)
    at = np.minimum(np.searchsorted(own, np.minimum(coarse, edge)), len(own) - 1)
    share = breath[:, at].copy()
    share[:, coarse > min(edge, 9000.0)] = np.maximum(share[:, coarse > min(edge, 9000.0)], 0.9)
    voiced_frames = pitch > 0
    body = (grid > 100.0) & (grid < 5000.0)
    if voiced_frames.any():
        loud = np.log(np.exp(full[voiced_frames][:, body]).mean(axis=1))
        full -= float(np.quantile(loud, 0.7))
    return Analysis(pitch, np.clip(full, -30.0, 10.0).astype(np.float16), share.astype(np.float16))


def _bandwidth(envelope: NDArray[np.float64], own: NDArray[np.float64]) -> float:
    """Where a recording ends, in Hz: the lowest frequency over 3.5 kHz after which its mean spectrum falls by 15 dB
    within 500 Hz (a resampler's or a codec's filter), else just below its highest frequency."""
    mean = envelope.mean(axis=0) * (10.0 / np.log(10.0))
    step = max(1, round(500.0 / own[1]))
    falls = (mean[:-step] - mean[step:] > 15.0) & (own[:-step] > 3500.0)
    if falls.any():
        return float(own[np.argmax(falls)]) - 100.0
    return 0.46 * 2.0 * float(own[-1])


@dataclass(frozen=True)
class Timbre:
    """What a singer's throat does to every sound.

    Attributes:
        formants: factor on all resonances: 1.15 a smaller head, 0.88 a larger one.
        tilt_db: per octave over 1 kHz on top of the recording's: positive is pressed or bright.
        breath: added share of noise, 0 … 0.4.
        ring_db: the singer's formant, a boost around 3 kHz.
    """

    formants: float
    tilt_db: float
    breath: float
    ring_db: float

    @classmethod
    def draw(cls, rng: Random, low_voice: bool) -> Timbre:
        """Someone's; low voices come from larger heads."""
        middle = 0.94 if low_voice else 1.06
        return cls(
            float(middle * 2.0 ** rng.normal(0.0, 0.08)),
            float(rng.normal(-0.3, 1.2)),
            float(max(rng.normal(0.02, 0.08), 0.0)),
            float(max(rng.normal(1.5, 2.5), 0.0)),
        )


def synthesize(
    analysis: Analysis,
    frames: NDArray[np.float64],
    pitch: NDArray[np.float64],
    timbre: Timbre,
    level: NDArray[np.float64],
) -> Samples:
    """Sound of the analysed frames in another order and speed.

    Args:
        analysis: the recording.
        frames: position in the recording per frame of the result, fractions too [M].
        pitch: Hz per frame, 0 for unvoiced [M].
        timbre: the throat.
        level: factor on the amplitude [M].

    Returns:
        [1, about M × 8 ms], voiced parts at about −20 dBFS.
    """
    world = need("pyworld")
    lower = np.clip(frames.astype(int), 0, analysis.frames - 1)
    upper = np.minimum(lower + 1, analysis.frames - 1)
    part = (frames - lower)[:, None]
    envelope = analysis.envelope[lower].astype(np.float64) * (1 - part) + analysis.envelope[upper] * part
    grid = np.arange(BINS)
    # a resonance at f moves to f × formants
    source = grid / timbre.formants
    index = np.minimum(source.astype(int), BINS - 2)
    share = np.minimum(source - index, 1.0)
    envelope = envelope[:, index] * (1 - share) + envelope[:, index + 1] * share
    hertz = np.maximum(grid * (RATE / 2 / (BINS - 1)), 20.0)
    colour_db = timbre.tilt_db * np.log2(np.clip(hertz, 1000.0, 12000.0) / 1000.0)
    colour_db += timbre.ring_db * np.exp(-0.5 * (np.log2(hertz / 3000.0) / 0.35) ** 2)
    colour_db -= 30.0 * (hertz < 40.0)
    envelope += (colour_db * (np.log(10.0) / 10.0))[None] + 2.0 * np.log(np.maximum(level, 1e-4))[:, None]
    breath = analysis.breath[lower].astype(np.float64)
    fine = np.arange(BINS) * ((_BREATH_BINS - 1) / (BINS - 1))
    at = np.minimum(fine.astype(int), _BREATH_BINS - 2)
    rest = fine - at
    breath = breath[:, at] * (1 - rest) + breath[:, at + 1] * rest
    breath = np.clip(breath + timbre.breath * (0.3 + 0.7 * np.linspace(0, 1, BINS)), 0.0, 1.0)
    power = np.ascontiguousarray(np.exp(envelope))
    wave = world.synthesize(np.ascontiguousarray(pitch), power, np.ascontiguousarray(breath), RATE, 1000 * FRAME)
    return (wave[None] * _WORLD_LEVEL).astype(np.float32)


_WORLD_LEVEL = 0.22  # WORLD's power is per bin of its own window; measured so that voiced parts come near −20 dBFS


@dataclass(frozen=True)
class Syllable:
    """Frames of one syllable: from `begin` to `end`, loudest at `peak`, voiced within `reach` frames of it."""

    begin: int
    peak: int
    end: int
    reach: int


def syllables(analysis: Analysis) -> list[Syllable]:
    """Cut at the quietest places between the loud voiced ones; recordings without voice give none."""
    low, high = round(300 / 22050 * BINS), round(4000 / 22050 * BINS)
    power = np.log(np.exp(analysis.envelope[:, low:high].astype(np.float64)).mean(axis=1) + 1e-9)
    smooth = gaussian_filter1d(power, 0.02 / FRAME)
    voiced = analysis.pitch > 0
    peaks, _ = find_peaks(np.where(voiced, smooth, -20.0), distance=round(0.11 / FRAME), height=-3.5, prominence=0.5)
    cuts = [int(a + np.argmin(smooth[a:b])) for a, b in pairwise(peaks)]
    if len(peaks) == 0:
        return []
    first = max(int(peaks[0]) - round(0.2 / FRAME), 0)
    last = min(int(peaks[-1]) + round(0.25 / FRAME), analysis.frames - 1)
    edges = [first, *cuts, last]
    breaks = np.flatnonzero(~voiced)
    found = []
    for begin, peak, end in zip(edges[:-1], peaks.tolist(), edges[1:], strict=True):
        reach = int(np.abs(breaks - peak).min(initial=analysis.frames)) - 1
        reach = min(reach, peak - begin, end - peak)
        if end - begin >= round(0.06 / FRAME) and reach >= 1:
            found.append(Syllable(begin, peak, end, reach))
    return found


def stretched(syllable: Syllable, count: int, rng: Random) -> NDArray[np.float64]:
    """Positions [count] that make the syllable last so many frames: consonants keep their speed."""
    before, after = syllable.peak - syllable.begin, syllable.end - syllable.peak
    lead = min(before, count // 2)
    tail = min(after, count // 3)
    middle = count - lead - tail
    # the vowel goes slowly over some frames around its peak
    reach = min(0.03 / FRAME + middle * 0.08, before * 0.6, after * 0.6, syllable.reach * 0.8)
    start = np.linspace(syllable.begin, syllable.peak - reach, lead, endpoint=False)
    vowel = np.linspace(syllable.peak - reach, syllable.peak + reach, middle, endpoint=False)
    end = np.linspace(syllable.peak + reach, syllable.end, tail)
    if middle > 8:
        wander = gaussian_filter1d(rng.standard_normal(middle), 0.03 / FRAME)
        vowel = np.clip(vowel + wander, syllable.peak - syllable.reach, syllable.peak + syllable.reach)
    return np.clip(np.concatenate([start, vowel, end]), syllable.begin, syllable.end)
