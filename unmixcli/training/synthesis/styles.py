"""Kinds of music as data: tempo, chords, who plays what, and which drums fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a kind of music is made.

    Attributes:
        tempo: slowest and fastest.
        modes: which progressions.
        bass: patterns of the bass.
        players: (General MIDI programs, pattern, chance that it plays), in order.
        drums: words in the names of drum performances that fit.
        beat: pattern of a programmed drum machine.
        machine: chance that it plays instead of a drummer.
        sevenths: chance of four-note chords.
    """

    tempo: tuple[float, float]
    modes: tuple[str, ...]
    bass: tuple[str, ...]
    players: tuple[tuple[tuple[int, ...], str, float], ...]
    drums: tuple[str, ...]
    beat: str
    machine: float = 0.05
    sevenths: float = 0.0


STYLES: dict[str, Style] = {
    "rock": Style(
        (85, 150),
        ("major", "minor", "blues"),
        ("eighths", "roots", "syncopated"),
        (
            ((29, 29, 30), "strum", 0.6),
            ((29, 30), "power", 0.7),
            ((27, 25), "arpeggio", 0.35),
            ((16, 18), "hold", 0.3),
            ((29, 30), "lead", 0.4),
            ((0,), "block", 0.15),
        ),
        ("rock",),
        "rock",
    ),
    "punk": Style(
        (145, 200),
        ("major", "minor"),
        ("eighths",),
        (((30, 29), "power", 1.0), ((29,), "strum", 0.4), ((30,), "lead", 0.25)),
        ("punk", "rock"),
        "rock",
    ),
    "metal": Style(
        (100, 190),
        ("minor",),
        ("eighths", "gallop"),
        (((30,), "chug", 1.0), ((30,), "power", 0.5), ((30,), "lead", 0.4)),
        ("rock", "punk"),
        "rock",
    ),
    "country": Style(
        (80, 140),
        ("major",),
        ("two", "roots", "walk"),
        (
            ((25, 24), "strum", 0.95),
            ((105,), "roll", 0.4),
            ((27, 26), "arpeggio", 0.4),
            ((110, 40), "lead", 0.4),
            ((27,), "lead", 0.3),
            ((0, 3), "block", 0.25),
            ((16, 17), "hold", 0.15),
        ),
        ("country", "rock", "pop", "blues"),
        "rock",
    ),
    "folk": Style(
        (75, 125),
        ("major", "minor"),
        ("roots", "two"),
        (((25, 24), "strum", 0.7), ((24, 25), "arpeggio", 0.8), ((48, 42), "hold", 0.3), ((0,), "block", 0.3)),
        ("pop", "country", "soft"),
        "rock",
    ),
    "pop": Style(
        (90, 130),
        ("major", "minor"),
        ("eighths", "syncopated", "roots", "octaves"),
        (
            ((0, 4, 2), "block", 0.6),
            ((89, 90, 50, 51), "hold", 0.6),
            ((27, 28, 25), "strum", 0.45),
            ((27, 80, 5), "arpeggio", 0.45),
            ((81, 80, 65), "lead", 0.25),
        ),
        ("pop", "rock", "soul"),
        "pop",
        0.4,
    ),
    "soul": Style(
        (80, 120),
        ("major", "minor"),
        ("syncopated", "octaves", "walk"),
        (((28, 27), "chop", 0.8), ((4, 5, 16), "block", 0.7), ((61, 65, 66), "stabs", 0.5), ((17, 18), "hold", 0.3)),
        ("soul", "funk", "rnb"),
        "pop",
        0.05,
        0.7,
    ),
    "funk": Style(
        (90, 120),
        ("minor", "major"),
        ("syncopated", "octaves"),
        (((28, 27), "chop", 1.0), ((4, 7, 16), "block", 0.5), ((61, 62, 66), "stabs", 0.5)),
        ("funk",),
        "pop",
        0.05,
        0.6,
    ),
    "hiphop": Style(
        (70, 100),
        ("minor",),
        ("long", "syncopated", "sparse"),
        (
            ((0, 4, 5, 11), "arpeggio", 0.6),
            ((89, 48, 50), "hold", 0.6),
            ((4, 0), "block", 0.4),
            ((81, 73), "lead", 0.3),
        ),
        ("hiphop", "funk", "soul"),
        "hiphop",
        0.6,
        0.5,
    ),
    "dance": Style(
        (118, 136),
        ("minor", "major"),
        ("octaves", "off", "eighths"),
        (
            ((81, 90, 62), "stabs", 0.7),
            ((89, 50, 51), "hold", 0.7),
            ((80, 81, 5), "arpeggio", 0.7),
            ((81, 80), "lead", 0.4),
        ),
        ("dance", "house", "rock"),
        "dance",
        0.9,
    ),
    "jazz": Style(
        (90, 180),
        ("major", "minor", "blues"),
        ("walk",),
        (((0, 4), "block", 0.9), ((26,), "chop", 0.4), ((65, 66, 56), "lead", 0.7)),
        ("jazz", "latin"),
        "jazz",
        0.0,
        1.0,
    ),
    "reggae": Style(
        (70, 95),
        ("minor", "major"),
        ("sparse", "roots"),
        (((27, 28), "off", 1.0), ((16, 18), "off", 0.6), ((0,), "block", 0.2)),
        ("reggae", "latin", "afro"),
        "pop",
        0.1,
    ),
}
