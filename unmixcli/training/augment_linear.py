"""Augmentations that are linear and time-invariant for each stem: gains, signs, delays and filters.

Filters run as one FFT over the excerpt: what they would carry over from before its start is not there. Equalisers are
the biquads of Robert Bristow-Johnson's "Audio EQ Cookbook"; reverberation is noise that decays exponentially, faster in
the highs, after a few early reflections (as in J. A. Moorer, "About This Reverberation Business", 1979).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from unmixcli.training.augment_checks import check_range, check_share

Samples = NDArray[np.float32]
Rng = np.random.Generator

# Length of the impulse response of a filter: bands of 40 Hz have died away in it.
_FILTER_SECONDS = 0.1


def gain(audio: Samples, rng: Rng, *, sample_rate: int, low_db: float = -10.0, high_db: float = 3.0) -> Samples:
    """Every stem louder or softer, evenly drawn in dB."""
    check_range("low_db", low_db, "high_db", high_db, -120, 60)
    factors = 10 ** (rng.uniform(low_db, high_db, audio.shape[:-2]) / 20)
    return scale(audio, factors)


def balance(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    level_db: float = -20.0,
    spread_db: float = 3.0,
    most_db: float = 20.0,
) -> Samples:
    """Every stem at one level, so that all are equally loud: mixtures at 0 dB, as the papers on MIR-1K have them.

    Args:
        level_db: root mean square of a stem, in dBFS.
        spread_db: at most so much more or less, evenly drawn.
        most_db: the most that a quiet stem is raised; a silent one stays silent.
    """
    check_range("-120", -120.0, "level_db", level_db, -120, 0)
    check_range("0", 0.0, "spread_db", spread_db, 0, 60)
    check_range("0", 0.0, "most_db", most_db, 0, 120)
    wanted = 10 ** ((level_db + rng.uniform(-spread_db, spread_db, audio.shape[:-2])) / 20)
    loud = np.sqrt(np.mean(np.square(audio), axis=(-2, -1), dtype=np.float64)) if audio.size else np.ones_like(wanted)
    return scale(audio, np.minimum(wanted / np.maximum(loud, 1e-12), 10 ** (most_db / 20)))


def polarity(audio: Samples, rng: Rng, *, sample_rate: int) -> Samples:
    """Every stem upside down, or not."""
    signs = rng.integers(0, 2, audio.shape[:-2]) * 2 - 1
    return scale(audio, signs)


def channel_swap(audio: Samples, rng: Rng, *, sample_rate: int) -> Samples:
    """Left and right of every stem exchanged, or not."""
    for place in np.ndindex(audio.shape[:-2]):
        if rng.integers(2):
            audio[place] = audio[place][::-1].copy()
    return audio


def width(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low: float = 0.0,
    high: float = 1.5,
    balance_db: float = 2.0,
    mono: float = 0.3,
) -> Samples:
    """Every stem narrower or wider and a little to one side, or all of them mono.

    Rendered basses have no side at all and everything else has one, so a network takes what has none for the bass; in
    mono recordings, and in the lows of many others, nothing has.

    Args:
        low, high: factor of the side, (left - right) / 2.
        balance_db: between left and right at most, either way.
        mono: probability that all stems lose their side and stay in the middle.
    """
    check_range("low", low, "high", high, 0, 10)
    check_range("0", 0.0, "balance_db", balance_db, 0, 60)
    check_share("mono", mono)
    places = audio.shape[:-2]
    factors = rng.uniform(low, high, places)
    tilts = 10 ** (rng.uniform(-balance_db, balance_db, places) / 40)
    if rng.random() < mono:
        factors, tilts = np.zeros(places), np.ones(places)
    # left and right of the output from left and right: the side scaled, then the balance
    near, far = (1 + factors) / 2, (1 - factors) / 2
    matrix = np.array([[near * tilts, far * tilts], [far / tilts, near / tilts]], np.float32)
    mixed: Samples = np.moveaxis(matrix, (0, 1), (-2, -1)) @ audio
    return mixed


def mute(audio: Samples, rng: Rng, *, sample_rate: int, share: float = 0.2) -> Samples:
    """Each stem silent with probability `share`, but never all of them: what a stem that is absent shall become."""
    check_share("share", share)
    quiet = np.atleast_1d(rng.random(audio.shape[:-2]) < share)
    flat = quiet.reshape(-1)
    if flat.all():
        flat[rng.integers(len(flat))] = False
    return scale(audio, ~flat.reshape(audio.shape[:-2]))


def circular_shift(audio: Samples, rng: Rng, *, sample_rate: int, seam_ms: float = 5.0, step: int = 1) -> Samples:
    """Every stem turned round by a delay of its own; the seam is faded on both sides so that it doesn't click.

    "Joint Optimization of Masks and Deep Recurrent Neural Networks for Monaural Source Separation" (Huang et al., 2015)
    shifts one source against the other this way, by multiples of 10,000 samples.

    Args:
        seam_ms: of the fade on each side of the seam.
        step: delays are multiples of so many samples.
    """
    check_range("0", 0.0, "seam_ms", seam_ms, 0, 1000)
    if step < 1:
        raise ValueError(f"step is {step}, expected 1 or more")
    length = audio.shape[-1]
    fade = min(round(seam_ms * sample_rate / 1000), length // 2)
    ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    for place in np.ndindex(audio.shape[:-2]):
        shift = int(rng.integers(-(-length // step))) * step if length else 0
        if shift == 0:
            continue
        target = audio[place]
        target[:] = np.roll(target, shift, axis=-1)
        target[:, shift : shift + fade] *= ramp[: length - shift]
        before = min(fade, shift)
        target[:, shift - before : shift] *= ramp[:before][::-1]
    return audio


def eq(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    bands: int = 3,
    high_db: float = 6.0,
    together: bool = False,
) -> Samples:
    """Tone controls with a random setting: a shelf at each end and `bands` - 2 bells between, up to ±`high_db`.

    Args:
        together: one setting for all stems, as an equaliser on the bus.
    """
    if not 1 <= bands <= 16:
        raise ValueError(f"bands is {bands}, expected 1 to 16")
    check_range("0", 0.0, "high_db", high_db, 0, 60)
    places = () if together else audio.shape[:-2]
    responses = np.stack([_eq_response(rng, sample_rate, bands, high_db) for _ in range(int(np.prod(places)))])
    return convolve(audio, responses.reshape(*places, 1, -1))


def band_limit(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_hz: float = 6000.0,
    high_hz: float = 18000.0,
    bottom_hz: float = 0.0,
    together: bool = True,
) -> Samples:
    """Nothing above a frequency between `low_hz` and `high_hz`, as in old recordings and lossy files.

    Args:
        bottom_hz: nothing below a frequency between 20 Hz and this either (a telephone: 300); 0: no such filter.
        together: the same for all stems.
    """
    check_range("low_hz", low_hz, "high_hz", high_hz, 50, 1e6)
    check_range("0", 0.0, "bottom_hz", bottom_hz, 0, low_hz)
    places = () if together else audio.shape[:-2]
    responses = []
    for _ in range(int(np.prod(places))):
        top = float(np.exp(rng.uniform(np.log(low_hz), np.log(high_hz))))
        bottom = float(np.exp(rng.uniform(np.log(20), np.log(max(bottom_hz, 20)))))
        sections = []
        if top < 0.49 * sample_rate:
            sections.append(scipy.signal.butter(10, top, "lowpass", fs=sample_rate, output="sos"))
        if bottom_hz:
            sections.append(scipy.signal.butter(4, bottom, "highpass", fs=sample_rate, output="sos"))
        responses.append(_impulse_response(sections, sample_rate))
    return convolve(audio, np.stack(responses).reshape(*places, 1, -1))


def reverb(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    low_seconds: float = 0.2,
    high_seconds: float = 1.5,
    low_db: float = -30.0,
    high_db: float = -8.0,
) -> Samples:
    """One room for all stems, each of which is sent into it by its own amount.

    Args:
        low_seconds, high_seconds: time in which the sound falls by 60 dB.
        low_db, high_db: level of the reverberation relative to the stem.
    """
    check_range("low_seconds", low_seconds, "high_seconds", high_seconds, 0.01, 20)
    check_range("low_db", low_db, "high_db", high_db, -120, 20)
    room = _room(rng, sample_rate, float(rng.uniform(low_seconds, high_seconds)))
    sends = 10 ** (rng.uniform(low_db, high_db, audio.shape[:-2]) / 20)
    wet = scale(convolve(audio, room), sends)
    return np.add(wet, audio, out=wet)


def scale(audio: Samples, factors: Any) -> Samples:
    """Multiply [..., 2, T] by factors [...], in place."""
    wide: Samples = np.asarray(factors, np.float32)[..., None, None]
    np.multiply(audio, wide, out=audio)
    return audio


def convolve(audio: Samples, responses: Samples) -> Samples:
    """Filter [..., 2, T] with impulse responses [..., 1 or 2, K] that broadcast to it; the first T samples."""
    length = audio.shape[-1]
    if length == 0:
        return audio
    responses = responses[..., :length]
    size = scipy.fft.next_fast_len(length + responses.shape[-1] - 1, real=True)
    spectrum = scipy.fft.rfft(audio, size)
    spectrum *= scipy.fft.rfft(np.asarray(responses, np.float32), size)
    filtered: Samples = np.ascontiguousarray(scipy.fft.irfft(spectrum, size, overwrite_x=True)[..., :length])
    return filtered


def _eq_response(rng: Rng, sample_rate: int, bands: int, high_db: float) -> Samples:
    """Impulse response of a random equaliser."""
    nyquist = sample_rate / 2
    kinds = ["low_shelf", *["bell"] * (bands - 2), "high_shelf"][:bands]
    sections = []
    for kind in kinds:
        low, high = {"low_shelf": (60, 400), "bell": (45, 8000), "high_shelf": (2000, 12000)}[kind]
        hz = min(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 0.9 * nyquist)
        width = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))) if kind == "bell" else 0.707
        sections.append(biquad(kind, hz, float(rng.uniform(-high_db, high_db)), width, sample_rate))
    return _impulse_response([np.stack(sections)], sample_rate)


def biquad(kind: str, hz: float, level_db: float, q: float, sample_rate: int) -> NDArray[np.float64]:
    """One second-order section [6] of the cookbook: "bell", "low_shelf" or "high_shelf"."""
    a = 10 ** (level_db / 40)
    w = 2 * np.pi * hz / sample_rate
    alpha, cos = np.sin(w) / (2 * q), np.cos(w)
    if kind == "bell":
        section = np.array([1 + alpha * a, -2 * cos, 1 - alpha * a, 1 + alpha / a, -2 * cos, 1 - alpha / a])
    else:
        c = cos if kind == "low_shelf" else -cos  # a high shelf is a low one with the spectrum turned round
        root = 2 * np.sqrt(a) * alpha
        section = np.array(
            [
                a * ((a + 1) - (a - 1) * c + root),
                2 * a * ((a - 1) - (a + 1) * c),
                a * ((a + 1) - (a - 1) * c - root),
                (a + 1) + (a - 1) * c + root,
                -2 * ((a - 1) + (a + 1) * c),
                (a + 1) + (a - 1) * c - root,
            ]
        )
        if kind == "high_shelf":
            section[[1, 4]] *= -1
    normal: NDArray[np.float64] = section / section[3]
    return normal


def _impulse_response(sections: list[NDArray[np.float64]], sample_rate: int) -> Samples:
    impulse = np.zeros(max(1, round(_FILTER_SECONDS * sample_rate)))
    impulse[0] = 1
    for section in sections:
        impulse = scipy.signal.sosfilt(section, impulse)
    return impulse.astype(np.float32)


def _room(rng: Rng, sample_rate: int, seconds: float) -> Samples:
    """Impulse response [2, K] of energy 1 on each side, without the direct sound."""
    length = max(8, round(seconds * sample_rate))
    time = np.arange(length, dtype=np.float32) / sample_rate
    noise = rng.standard_normal((2, length), np.float32)
    low = scipy.signal.lfilter([0.3], [1, -0.7], noise).astype(np.float32)  # below about 2.5 kHz at 44.1 kHz
    fall = np.float32(-3 * np.log(10) / seconds)  # amplitude 1/1000 after `seconds`
    damping = np.float32(rng.uniform(1.5, 4))
    decay = np.exp(fall * time)
    room = low * decay + (noise - low) * np.exp(damping * fall * time)
    delay = min(round(rng.uniform(0.002, 0.04) * sample_rate), length - 1)
    room = np.concatenate([np.zeros((2, delay), np.float32), room[:, : length - delay]], axis=1)
    for _ in range(6):
        at = int(rng.integers(delay // 2, max(delay // 2 + 1, min(length, delay + round(0.05 * sample_rate)))))
        room[int(rng.integers(2)), at] += np.float32(rng.uniform(-4, 4))
    energy = np.sqrt(np.square(room).sum(axis=1, keepdims=True)) + np.float32(1e-9)
    return np.asarray(room / energy, np.float32)
