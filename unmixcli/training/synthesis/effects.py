"""Studio effects on whole tracks [C, T]: equalizers, dynamics, rooms, echoes, saturation.

Linear effects work on one spectrum of the whole signal, dynamics at 64-sample steps: some hundred times real time on
one core. Nothing writes into its input, and outputs have the input's length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from unmixcli.training.synthesis.sound import RATE, Random, Samples, gain

STEP = 64  # samples between two values of a dynamics processor: 1.5 ms
Curve = Callable[[NDArray[Any]], NDArray[Any]]


def shape_spectrum(audio: Samples, level_db: Curve, tail: int = 8192) -> Samples:
    """Filter with a magnitude given in dB over Hz, as the minimum-phase filter an analogue equalizer is."""
    response = minimum_phase(level_db, tail)
    return convolve(audio, response[None])


def minimum_phase(level_db: Curve, length: int = 8192) -> Samples:
    """The impulse response [length] with this magnitude whose energy comes earliest (real cepstrum, folded)."""
    frequencies = np.fft.rfftfreq(length, 1.0 / RATE)
    log_magnitude = np.clip(level_db(frequencies), -100.0, 60.0) * (np.log(10.0) / 20.0)
    cepstrum = np.fft.irfft(log_magnitude, length)
    cepstrum[1 : length // 2] *= 2.0
    cepstrum[length // 2 + 1 :] = 0.0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), length).astype(np.float32)


def convolve(audio: Samples, response: Samples) -> Samples:
    """[C, T] with [1 or C, t], cut to T."""
    out: Samples = signal.oaconvolve(audio, np.broadcast_to(response, (audio.shape[0], response.shape[1])), axes=1)
    return np.ascontiguousarray(out[:, : audio.shape[1]], np.float32)


def bell(centre_hz: float, level_db: float, octaves: float) -> Curve:
    """A boost or cut around a frequency."""
    return lambda f: level_db * np.exp(-0.5 * (np.log2(np.maximum(f, 1.0) / centre_hz) / (octaves / 2.0)) ** 2)


def low_cut(cutoff_hz: float, db_per_octave: float) -> Curve:
    """Less and less below the frequency (−3 dB there)."""
    order = db_per_octave / 6.0
    return lambda f: -10.0 * np.log10(1.0 + (cutoff_hz / np.maximum(f, 1.0)) ** (2.0 * order))


def high_cut(cutoff_hz: float, db_per_octave: float) -> Curve:
    """Less and less above the frequency (−3 dB there)."""
    order = db_per_octave / 6.0
    return lambda f: -10.0 * np.log10(1.0 + (f / cutoff_hz) ** (2.0 * order))


def shelf(corner_hz: float, level_db: float) -> Curve:
    """A lift (or cut) of everything above the corner, over about two octaves."""
    return lambda f: level_db / (1.0 + (corner_hz / np.maximum(f, 1.0)) ** 2.0)


def curves(*parts: Curve) -> Curve:
    """Filters one after the other."""
    return lambda f: np.sum([part(f) for part in parts], axis=0)


def random_equalizer(rng: Random, strength_db: float) -> Curve:
    """What a mixing engineer may have turned: three bells and a tilt."""
    bells = [
        bell(
            float(centre * 2 ** rng.uniform(-0.7, 0.7)),
            float(rng.normal(0.0, strength_db)),
            float(rng.uniform(0.7, 2.5)),
        )
        for centre in (150.0, 800.0, 3500.0)
    ]
    return curves(*bells, shelf(float(rng.uniform(3000, 9000)), float(rng.normal(0.0, strength_db))))


def envelope(audio: Samples) -> NDArray[np.float64]:
    """Power per step of 64 samples, the louder channel's: [ceil(T / 64)]."""
    power = np.max(audio * audio, axis=0)
    padded = np.pad(power, (0, -len(power) % STEP))
    mean: NDArray[np.float64] = padded.reshape(-1, STEP).mean(axis=1).astype(np.float64)
    return mean


def reduction(
    level_db: NDArray[np.float64], *, threshold_db: float, ratio: float, attack: float, release: float
) -> NDArray[np.float64]:
    """Gain in dB (≤ 0) of a compressor for a level per step; attack and release in seconds."""
    over = np.maximum(level_db - threshold_db, 0.0)
    wanted = -over * (1.0 - 1.0 / ratio)
    rise, fall = (float(np.exp(-STEP / RATE / max(time, 1e-4))) for time in (attack, release))
    held, out = 0.0, []
    for target in wanted.tolist():
        held = target + (held - target) * (rise if target < held else fall)
        out.append(held)
    return np.array(out)


