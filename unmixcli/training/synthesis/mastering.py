"""The mix bus: what happens to the sum happens to every stem by the same factor, so that stems go on adding up to it.

A compressor over the whole mix ducks the voice when the kick comes; a loud master is clipped. Both are gains that the
sum decides on; here each stem is multiplied by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from unmixcli.training.synthesis.effects import (
    curves,
    envelope,
    loudness_db,
    low_cut,
    random_equalizer,
    reduction,
    shape_spectrum,
    steps_to_gain,
)
from unmixcli.training.synthesis.sound import RATE, Random, Samples, gain


@dataclass(frozen=True)
class Master:
    """Settings of the mix bus.

    Attributes:
        loudness_db: of the finished mixture (about LUFS).
        glue_db: how much the bus compressor takes on loud beats, about.
        glue_ratio, attack, release: its settings (seconds).
        clip_share: 0: peaks are limited over milliseconds; 1: cut sample by sample, as loud masters are.
        ceiling_db: of the peaks.
    """

    loudness_db: float
    glue_db: float
    glue_ratio: float
    attack: float
    release: float
    clip_share: float
    ceiling_db: float

    @classmethod
    def draw(cls, rng: Random) -> Master:
        """Any decade's: from dynamic to crushed."""
        return cls(
            loudness_db=float(np.clip(rng.normal(-13.0, 3.2), -21.0, -6.5)),
            glue_db=float(rng.uniform(0.0, 5.0)),
            glue_ratio=float(rng.choice([1.5, 2.0, 4.0])),
            attack=float(rng.uniform(0.003, 0.03)),
            release=float(rng.uniform(0.06, 0.4)),
            clip_share=float(rng.choice([0.0, 0.5, 1.0])),
            ceiling_db=float(rng.choice([-0.1, -0.3, -1.0])),
        )


def master(stems: Mapping[str, Samples], settings: Master, rng: Random) -> dict[str, Samples]:
    """All stems [2, T] through the bus; their sum is the master, and stays below the ceiling.

    Stems that cancel each other may be louder than their sum: then all are turned down until each fits.
    """
    if not stems:
        return {}
    curve = curves(low_cut(20.0, 12.0), random_equalizer(rng, 0.8))
    out = {name: shape_spectrum(stem, curve, 4096) for name, stem in stems.items()}
    out = _glued(out, settings)
    mixture = np.sum(list(out.values()), axis=0)
    out = {name: stem * gain(settings.loudness_db - loudness_db(mixture)) for name, stem in out.items()}
    out = _limited(out, settings)
    peak = max(float(np.abs(stem).max(initial=0.0)) for stem in out.values())
    return {name: stem / np.float32(max(peak / 0.999, 1.0)) for name, stem in out.items()}


def _glued(stems: dict[str, Samples], settings: Master) -> dict[str, Samples]:
    if settings.glue_db < 0.3:
        return stems
    mixture = np.sum(list(stems.values()), axis=0)
    level = 10.0 * np.log10(envelope(mixture) + 1e-12)
    loud = float(np.quantile(level, 0.95))
    lowered = reduction(
        level,
        threshold_db=loud - settings.glue_db / (1.0 - 1.0 / settings.glue_ratio),
        ratio=settings.glue_ratio,
        attack=settings.attack,
        release=settings.release,
    )
    factor = steps_to_gain(lowered, mixture.shape[1])
    return {name: stem * factor for name, stem in stems.items()}


def _limited(stems: dict[str, Samples], settings: Master) -> dict[str, Samples]:
    """Peaks below the ceiling: part by a limiter that looks 1.5 ms ahead, the rest by a soft clipper."""
    ceiling = gain(settings.ceiling_db)
    mixture = np.sum(list(stems.values()), axis=0)
    peak = np.abs(mixture).max(axis=0)
    # the limiter leaves up to 3 dB of short peaks over for the clipper
    allowed = ceiling * gain(3.0 * settings.clip_share)
    width = 2 * (RATE // 700) + 1
    held = maximum_filter1d(np.maximum(peak, allowed), width)
    factor = uniform_filter1d((allowed / held).astype(np.float32), width)
    # release over 50 ms: minima widened, then smoothed
    slow = uniform_filter1d(-maximum_filter1d(-factor, RATE // 20), RATE // 20)
    factor = np.minimum(factor, slow).astype(np.float32)
    mixture = mixture * factor
    # soft knee over the last 2 dB, the same curve on both channels but each on its own samples
    knee = np.float32(0.8) * ceiling
    size = np.abs(mixture)
    bent = np.where(size > knee, knee + (ceiling - knee) * np.tanh((size - knee) / (ceiling - knee)), size)
    clip = np.where(size > 1e-6, bent / np.maximum(size, 1e-6), 1.0).astype(np.float32)
    return {name: (stem * factor * clip).astype(np.float32) for name, stem in stems.items()}
