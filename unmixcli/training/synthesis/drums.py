"""Drum kits from recorded hits, and drum loops on a song's tempo."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unmixcli.training.synthesis.effects import fade
from unmixcli.training.synthesis.score import PITCH, START, VELOCITY, Notes
from unmixcli.training.synthesis.sound import RATE, Random, Samples, load_at_rate, place, resample, samples, stereo

# General MIDI keys (and those of electronic kits as in the Groove data set) -> pieces, the first one there is taken.
_TOMS = {41: "low", 43: "low", 45: "mid", 47: "mid", 48: "high", 50: "high", 58: "low"}
PIECES: dict[int, tuple[str, ...]] = {
    35: ("kick",), 36: ("kick",),
    37: ("sidestick", "snare"), 38: ("snare",), 40: ("snare_edge", "snare"), 39: ("clap", "snare"),
    42: ("hat_closed",), 22: ("hat_tight", "hat_closed"), 44: ("hat_foot", "hat_closed"),
    46: ("hat_open",), 26: ("hat_loose", "hat_open"),
    49: ("crash",), 57: ("crash2", "crash"), 55: ("splash", "crash"), 52: ("china", "crash"),
    51: ("ride",), 59: ("ride2", "ride"), 53: ("bell", "ride"),
    54: ("shaker", "hat_tight", "hat_closed"), 70: ("shaker", "hat_tight", "hat_closed"), 69: ("shaker", "hat_closed"),
    82: ("shaker", "hat_closed"), 56: ("cowbell",),
    **{key: (f"tom_{height}", "tom_mid") for key, height in _TOMS.items()},
}  # fmt: skip
# Words in file names -> pieces; the first that fits counts.
_WORDS: tuple[tuple[str, str], ...] = (
    ("hat_closed", "hat_closed"), ("hat_open", "hat_open"), ("hat_foot", "hat_foot"), ("hat_half", "hat_loose"),
    ("hat_loose", "hat_loose"), ("hat_tight", "hat_tight"), ("sidestick", "sidestick"), ("snare_edge", "snare_edge"),
    ("snare_rest", "sidestick"), ("cymbal_closed", "hat_closed"), ("cymbal_pedal", "hat_foot"),
    ("cymbal_open", "hat_open"), ("elec_cymbal", "hat_open"), ("cymbal", "crash"), ("splash", "splash"),
    ("cowbell", "cowbell"), ("crash_l", "crash"), ("crash_r", "crash2"), ("ride_l", "ride"), ("ride_r", "ride2"),
    ("bell", "bell"), ("china", "china"), ("tom1", "tom_high"), ("tom2", "tom_mid"), ("tom3", "tom_mid2"),
    ("tom4", "tom_low"), ("tom_hi", "tom_high"), ("tom_mid", "tom_mid"), ("tom_lo", "tom_low"), ("kick", "kick"),
    ("bd_", "kick"), ("drum_bass", "kick"), ("snare", "snare"), ("sn_", "snare"), ("snap", "clap"),
)  # fmt: skip
# Where pieces stand, seen from the audience or from the drummer (a coin decides).
_PLACES = {"hat": -0.35, "ride": 0.4, "crash": -0.5, "crash2": 0.55, "china": 0.6, "tom_high": -0.3, "tom_low": 0.4}
_CHOKED = ("hat_open", "hat_loose")
_LEVELS = {
    "hat": -11.0, "ride": -10.0, "crash": -7.0, "china": -8.0, "splash": -9.0, "shaker": -13.0, "bell": -10.0,
    "cowbell": -10.0,
}  # fmt: skip


@dataclass(frozen=True)
class Kit:
    """A drum kit: for each piece its hits, softest first."""

    name: str
    pieces: Mapping[str, tuple[Path, ...]] = field(hash=False)

    def piece(self, key: int) -> str | None:
        """What of this kit plays for a MIDI key."""
        return next((name for name in PIECES.get(key, ()) if name in self.pieces), None)

    def render(self, notes: Notes, length: int, rng: Random) -> Samples:
        """All notes as stereo [2, length], close and dry."""
        out = np.zeros((2, length), np.float32)
        settings = {name: _Setting.draw(name, rng) for name in self.pieces}
        mirrored = bool(rng.random() < 0.5)
        hats = sorted({samples(row[START]) for row in notes if (self.piece(int(row[PITCH])) or "").startswith("hat")})
        hat_starts = np.array(hats or [0])
        for row in notes:
            name = self.piece(int(row[PITCH]))
            at = samples(row[START])
            if name is None or at >= length:
                continue
            sound = settings[name].hit(self.pieces[name], row[VELOCITY], rng)
            if name in _CHOKED:
                following = hat_starts[hat_starts > at]
                if len(following) and following[0] - at < sound.shape[1]:
                    sound = fade(sound[:, : int(following[0] - at)], 0, samples(0.02))
            place(out, sound, at)
        return out[::-1].copy() if mirrored else out


@dataclass
class _Setting:
    """How one piece is tuned, damped and levelled in this song."""

    ratio: float
    level: float
    side: float
    damping: float  # seconds to −60 dB on top of the recording's own, or 0
    cache: dict[Path, Samples] = field(default_factory=dict)

    @classmethod
    def draw(cls, name: str, rng: Random) -> _Setting:
        family = name.split("_")[0]
        level = _LEVELS.get(name, _LEVELS.get(family, 0.0)) + float(rng.normal(0.0, 2.0))
        damping = float(rng.uniform(0.15, 0.6)) if family in ("kick", "snare", "tom") and rng.random() < 0.4 else 0.0
        side = _PLACES.get(name, _PLACES.get(family, 0.0)) * float(rng.uniform(0.3, 1.3))
        return cls(2.0 ** (float(rng.normal(0.0, 1.5)) / 12.0), level, side, damping)

    def hit(self, hits: tuple[Path, ...], velocity: float, rng: Random) -> Samples:
        """One hit: the recording that belongs to the velocity, or a neighbour of it."""
        wanted = velocity * len(hits) - 0.5 + float(rng.normal(0.0, 0.5))
        file = hits[int(np.clip(round(wanted), 0, len(hits) - 1))]
        if file not in self.cache:
            self.cache[file] = self._prepared(file)
        return self.cache[file] * np.float32(10.0 ** (self.level / 20.0) * (0.05 + velocity**1.5))

    def _prepared(self, file: Path) -> Samples:
        recorded = load_at_rate(file)
        sound = stereo(resample(recorded, RATE * self.ratio, RATE))
        peak = float(np.abs(sound).max(initial=1e-5))
        if self.damping:
            sound = sound * np.exp(-6.9 * np.arange(sound.shape[1]) / (RATE * self.damping)).astype(np.float32)
        if recorded.shape[0] == 1:  # a single microphone: put it in its place
            angle = (np.clip(self.side, -1, 1) + 1.0) * np.pi / 4.0
            sound = sound * (np.array([[np.cos(angle)], [np.sin(angle)]], np.float32) * np.float32(1.41))
        return fade(sound * np.float32(0.8 / peak), 0, samples(0.01))


def find_kit(files: Iterable[Path], name: str) -> Kit:
    """A kit from files whose names say which piece they are, and (`_v3`) how hard it was hit."""
    pieces: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(files):
        piece = next((piece for word, piece in _WORDS if word in file.stem), None)
        if piece is not None:
            pieces["tom_mid" if piece == "tom_mid2" else piece].append(file)
    return Kit(name, {piece: tuple(sorted(files, key=_strength)) for piece, files in pieces.items()})


def _strength(file: Path) -> tuple[int, str]:
    layer = re.search(r"_v(\d+)", file.stem)
    return (int(layer[1]) if layer else 0), file.stem


def mixed_kit(kits: Iterable[Kit], name: str, rng: Random) -> Kit:
    """Each piece from one of several kits: how producers layer their own."""
    choices: dict[str, list[tuple[Path, ...]]] = defaultdict(list)
    for kit in kits:
        for piece, hits in kit.pieces.items():
            choices[piece].append(hits)
    return Kit(name, {piece: hits[int(rng.integers(len(hits)))] for piece, hits in sorted(choices.items())})


def single_hits(kit: Kit, name: str, rng: Random) -> Kit:
    """One recording per piece, as a drum machine has."""
    return Kit(name, {piece: (hits[int(rng.integers(len(hits)))],) for piece, hits in sorted(kit.pieces.items())})


def loop_at_tempo(file: Path, tempo: float, length: int, first_beat: float) -> Samples:
    """A drum loop over and over, sped up or slowed down (with its pitch) to the tempo: stereo [2, length]."""
    loop = stereo(load_at_rate(file))
    whole = loop.shape[1] / RATE
    # a loop is 2, 4, 8 … beats long: take the number that needs the least change of speed
    beats = min((2, 4, 8, 16, 32), key=lambda count: abs(np.log2(whole / (count * 60.0 / tempo))))
    wanted = samples(beats * 60.0 / tempo)
    loop = resample(loop, RATE, RATE * wanted / loop.shape[1])[:, :wanted]
    loop = fade(loop, 32, 256)
    out = np.zeros((2, length), np.float32)
    start = samples(first_beat) - wanted
    while start < length:
        place(out, loop, start)
        start += wanted
    return out