def steps_to_gain(reduction_db: NDArray[np.float64], length: int) -> Samples:
    """A gain per step in dB as a smooth factor per sample [T]."""
    at = (np.arange(len(reduction_db)) + 0.5) * STEP
    factors = 10.0 ** (reduction_db / 20.0)
    return np.interp(np.arange(length), at, factors).astype(np.float32)


def compress(
    audio: Samples,
    *,
    above_mean_db: float,
    ratio: float,
    attack: float = 0.01,
    release: float = 0.15,
    mix: float = 1.0,
) -> Samples:
    """A compressor whose threshold follows the material: so many dB over its mean level where it sounds."""
    level = 10.0 * np.log10(envelope(audio) + 1e-12)
    sounding = level[level > level.max(initial=-120.0) - 40.0]
    if len(sounding) == 0:
        return audio.copy()
    threshold = float(10.0 * np.log10(np.mean(10.0 ** (sounding / 10.0)))) + above_mean_db
    lowered = reduction(level, threshold_db=threshold, ratio=ratio, attack=attack, release=release)
    factor = steps_to_gain(lowered, audio.shape[1])
    return (audio * (1.0 - mix + mix * factor)).astype(np.float32)


def saturate(audio: Samples, drive_db: float, asymmetry: float = 0.0) -> Samples:
    """Tape or valve: tanh with the peak driven to `drive_db` over the knee; the level stays about the same."""
    peak = float(np.max(np.abs(audio), initial=0.0))
    if peak == 0.0:
        return audio.copy()
    drive = gain(drive_db) / np.float32(peak)
    bent = np.tanh(audio * drive + np.float32(asymmetry)) - np.tanh(np.float32(asymmetry))
    before, after = float(np.sqrt(np.mean(audio * audio))), float(np.sqrt(np.mean(bent * bent)))
    return (bent * np.float32(before / max(after, 1e-9))).astype(np.float32)


def excite(audio: Samples, level_db: float, corner_hz: float = 5000.0) -> Samples:
    """Highs that a dark recording lacks: overtones of its upper middle, added over the corner.

    Args:
        level_db: of the added highs relative to the upper middle they come from.
    """
    middle = high_pass(audio, corner_hz / 2.5)
    level = float(np.sqrt(np.mean(middle * middle)))
    if level < 1e-7:
        return audio.copy()
    bent = high_pass(np.abs(np.tanh(middle * np.float32(0.5 / level))), corner_hz)
    made = float(np.sqrt(np.mean(bent * bent)))
    return (audio + bent * np.float32(level / max(made, 1e-9)) * gain(level_db)).astype(np.float32)


def room_response(rng: Random, decay: float, *, pre_delay: float = 0.01, bright_hz: float = 6000.0) -> Samples:
    """A stereo room [2, t] that falls by 60 dB in `decay` seconds, highs sooner; unit energy per side."""
    length = int(RATE * (pre_delay + 1.1 * decay))
    start = int(RATE * pre_delay)
    time = np.arange(length - start) / RATE
    noise = rng.standard_normal((2, length - start)).astype(np.float32)
    # three bands that die away at their own speed
    splits = [signal.butter(2, edge, fs=RATE, output="sos").astype(np.float32) for edge in (700.0, bright_hz)]
    low = signal.sosfilt(splits[0], noise)
    middle = signal.sosfilt(splits[1], noise) - low
    tails = [np.exp(-6.9 * time / (decay * factor)).astype(np.float32) for factor in (1.1, 1.0, 0.45)]
    body = low * tails[0] + middle * tails[1] + 0.3 * (noise - low - middle) * tails[2]
    response = np.zeros((2, length), np.float32)
    response[:, start:] = body * np.minimum(time / 0.015 + 0.2, 1.0).astype(np.float32)
    for _ in range(int(rng.integers(4, 12))):
        at = start + int(rng.uniform(0.0, 0.06) * RATE)
        if at < length:
            response[:, at] += rng.normal(0.0, 0.25 * float(np.abs(body).max()) * 6.0, 2).astype(np.float32)
    return (response / np.sqrt(np.sum(response**2, axis=1, keepdims=True))).astype(np.float32)


def reverb(audio: Samples, rng: Random, *, decay: float, level_db: float, pre_delay: float = 0.01) -> Samples:
    """Stereo [2, T] with a room added at this level relative to the dry sound."""
    wet = convolve(audio, room_response(rng, decay, pre_delay=pre_delay, bright_hz=float(rng.uniform(3000, 9000))))
    return audio + gain(level_db) * wet


