"""Melodies to sing over a score, harmonies to them, and the pitch curve a singer makes of notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from unmixcli.training.synthesis.score import LENGTH, PITCH, START, Notes, Score, notes_from, sounding_classes
from unmixcli.training.synthesis.sound import Random

FRAME = 0.008  # seconds per frame of pitch and timbre
# Rhythms of half a bar (two quarters) in eighths; long notes at the end of phrases come from `_phrase`.
_RHYTHMS: tuple[tuple[float, ...], ...] = (
    (1, 1, 1, 1),
    (2, 1, 1),
    (1, 1, 2),
    (2, 2),
    (1, 2, 1),
    (3, 1),
    (1, 1, 1, 1),
    (0.5, 0.5, 1, 2),
    (4,),
)


@dataclass(frozen=True)
class Range:
    """What a singer reaches comfortably: MIDI numbers."""

    low: int
    high: int


def write_melody(score: Score, rng: Random, voice: Range, *, activity: float) -> list[Notes]:
    """Phrases over the harmony of a score.

    Args:
        score: what is accompanied; its sounding pitch classes make the notes that fit.
        rng: chance.
        voice: the range.
        activity: share of the time that is sung, about.

    Returns:
        One [N, 4] per phrase, in order, without overlap.
    """
    bar = 4 * score.beat
    while bar < 1.4:  # at double tempo sing half as fast
        bar *= 2
    phrases = []
    now = score.first_beat
    pitch = float(rng.integers(voice.low + 3, voice.high - 3))
    motif = [_RHYTHMS[int(rng.integers(len(_RHYTHMS)))] for _ in range(4)]
    while now + bar < score.seconds:
        if rng.random() > activity:
            now += bar
            continue
        bars = int(rng.choice([1, 2, 2, 4]))
        if rng.random() < 0.3:
            motif = [_RHYTHMS[int(rng.integers(len(_RHYTHMS)))] for _ in range(4)]
        phrase, pitch = _phrase(score, rng, voice, now, min(bars * bar, score.seconds - now - 0.2), bar, motif, pitch)
        if len(phrase):
            phrases.append(phrase)
        now += bars * bar
    return phrases


def _phrase(
    score: Score,
    rng: Random,
    voice: Range,
    begin: float,
    length: float,
    bar: float,
    motif: Sequence[tuple[float, ...]],
    pitch: float,
) -> tuple[Notes, float]:
    rows: list[list[float]] = []
    now = begin + bar / 8 * int(rng.choice([0, 0, 1, 2]))
    end = begin + length - bar / 8 * int(rng.choice([0, 1, 2]))
    half = 0
    while now < end - 0.1:
        weights = sounding_classes(score.parts, now - 0.05, now + bar / 2)
        for eighths in motif[half % len(motif)]:
            duration = eighths * bar / 8
            if now + duration > end + 0.01:
                break
            pitch = _next_pitch(pitch, weights, voice, rng)
            rows.append([now, duration * float(rng.uniform(0.85, 1.0)), pitch, float(rng.uniform(0.6, 1.0))])
            now += duration
        else:
            half += 1
            continue
        break
    if rows and rng.random() < 0.6:
        rows[-1][1] = max(rows[-1][1], min(begin + length - rows[-1][0] - 0.05, rows[-1][1] * 3))
    return notes_from(rows), pitch


def _next_pitch(pitch: float, weights: NDArray[np.float64], voice: Range, rng: Random) -> float:
    """A step, seldom a leap, to a note that sounds in the harmony or between its notes."""
    candidates = np.arange(voice.low, voice.high + 1)
    distance = np.abs(candidates - pitch)
    middle = (voice.low + voice.high) / 2
    liked = np.exp(-distance / 2.5) + 0.02 * np.exp(-((distance - 7) ** 2) / 8)
    liked *= np.exp(-(((candidates - middle) / (voice.high - voice.low)) ** 2) * 2)
    if weights.sum() > 0:
        share = weights / weights.max()
        liked *= 0.02 + share[candidates % 12]
    liked[distance == 0] *= 0.6
    return float(rng.choice(candidates, p=liked / liked.sum()))


def harmony(phrase: Notes, score: Score, rng: Random, *, above: bool) -> Notes:
    """The same rhythm a third to a sixth above (or below), on notes that sound in the score."""
    out = phrase.copy()
    for row in out:
        weights = sounding_classes(score.parts, row[START] - 0.05, row[START] + row[LENGTH])
        steps = np.array([3, 4, 5, 7, 8, 9]) * (1 if above else -1)
        fit = weights[((row[PITCH] + steps) % 12).astype(int)] + 1e-3 * rng.random(len(steps))
        fit[:2] *= 1.5
        row[PITCH] += steps[int(np.argmax(fit))]
    return out


@dataclass(frozen=True)
class Expression:
    """How a singer moves between notes.

    Attributes:
        glide: seconds from one note to the next (0: the pitch corrector's steps).
        vibrato_hz, vibrato_cents: of held notes, growing in over a third of a second.
        scoop_cents: how far below a note is begun.
        drift_cents: slow wandering.
    """

    glide: float
    vibrato_hz: float
    vibrato_cents: float
    scoop_cents: float
    drift_cents: float

    @classmethod
    def draw(cls, rng: Random) -> Expression:
        """A singer; one in six is pitch-corrected hard."""
        if rng.random() < 0.17:
            return cls(0.004, 5.5, float(rng.uniform(0, 10)), 0.0, 1.0)
        return cls(
            float(rng.uniform(0.02, 0.08)),
            float(rng.uniform(4.5, 6.5)),
            float(rng.uniform(5, 80)),
            float(rng.uniform(0, 200)),
            float(rng.uniform(4, 18)),
        )


def pitch_curve(phrase: Notes, expression: Expression, rng: Random, count: int) -> NDArray[np.float64]:
    """MIDI pitch per frame [count], from the start of the phrase's first note on."""
    begin = phrase[0, START]
    frames = np.arange(count) * FRAME
    index = np.clip(np.searchsorted(phrase[:, START] - begin, frames, side="right") - 1, 0, len(phrase) - 1)
    curve = phrase[index, PITCH].astype(np.float64)
    age = frames - (phrase[index, START] - begin)
    curve -= expression.scoop_cents / 100.0 * np.exp(-age / 0.06) * (rng.random(len(phrase)) < 0.4)[index]
    curve = gaussian_filter1d(curve, max(expression.glide / FRAME / 2.0, 0.1), mode="nearest")
    held = phrase[index, LENGTH] > 0.3
    depth = expression.vibrato_cents / 100.0 * np.clip((age - 0.15) / 0.35, 0.0, 1.0) * held
    speed = expression.vibrato_hz * (1.0 + 0.05 * _noise(count, 0.3, rng))
    curve += depth * np.sin(2 * np.pi * np.cumsum(speed) * FRAME + rng.uniform(0, 6.28))
    return curve + expression.drift_cents / 100.0 * _noise(count, 0.08, rng)


def _noise(count: int, correlation: float, rng: Random) -> NDArray[np.float64]:
    """Smooth noise of unit spread that changes over about `correlation` seconds."""
    raw = gaussian_filter1d(rng.standard_normal(count + 2), correlation / FRAME, mode="wrap")[:count]
    spread = float(raw.std())
    return raw / spread if spread > 0 else raw
