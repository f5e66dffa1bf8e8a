"""Augmentations of pitch and tempo; all stems of an item by the same amount.

`speed` plays faster or slower like a tape, which is quick; `pitch_tempo` changes either alone with the engine of
`unmixcli.audio.pitch_tempo`, which takes about 80 ms for 6 s of a stem. The second is no linear operation: the mixture
is defined as the sum of the changed stems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from unmixcli.audio.pitch_tempo import PitchTempo
from unmixcli.training.augment_checks import check_range

Samples = NDArray[np.float32]
Rng = np.random.Generator


def stretch(kind: str, settings: Mapping[str, Any]) -> float:
    """How many samples these functions need for one that they give, at most."""
    return max(1.0, float(settings["high" if kind == "speed" else "high_tempo"]))


def speed(
    audio: Samples, rng: Rng, *, sample_rate: int, length: int | None = None, low: float = 0.9, high: float = 1.1
) -> Samples:
    """Everything faster and higher, or slower and lower, by a factor of `low` to `high`: [..., 2, length].

    Args:
        length: samples to give; where there are too few, zeros follow.
    """
    check_range("low", low, "high", high, 0.25, 4)
    wanted = audio.shape[-1] if length is None else length
    factor = float(rng.uniform(low, high))
    source = audio[..., : math.ceil(wanted * factor) + 64]
    flat = np.ascontiguousarray(source.reshape(-1, source.shape[-1]).T)
    # Rates in soxr are numbers without a unit; HQ is enough for material that is to be learnt from.
    played = soxr.resample(flat, 1e6 * factor, 1e6, quality="HQ").T
    return _cut(played.reshape(*audio.shape[:-1], -1), wanted)


def pitch_tempo(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    length: int | None = None,
    semitones: float = 2.0,
    low_tempo: float = 0.9,
    high_tempo: float = 1.1,
) -> Samples:
    """Key and tempo changed apart: [..., 2, length].

    Args:
        length: samples to give; where there are too few, zeros follow.
        semitones: the key goes up or down by as much as this.
        low_tempo, high_tempo: 1.1 is 10 % faster.
    """
    check_range("0", 0.0, "semitones", semitones, 0, 24)
    check_range("low_tempo", low_tempo, "high_tempo", high_tempo, 0.25, 4)
    wanted = audio.shape[-1] if length is None else length
    key, tempo = float(rng.uniform(-semitones, semitones)), float(rng.uniform(low_tempo, high_tempo))
    changed = np.zeros((*audio.shape[:-1], wanted), np.float32)
    source = audio[..., : math.ceil(wanted * tempo) + 1]
    for place in np.ndindex(audio.shape[:-2]):
        if source[place].any():
            engine = PitchTempo(sample_rate, 2, semitones=key, tempo=tempo)
            pieces = [engine.process(source[place]), engine.finish()]
            changed[place] = _cut(np.concatenate(pieces, axis=-1), wanted)
    return changed


def _cut(audio: Samples, length: int) -> Samples:
    """The first `length` samples, with zeros after them where there are fewer."""
    missing = length - audio.shape[-1]
    if missing <= 0:
        return np.ascontiguousarray(audio[..., :length])
    return np.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, missing)])