def echo(
    audio: Samples, *, interval: float, feedback: float, level_db: float, cross: bool, cutoff_hz: float
) -> Samples:
    """Repeats at `interval` seconds; `cross` sends them from side to side."""
    shift = max(1, int(interval * RATE))
    wet = np.zeros_like(audio)
    source = signal.sosfilt(
        signal.butter(1, [250.0, cutoff_hz], "band", fs=RATE, output="sos").astype(np.float32), audio
    )
    level = gain(level_db)
    for turn in range(1, 6):
        if turn * shift >= audio.shape[1] or level < 0.003:
            break
        repeat = source[::-1] if cross and turn % 2 else source
        wet[:, turn * shift :] += level * repeat[:, : -turn * shift]
        level *= np.float32(feedback)
    return audio + wet


def chorus(audio: Samples, rng: Random, *, depth: float = 0.003, mix: float = 0.5) -> Samples:
    """Copies with wandering delays, another one on each side; depth in seconds."""
    length = audio.shape[1]
    time = np.arange(length)
    out = []
    for channel in audio:
        speed = float(rng.uniform(0.2, 1.2)) * 2 * np.pi / RATE
        delay = RATE * (0.008 + depth * (1.0 + np.sin(time * speed + rng.uniform(0, 6.28))) / 2.0)
        out.append((1.0 - 0.5 * mix) * channel + mix * np.interp(time - delay, time, channel))
    return np.stack(out).astype(np.float32)


def band_limit(audio: Samples, low_hz: float, high_hz: float) -> Samples:
    """A telephone, a radio: steep on both sides."""
    sos = signal.butter(4, [low_hz, high_hz], "band", fs=RATE, output="sos").astype(np.float32)
    return signal.sosfilt(sos, audio).astype(np.float32)


def high_pass(audio: Samples, cutoff_hz: float, order: int = 2) -> Samples:
    """A Butterworth high-pass."""
    sos = signal.butter(order, cutoff_hz, "high", fs=RATE, output="sos").astype(np.float32)
    return signal.sosfilt(sos, audio).astype(np.float32)


def oversampled(audio: Samples, bend: Callable[[Samples], Samples], factor: int = 2) -> Samples:
    """Apply a curve at a multiple of the rate, so that fewer of its overtones fold back."""
    length = audio.shape[1]
    size = fft.next_fast_len(length, real=True)
    spectrum = fft.rfft(audio, size)
    wide = np.zeros((audio.shape[0], size * factor // 2 + 1), np.complex64)
    wide[:, : spectrum.shape[1]] = spectrum
    bent = bend(fft.irfft(wide * np.float32(factor), size * factor).astype(np.float32))
    narrow = fft.rfft(bent)[:, : size // 2 + 1] / np.float32(factor)
    return np.ascontiguousarray(fft.irfft(narrow, size)[:, :length], np.float32)


def fade(audio: Samples, begin: int, end: int) -> Samples:
    """Straight fades over the first and the last so many samples."""
    out = audio.copy()
    begin, end = min(begin, out.shape[1]), min(end, out.shape[1])
    if begin:
        out[:, :begin] *= np.linspace(0.0, 1.0, begin, dtype=np.float32)
    if end:
        out[:, -end:] *= np.linspace(1.0, 0.0, end, dtype=np.float32)
    return out


def loudness_db(audio: Samples) -> float:
    """Mean level in dB where the signal sounds, about as ITU-R BS.1770 has it (K-weighting, gate)."""
    if audio.shape[1] == 0:
        return -120.0
    weight = signal.butter(2, 60.0, "high", fs=RATE, output="sos").astype(np.float32)
    weighted = signal.sosfilt(weight, audio)
    high = signal.sosfilt(signal.butter(1, 1500.0, "high", fs=RATE, output="sos").astype(np.float32), weighted)
    weighted = weighted + np.float32(0.58) * high  # the +4 dB shelf
    block = int(0.4 * RATE)
    power = np.sum(weighted * weighted, axis=0)
    blocks = np.pad(power, (0, -len(power) % block)).reshape(-1, block).mean(axis=1).astype(np.float64)
    loud = blocks[blocks > 1e-7]
    if len(loud) == 0:
        return -120.0
    loud = loud[loud > 0.1 * loud.mean()]
    return float(10.0 * np.log10(loud.mean())) - 0.7


def mix_down(parts: Sequence[Samples], length: int) -> Samples:
    """The sum of stereo parts, each cut or padded to [2, length]."""
    out = np.zeros((2, length), np.float32)
    for part in parts:
        count = min(length, part.shape[1])
        out[:, :count] += part[:, :count]
    return out
