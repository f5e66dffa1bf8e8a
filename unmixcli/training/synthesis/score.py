"""Music on paper: notes, parts, and what they make together; seconds and MIDI note numbers, no sound yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Notes = NDArray[np.float64]  # [N, 4]: start and length in seconds, pitch (MIDI number), velocity 0 … 1; sorted by start
START, LENGTH, PITCH, VELOCITY = range(4)

# Roles by General MIDI program number (0-127), in families of eight; see `role_of`.
_FAMILIES = (
    "piano", "mallets", "organ", "guitar", "bass", "strings", "ensemble", "brass",
    "reed", "pipe", "lead", "pad", "effects", "ethnic", "percussive", "noises",
)  # fmt: skip
DRUMS = "drums"
# Choirs and synthetic voices would teach a network that a choir isn't a voice; strings take their notes.
_VOICE_PROGRAMS = {52: 48, 53: 49, 54: 50, 85: 81, 91: 89}


@dataclass(frozen=True)
class Part:
    """What one player plays.

    Attributes:
        role: a family of General MIDI ("guitar", "bass" …) or "drums".
        program: General MIDI program, 0-127 (the kit, for drums).
        notes: [N, 4].
    """

    role: str
    program: int
    notes: Notes


@dataclass(frozen=True)
class Score:
    """Parts that belong together.

    Attributes:
        name: where it comes from.
        parts: players.
        seconds: the length.
        tempo: quarter notes per minute.
        first_beat: time of a beat in seconds.
    """

    name: str
    parts: tuple[Part, ...]
    seconds: float
    tempo: float
    first_beat: float = 0.0

    @property
    def beat(self) -> float:
        """Seconds per quarter note."""
        return 60.0 / self.tempo

    def with_parts(self, parts: Sequence[Part]) -> Score:
        """The same with other players."""
        return replace(self, parts=tuple(parts))


def role_of(program: int) -> str:
    """The family of a General MIDI program."""
    return _FAMILIES[min(max(program, 0), 127) // 8]


def without_voices(program: int) -> int:
    """The program, or a neighbour of it where it would sound like singing."""
    return _VOICE_PROGRAMS.get(program, program)


def notes_from(rows: Sequence[Sequence[float]]) -> Notes:
    """Rows of (start, length, pitch, velocity), sorted."""
    array = np.array(rows, np.float64).reshape(-1, 4)
    return array[np.argsort(array[:, START], kind="stable")]


def cut(score: Score, begin: float, length: float) -> Score:
    """The notes that start within the window, moved to zero; those that ring beyond its end are shortened."""
    parts = []
    for part in score.parts:
        inside = (part.notes[:, START] >= begin) & (part.notes[:, START] < begin + length)
        notes = part.notes[inside].copy()
        notes[:, START] -= begin
        notes[:, LENGTH] = np.minimum(notes[:, LENGTH], length - notes[:, START])
        if len(notes):
            parts.append(replace(part, notes=notes))
    beat = score.beat
    return replace(score, parts=tuple(parts), seconds=length, first_beat=(score.first_beat - begin) % beat)


def change(score: Score, *, speed: float = 1.0, semitones: int = 0) -> Score:
    """Played `speed` times as fast and transposed; drums stay what they are."""
    parts = []
    for part in score.parts:
        notes = part.notes.copy()
        notes[:, [START, LENGTH]] /= speed
        if part.role != DRUMS:
            notes[:, PITCH] += semitones
        parts.append(replace(part, notes=notes))
    return replace(
        score,
        parts=tuple(parts),
        seconds=score.seconds / speed,
        tempo=score.tempo * speed,
        first_beat=score.first_beat / speed,
    )


def sounding_classes(parts: Sequence[Part], begin: float, end: float) -> NDArray[np.float64]:
    """How much each of the twelve pitch classes sounds in a window [12], drums apart."""
    weight = np.zeros(12)
    for part in parts:
        if part.role in (DRUMS, "percussive", "noises"):
            continue
        notes = part.notes
        overlap = np.minimum(notes[:, START] + notes[:, LENGTH], end) - np.maximum(notes[:, START], begin)
        np.add.at(weight, notes[:, PITCH].astype(int) % 12, np.maximum(overlap, 0.0))
    return weight


def humanize(notes: Notes, rng: np.random.Generator, *, timing: float, dynamics: float) -> Notes:
    """Played by a person: starts off by `timing` seconds (standard deviation), velocities by `dynamics`."""
    out = notes.copy()
    out[:, START] = np.maximum(out[:, START] + rng.normal(0.0, timing, len(out)), 0.0)
    out[:, VELOCITY] = np.clip(out[:, VELOCITY] * rng.normal(1.0, dynamics, len(out)), 0.05, 1.0)
    return out[np.argsort(out[:, START], kind="stable")]
