"""Songs made up on the spot: chords, bass lines, strumming and riffs of rock, punk, country, pop, soul, hip-hop …

MIDI collections hold little of what most records are: a few chords, strummed or hammered, for three minutes. A song
is two sections (verse and chorus) in turn, each with its progression; players come from a table per style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from unmixcli.training.synthesis.melody import Range, write_melody
from unmixcli.training.synthesis.score import DRUMS, Part, Score, notes_from, role_of
from unmixcli.training.synthesis.sound import Random
from unmixcli.training.synthesis.styles import STYLES, Style

_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
# Progressions as scale degrees (0 the tonic), one chord a bar.
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 3, 4, 4), (0, 5, 3, 4), (0, 3, 0, 4), (5, 3, 0, 4), (0, 0, 3, 4), (0, 4, 3, 3),
              (0, 1, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 0, 6), (0, 5, 3, 4), (0, 0, 5, 6), (0, 2, 6, 3), (0, 0, 0, 6)),
    "blues": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 0, 4, 3, 0, 0)),
}  # fmt: skip
Row = list[float]


@dataclass(frozen=True)
class Chord:
    """A chord and when it sounds.

    Attributes:
        begin, length: seconds.
        root: pitch class.
        tones: semitones over the root.
        bright: 0 in a verse, 1 in a chorus: how much is played.
    """

    begin: float
    length: float
    root: int
    tones: tuple[int, ...]
    bright: float


def arrange(style_name: str, seconds: float, rng: Random) -> tuple[Score, Style]:
    """A song in a style, long enough; its drums are those of the drum machine, a drummer's groove may replace them."""
    style = STYLES[style_name]
    tempo = float(rng.uniform(*style.tempo))
    chords = _chords(style, 60.0 / tempo, seconds, rng)
    beat = 60.0 / tempo
    rows = _BASS[style.bass[int(rng.integers(len(style.bass)))]](chords, beat, rng)
    parts = [Part("bass", int(rng.choice([33, 34, 35, 38 if style.machine > 0.3 else 32])), notes_from(rows))]
    for programs, pattern, chance in style.players:
        if rng.random() > chance:
            continue
        program = int(rng.choice(programs))
        if pattern == "lead":
            draft = Score("", tuple(parts), seconds, tempo)
            low = int(rng.integers(57, 67))
            phrases = write_melody(draft, rng, Range(low, low + 17), activity=float(rng.uniform(0.2, 0.5)))
            notes = np.concatenate(phrases) if phrases else notes_from([])
        else:
            notes = notes_from(_PLAYERS[pattern](chords, beat, rng))
        if len(notes):
            parts.append(Part(role_of(program), program, notes))
    swing = 0.33 if style.beat == "jazz" else float(rng.choice([0.0, 0.0, 0.0, 0.2]))
    parts.append(Part(DRUMS, 0, notes_from(_drum_machine(style.beat, beat, seconds, swing, rng))))
    return Score(f"{style_name}, {tempo:.0f} bpm", tuple(parts), seconds, tempo), style


def _chords(style: Style, beat: float, seconds: float, rng: Random) -> list[Chord]:
    """Sections of eight or so bars: verse, chorus, verse …"""
    mode = style.modes[int(rng.integers(len(style.modes)))]
    scale = _MINOR if mode == "minor" else _MAJOR
    key = int(rng.integers(12))
    pool = _PROGRESSIONS[mode]
    sections = [pool[int(rng.integers(len(pool)))] for _ in range(2)]
    half_bars = bool(rng.random() < 0.25)
    sevenths = bool(rng.random() < style.sevenths)
    chords, now, turn = [], 0.0, int(rng.integers(2))
    while now < seconds:
        progression = sections[turn % 2]
        for bar in range(max(8, len(progression))):
            steps = 2 if half_bars and bar % 4 == 3 else 1
            for half in range(steps):
                degree = progression[(bar + half) % len(progression)]
                root = (key + scale[degree]) % 12
                third = (scale[(degree + 2) % 7] - scale[degree]) % 12
                fifth = (scale[(degree + 4) % 7] - scale[degree]) % 12
                seventh = ((scale[(degree + 6) % 7] - scale[degree]) % 12,)
                if mode == "blues":
                    third, seventh = 4, (10,)
                tones = (0, third, fifth, *(seventh if sevenths or mode == "blues" else ()))
                chords.append(Chord(now, 4 * beat / steps, root, tones, float(turn % 2)))
                now += 4 * beat / steps
        turn += 1
    return chords


