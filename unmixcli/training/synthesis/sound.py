"""What all of the recipe agrees on: 44.1 kHz float32 [C, T], loading a file, and small measures of level."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from unmixcli.audio.decode import open_audio

RATE = 44100
Samples = NDArray[np.float32]
Random = np.random.Generator


def load(path: Path) -> tuple[Samples, int]:
    """A whole file as [C, T] with its sample rate."""
    with open_audio(str(path)) as decoder:
        blocks = list(decoder)
        rate = decoder.info.sample_rate
    if not blocks:
        return np.zeros((1, 0), np.float32), rate
    return np.concatenate(blocks, axis=1), rate


@lru_cache(maxsize=600)
def load_at_rate(path: Path) -> Samples:
    """A whole file as [1 or 2, T] at 44.1 kHz; kept, since the same samples serve many songs. Don't write into it."""
    audio, rate = load(path)
    audio = resample(audio[:2], rate, RATE)
    audio.flags.writeable = False
    return audio


def resample(audio: Samples, from_rate: float, to_rate: float) -> Samples:
    """[C, T] to [C, T']. Also the tape machine: other rates than the true ones change pitch and length together."""
    if from_rate == to_rate or audio.shape[1] == 0:
        return audio.copy()
    # "MQ" loses the top kHz or so of what can't be heard anyway, and is twice as fast as "HQ"
    out: Samples = soxr.resample(np.ascontiguousarray(audio.T), from_rate, to_rate, quality="MQ").T
    return np.ascontiguousarray(out, np.float32)


def db(value: float) -> float:
    """An amplitude factor in dB."""
    return 20.0 * float(np.log10(max(value, 1e-9)))


def gain(level_db: float) -> np.float32:
    """dB as an amplitude factor."""
    return np.float32(10.0 ** (level_db / 20.0))


def seconds(count: int) -> float:
    """Samples in seconds."""
    return count / RATE


def samples(length: float) -> int:
    """Seconds in samples."""
    return round(length * RATE)


def place(target: Samples, sound: Samples, at: int) -> None:
    """Add a sound [1 or C, t] to the target [C, T] from sample `at` on; what sticks out on either side is left off."""
    begin, end = max(at, 0), min(at + sound.shape[1], target.shape[1])
    if end > begin:
        target[:, begin:end] += sound[:, begin - at : end - at]


def pan(mono: Samples, position: float) -> Samples:
    """[1, T] to stereo: −1 left, 0 centre, 1 right; constant power, the centre at 0 dB."""
    angle = (position + 1.0) * np.pi / 4.0
    sides = np.array([[np.cos(angle)], [np.sin(angle)]], np.float32) * np.float32(np.sqrt(2.0))
    return (sides * mono).astype(np.float32)


def stereo(audio: Samples) -> Samples:
    """[1 or 2, T] as [2, T]."""
    return np.repeat(audio, 2, axis=0) if audio.shape[0] == 1 else audio