def _low(root: int, lowest: int) -> int:
    """The root in the octave from `lowest` on."""
    return lowest + (root - lowest) % 12


# Basses


def _pulse(interval: float, held: float) -> Callable[[Sequence[Chord], float, Random], list[Row]]:
    """The root every `interval` beats for a share of that time; a passing note before some changes."""

    def play(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
        rows: list[Row] = []
        for chord, following in zip(chords, [*chords[1:], chords[-1]], strict=True):
            count = max(1, round(chord.length / beat / interval))
            for step in range(count):
                pitch = float(_low(chord.root, 28))
                if step == count - 1 and count > 2 and rng.random() < 0.35:
                    pitch = _low(following.root, 28) + float(rng.choice([-2, -1, 1, 2, 7]))
                velocity = 0.9 if step % 2 == 0 else float(rng.uniform(0.6, 0.85))
                rows.append([chord.begin + step * interval * beat, interval * beat * held, pitch, velocity])
        return rows

    return play


def _figure(pattern: Sequence[tuple[float, float, int]]) -> Callable[[Sequence[Chord], float, Random], list[Row]]:
    """A figure per bar of (beat, length in beats, semitones over the root); notes are left out now and then."""

    def play(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
        rows: list[Row] = []
        for chord in chords:
            for at, length, semitones in pattern:
                if at * beat < chord.length - 0.01 and (at == 0 or rng.random() < 0.9):
                    pitch = float(_low(chord.root, 28) + semitones)
                    rows.append([chord.begin + at * beat, length * beat, pitch, float(rng.uniform(0.7, 1.0))])
        return rows

    return play


def _walk(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    rows: list[Row] = []
    for chord, following in zip(chords, [*chords[1:], chords[-1]], strict=True):
        for step in range(max(1, round(chord.length / beat))):
            semitones = 0 if step == 0 else int(rng.choice([*chord.tones, 2, 9, 12]))
            pitch = float(_low(chord.root, 28) + semitones)
            if step == round(chord.length / beat) - 1:
                pitch = _low(following.root, 28) + float(rng.choice([-1, 1, 2, 7]))
            rows.append([chord.begin + step * beat, 0.92 * beat, pitch, float(rng.uniform(0.65, 0.95))])
    return rows


_BASS: dict[str, Callable[[Sequence[Chord], float, Random], list[Row]]] = {
    "eighths": _pulse(0.5, 0.92),
    "gallop": _pulse(0.25, 0.8),
    "roots": _pulse(2.0, 0.95),
    "long": _pulse(4.0, 0.9),
    "walk": _walk,
    "two": _figure(((0, 0.9, 0), (2, 0.9, 7), (3.5, 0.4, 5))),
    "octaves": _figure(tuple((step * 0.5, 0.4, 12 * (step % 2)) for step in range(8))),
    "off": _figure(((0.5, 0.4, 0), (1.5, 0.4, 0), (2.5, 0.4, 0), (3.5, 0.4, 0))),
    "syncopated": _figure(
        ((0, 0.6, 0), (0.75, 0.2, 0), (1.5, 0.4, 12), (2.5, 0.4, 0), (2.75, 0.2, 7), (3.5, 0.45, 10))
    ),
    "sparse": _figure(((0, 1.2, 0), (1.75, 0.6, 0), (2.5, 1.0, 7))),
}


# Chord players


def _voicing(chord: Chord, low: int, count: int) -> list[int]:
    """`count` tones of the chord from `low` upwards, the root lowest."""
    pitches, pitch = [_low(chord.root, low)], _low(chord.root, low) + 1
    while len(pitches) < count:
        if (pitch - chord.root) % 12 in chord.tones and pitch - pitches[-1] >= 3:
            pitches.append(pitch)
        pitch += 1
    return pitches


def _strum(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    """Down and up over the strings, in eighths with some left out; ringing until the next stroke."""
    pattern = [step for step in range(8) if step in (0, 4) or rng.random() < 0.65]
    speed = float(rng.uniform(0.006, 0.02))
    rows: list[Row] = []
    for chord in chords:
        strokes = [step for step in pattern if step * beat / 2 < chord.length - 0.01]
        for step, following in zip(strokes, [*strokes[1:], round(chord.length / beat * 2)], strict=True):
            pitches = _voicing(chord, 40, int(rng.integers(4, 7)))
            order = pitches if step % 2 == 0 else pitches[::-1][:4]
            accent = 0.9 if step in (2, 6) else 0.7
            for string, pitch in enumerate(order):
                length = max((following - step) * beat / 2 - string * speed, 0.05)
                rows.append(
                    [chord.begin + step * beat / 2 + string * speed, length, pitch, accent * rng.uniform(0.7, 1.05)]
                )
    return rows


def _power(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    """Root, fifth and octave: held in choruses, hammered in eighths in verses."""
    rows: list[Row] = []
    for chord in chords:
        held = chord.bright > 0 and rng.random() < 0.6
        steps = [0.0] if held else [0.5 * step for step in range(round(chord.length / beat * 2))]
        for step in steps:
            if not held and step > 0 and rng.random() < 0.08:
                continue
            length = chord.length if held else beat * float(rng.choice([0.22, 0.45, 0.45]))
            base = _low(chord.root, 40)
            rows += [[chord.begin + step * beat, length, base + up, rng.uniform(0.75, 1.0)] for up in (0, 7, 12)]
    return rows


def _chug(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    """A muted riff in sixteenths on the low string with chords on top of accents."""
    pattern = [(step, rng.random()) for step in range(16) if step in (0, 8) or rng.random() < 0.55]
    rows: list[Row] = []
    for chord in chords:
        for step, kind in pattern:
            if step * beat / 4 >= chord.length - 0.01:
                continue
            base = _low(chord.root, 36)
            accent = step in (0, 6, 12) or kind > 0.9
            length = beat * (0.4 if accent else 0.14)
            loud, tones = (0.95, (0, 7, 12)) if accent else (0.65, (0,))
            rows += [[chord.begin + step * beat / 4, length, base + up, loud] for up in tones]
    return rows


def _arpeggio(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    order = [int(number) for number in rng.integers(0, 5, 8)]
    step_beats = float(rng.choice([0.5, 0.5, 0.25]))
    low = int(rng.integers(45, 60))
    rows: list[Row] = []
    for chord in chords:
        pitches = _voicing(chord, low, 5)
        for step in range(round(chord.length / beat / step_beats)):
            pitch = pitches[0] if step == 0 else pitches[order[step % 8]]
            rows.append([chord.begin + step * step_beats * beat, 2 * step_beats * beat, pitch, rng.uniform(0.5, 0.85)])
    return rows


def _roll(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    """Banjo rolls: three fingers in sixteenths."""
    rows: list[Row] = []
    for chord in chords:
        pitches = _voicing(chord, 50, 4)
        for step in range(round(chord.length / beat * 4)):
            pitch = pitches[(0, 2, 3, 1, 2, 3, 0, 3)[step % 8]]
            rows.append([chord.begin + step * beat / 4, 0.3, pitch, rng.uniform(0.6, 0.9)])
    return rows


def _hits(
    times: Sequence[float], length: float, low: int, count: int
) -> Callable[[Sequence[Chord], float, Random], list[Row]]:
    """Chords at these beats of each bar."""

    def play(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
        return [
            [chord.begin + at * beat, length * beat, pitch, rng.uniform(0.6, 0.95)]
            for chord in chords
            for at in times
            if at * beat < chord.length - 0.01 and rng.random() < 0.9
            for pitch in _voicing(chord, low, count)
        ]

    return play


def _block(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    """A pianist: root in the left hand, chords in quarters, eighths or syncopated in the right."""
    times = ((0.0, 1.0, 2.0, 3.0), (0.0, 1.5, 3.0), (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5), (0.0, 2.5))[
        int(rng.integers(4))
    ]
    gap = 4.0 / len(times)
    rows = _hits(times, 0.85 * gap, 55, 3)(chords, beat, rng)
    rows += [[chord.begin, chord.length * 0.95, _low(chord.root, 36), 0.7] for chord in chords if rng.random() < 0.7]
    return rows


def _hold(chords: Sequence[Chord], beat: float, rng: Random) -> list[Row]:
    count, low = int(rng.integers(3, 5)), int(rng.integers(48, 62))
    return [
        [c.begin, c.length * 0.98, pitch, 0.6 + 0.2 * c.bright] for c in chords for pitch in _voicing(c, low, count)
    ]


_PLAYERS: dict[str, Callable[[Sequence[Chord], float, Random], list[Row]]] = {
    "strum": _strum,
    "power": _power,
    "chug": _chug,
    "arpeggio": _arpeggio,
    "roll": _roll,
    "block": _block,
    "hold": _hold,
    "chop": _hits((0.75, 1.0, 1.75, 2.5, 3.0, 3.75), 0.12, 55, 3),
    "off": _hits((0.5, 1.5, 2.5, 3.5), 0.25, 55, 3),
    "stabs": _hits((0.0, 1.5, 2.75), 0.35, 58, 3),
}

# Drum machine: (key, sixteenth steps that are hit, chance of each other step)
_BEATS: dict[str, tuple[tuple[int, tuple[int, ...], float], ...]] = {
    "rock": ((36, (0, 8), 0.12), (38, (4, 12), 0.02), (42, (0, 2, 4, 6, 8, 10, 12, 14), 0.0)),
    "pop": ((36, (0, 6, 8), 0.08), (38, (4, 12), 0.01), (42, (0, 2, 4, 6, 8, 10, 12, 14), 0.15)),
    "hiphop": ((36, (0, 7, 10), 0.1), (38, (4, 12), 0.02), (42, (0, 2, 4, 6, 8, 10, 12, 14), 0.25), (39, (12,), 0.0)),
    "dance": ((36, (0, 4, 8, 12), 0.0), (39, (4, 12), 0.0), (46, (2, 6, 10, 14), 0.0), (42, (0, 4, 8, 12), 0.4)),
    "jazz": ((36, (0,), 0.08), (38, (), 0.08), (51, (0, 4, 7, 8, 12, 15), 0.0), (44, (4, 12), 0.0)),
}


def _drum_machine(name: str, beat: float, seconds: float, swing: float, rng: Random) -> list[Row]:
    """One bar, slightly changed every time, with a crash every eight and a fill before it."""
    rows: list[Row] = []
    fixed = {
        key: [step for step in range(16) if step in hits or rng.random() < chance] for key, hits, chance in _BEATS[name]
    }
    ride = bool(rng.random() < 0.4)
    for bar in range(int(seconds / (4 * beat)) + 1):
        fill = bar % 8 == 7
        chorus = (bar // 8) % 2 == 1
        for key, steps in fixed.items():
            played = 51 if key == 42 and ride and chorus else key
            for step in steps:
                if fill and step >= 8 and key != 36:
                    continue
                late = swing * beat / 4 if step % 2 else 0.0
                velocity = (
                    float(rng.uniform(0.75, 1.0))
                    if step % 4 == 0 or key in (36, 38, 39)
                    else float(rng.uniform(0.4, 0.7))
                )
                rows.append([(4 * bar + step / 4) * beat + late, 0.1, played, velocity])
        if fill:
            keys = (38, 38, 50, 48, 48, 45, 45, 41)
            rows += [
                [(4 * bar + 2 + n / 4) * beat, 0.1, key, rng.uniform(0.6, 1.0)]
                for n, key in enumerate(keys)
                if rng.random() < 0.8
            ]
        if bar % 8 == 0:
            rows.append([4 * bar * beat, 0.1, int(rng.choice([49, 57])), 0.95])
    return rows


def fitting(names: Sequence[str], style: Style) -> list[int]:
    """Indices of the drum performances whose names hold a word of the style."""
    return [number for number, name in enumerate(names) if any(word in name for word in style.drums)]
