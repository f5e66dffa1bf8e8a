"""Who plays the parts of a score: recordings, the sound font or the synthesizer; guitars through amplifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from unmixcli.training.synthesis import soundfont
from unmixcli.training.synthesis.drums import loop_at_tempo, mixed_kit, single_hits
from unmixcli.training.synthesis.effects import chorus, echo, loudness_db
from unmixcli.training.synthesis.guitar_amp import Amplifier
from unmixcli.training.synthesis.mixing import bass_channel, drum_bus, instrument_channel
from unmixcli.training.synthesis.sampler import Instrument
from unmixcli.training.synthesis.score import (
    DRUMS,
    LENGTH,
    PITCH,
    START,
    Notes,
    Part,
    Score,
    humanize,
    without_voices,
)
from unmixcli.training.synthesis.sound import Random, Samples, gain, pan
from unmixcli.training.synthesis.sources import Shelf
from unmixcli.training.synthesis.synthesizer import Patch

T = TypeVar("T")
_LEFT_OUT = frozenset({"noises", "percussive"})  # gunshots and taikos: neither clearly drums nor clearly not
_TIMPANI = 47
_SYNTH_ROLES = {"lead": "lead", "pad": "pad", "effects": "pad", "organ": "organ", "piano": "pluck", "mallets": "pluck",
                "guitar": "pluck", "strings": "pad", "ensemble": "pad"}  # fmt: skip
# Which recorded instruments can play a General MIDI part.
_RECORDED = {
    **dict.fromkeys((0, 1, 3), "piano"), **dict.fromkeys((2, 4, 5), "epiano"), **dict.fromkeys(range(16, 21), "organ"),
    **dict.fromkeys((24, 25), "acoustic"), **dict.fromkeys(range(26, 32), "guitar"),
    **dict.fromkeys(range(64, 68), "reed"), 58: "brass", 105: "banjo",
}  # fmt: skip
_CLEAN, _CRUNCH, _HEAVY = (26, 27, 28), (29,), (30, 31)


@dataclass
class Band:
    """What one song is played on.

    Attributes:
        shelf: the material.
        font: a General MIDI sound font, or None.
        rng: chance.
        used: files of the material that were played, for the credits.
        notes: what was chosen, for track.json.
    """

    shelf: Shelf
    font: Path | None
    rng: Random
    used: set[Path]
    notes: dict[str, str]

    def play(self, score: Score, length: int) -> dict[str, Samples]:
        """Drums, bass and other as [2, length], each through its channels; what has no part is left out."""
        roles = [(part, _stem_of(part)) for part in score.parts]
        out: dict[str, Samples] = {}
        drums = [part for part, stem in roles if stem == "drums"]
        if drums:
            out["drums"] = self._drums(drums, length)
        bass = [part for part, stem in roles if stem == "bass"]
        if bass:
            out["bass"] = bass_channel(self._bass(bass, length), self.rng)
        other = [part for part, stem in roles if stem == "other"]
        if other:
            out["other"] = self._other(other, score, length)
        return out

    def loop(self, score: Score, length: int) -> Samples | None:
        """A drum loop at the song's tempo, or None where the shelf has none."""
        if not self.shelf.loops:
            return None
        file = self._pick(self.shelf.loops)
        self.used.add(file)
        self.notes["loop"] = file.stem
        return drum_bus(loop_at_tempo(file, score.tempo, length, score.first_beat), self.rng, room=0.0)

    # drums

    def _drums(self, parts: Sequence[Part], length: int) -> Samples:
        notes = np.concatenate([part.notes for part in parts])
        notes = humanize(notes, self.rng, timing=float(self.rng.uniform(0.0, 0.006)), dynamics=0.1)
        kits = self.shelf.kits
        machines = [single_hits(kit, kit.name, self.rng) for kit in self.shelf.machines]
        chance = self.rng.random()
        if self.font is not None and (chance < 0.25 or not (kits or machines)):
            program = int(self.rng.choice([0, 0, 8, 16, 16, 24, 25, 32, 40]))
            self.notes["kit"] = f"sound font {program}"
            return drum_bus(soundfont.render([Part(DRUMS, program, notes)], self.font, length), self.rng)
        if not (kits or machines):
            return np.zeros((2, length), np.float32)
        if kits and (chance < 0.6 or not machines):
            kit = self._pick(kits)
        elif chance < 0.85:
            kit = mixed_kit([*kits, *machines], "layered", self.rng)
        else:
            kit = self._pick(machines)
        missing = {"kick", "snare", "hat_closed", "crash", "ride"} - set(kit.pieces)
        if missing and machines:  # a kit recorded without cymbals borrows some
            lent = mixed_kit(machines, "lent", self.rng)
            kit = replace(
                kit, pieces={**{name: lent.pieces[name] for name in missing if name in lent.pieces}, **kit.pieces}
            )
        self.notes["kit"] = kit.name
        self.used.update(file for hits in kit.pieces.values() for file in hits[:1])
        return drum_bus(kit.render(notes, length, self.rng), self.rng)

    # bass

    def _bass(self, parts: Sequence[Part], length: int) -> Samples:
        players = self.shelf.players("bass")
        synthetic = all(part.program in (38, 39) or part.role != "bass" for part in parts)
        chance = self.rng.random() + (0.35 if synthetic else 0.0)
        if players and chance < 0.7:
            player = self._pick(players)
            self._hire("bass", player)
            shift = 12.0 * round((36.0 - float(np.median(np.concatenate([p.notes for p in parts])[:, PITCH]))) / 12.0)
            out = np.zeros((1, length), np.float32)
            for part in parts[:2]:
                notes = humanize(_monophonic(part.notes), self.rng, timing=0.005, dynamics=0.12)
                notes[:, PITCH] += shift
                out += player.render(notes, length, self.rng)
            return np.repeat(out, 2, axis=0)
        if self.font is not None and chance < 0.95:
            self.notes["bass"] = "sound font"
            programs = {part.program: int(self.rng.choice([32, 33, 33, 34, 35, 36, 38, 39])) for part in parts}
            return soundfont.render(
                [replace(part, program=programs[part.program]) for part in parts], self.font, length
            )
        self.notes["bass"] = "synthesizer"
        patch = Patch.draw("sub" if self.rng.random() < 0.35 else "bass", self.rng)
        return np.sum([patch.render(_monophonic(part.notes), length, self.rng) for part in parts[:2]], axis=0)

    # everything else

    def _other(self, parts: Sequence[Part], score: Score, length: int) -> Samples:
        channels: list[Samples] = []
        left: list[Part] = []
        for part in parts:
            sound = self._recorded(part, score, length) if self.rng.random() < 0.75 else None
            if sound is None and part.role in _SYNTH_ROLES and (self.font is None or self._prefers_synth(part)):
                patch = Patch.draw(_SYNTH_ROLES[part.role], self.rng)
                sound = instrument_channel(patch.render(part.notes, length, self.rng), self.rng)
            if sound is None:
                left.append(part)
            else:
                channels.append(_leveled(sound, self.rng))
        if left and self.font is not None:
            # two renderings, so that not all of the sound font's players share one room and one equalizer
            order = self.rng.permutation(len(left))
            for half in (order[::2], order[1::2]):
                if len(half):
                    chosen = [replace(left[i], program=without_voices(left[i].program)) for i in half]
                    sound = soundfont.render(chosen, self.font, length)
                    channels.append(_leveled(instrument_channel(sound, self.rng), self.rng, 1.5 * (len(half) - 1)))
        if not channels:
            return np.zeros((2, length), np.float32)
        total: Samples = np.sum(channels, axis=0)
        return total

    def _prefers_synth(self, part: Part) -> bool:
        return part.role in ("lead", "pad", "effects") and bool(self.rng.random() < 0.5)

    def _recorded(self, part: Part, score: Score, length: int) -> Samples | None:
        role = _RECORDED.get(part.program)
        if role == "acoustic" and not self.shelf.players("acoustic"):
            role = "guitar"
        players = self.shelf.players(role) if role else []
        if role == "guitar":
            return self._electric(part, score, length) if players else None
        if not players:
            return None
        player = self._pick(players)
        self._hire(part.role, player)
        notes = humanize(part.notes, self.rng, timing=0.006, dynamics=0.1)
        if role == "acoustic" and self.rng.random() < 0.5:  # recorded twice, left and right
            other = humanize(part.notes, self.rng, timing=0.012, dynamics=0.15)
            width = float(self.rng.uniform(0.5, 1.0))
            both = pan(player.render(notes, length, self.rng), -width) + pan(
                player.render(other, length, self.rng, detune_cents=4.0), width
            )
            return instrument_channel(both, self.rng)
        return instrument_channel(player.render(notes, length, self.rng), self.rng)

    def _electric(self, part: Part, score: Score, length: int) -> Samples:
        """Electric guitar: clean, crunchy or heavy; riffs are played twice for left and right, solos once."""
        drive = (
            float(self.rng.uniform(-6, 8))
            if part.program in _CLEAN
            else float(self.rng.uniform(8, 24))
            if part.program in _CRUNCH
            else float(self.rng.uniform(20, 42))
        )
        guitars = self.shelf.players("guitar")
        solo = float(np.median(part.notes[:, PITCH])) > 62 and len(part.notes) < 3 * score.seconds
        takes = 1 if solo else int(self.rng.choice([1, 2, 2, 2, 4]))
        width = float(self.rng.uniform(0.6, 1.0))
        out = np.zeros((2, length), np.float32)
        amplifier = Amplifier.draw(self.rng, drive)
        player = self._pick(guitars)
        for take in range(takes):
            if take and self.rng.random() < 0.4:
                player, amplifier = self._pick(guitars), Amplifier.draw(self.rng, drive)
            self._hire("guitar", player)
            notes = humanize(part.notes, self.rng, timing=0.003 + 0.007 * (takes > 1), dynamics=0.1)
            direct = player.render(notes, length, self.rng, detune_cents=float(self.rng.normal(0.0, 4.0)))
            side = float(np.clip(self.rng.normal(0.0, 0.3), -1, 1)) if takes == 1 else width * (-1.0) ** take
            out += pan(amplifier.play(direct), side)
        if part.program in _CLEAN and self.rng.random() < 0.4:
            out = chorus(out, self.rng)
        if solo and self.rng.random() < 0.6:
            out = echo(out, interval=score.beat * 0.75, feedback=0.35, level_db=-12.0, cross=True, cutoff_hz=4000.0)
        return instrument_channel(out, self.rng, room=0.6)

    def _hire(self, role: str, player: Instrument) -> None:
        self.used.add(next(iter(player.zones.values()))[0][0])
        self.notes[role] = player.name

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.integers(len(items)))]


def _stem_of(part: Part) -> str | None:
    """Which stem a part belongs to; None for what belongs to none."""
    if part.role == DRUMS:
        return "drums"
    if part.role in _LEFT_OUT or part.program == _TIMPANI or len(part.notes) == 0:
        return None
    low = float(np.median(part.notes[:, PITCH])) < 42 and _overlap(part.notes) < 1.2
    if part.role == "bass" or (low and part.role in ("lead", "pad", "strings", "brass", "piano")):
        return "bass"
    return "other"


def _overlap(notes: Notes) -> float:
    """How many notes sound at once, on average, while any does."""
    end = float((notes[:, START] + notes[:, LENGTH]).max())
    grid = np.zeros(int(end / 0.05) + 2)
    np.add.at(grid, (notes[:, START] / 0.05).astype(int), 1)
    np.add.at(grid, ((notes[:, START] + notes[:, LENGTH]) / 0.05).astype(int), -1)
    count = np.cumsum(grid)
    return float(count[count > 0].mean()) if (count > 0).any() else 0.0


def _monophonic(notes: Notes) -> Notes:
    """Each note ends where the next one starts: one string, one finger."""
    out = notes.copy()
    if len(out) > 1:
        gaps = np.maximum(np.diff(out[:, START]), 0.03)
        out[:-1, LENGTH] = np.minimum(out[:-1, LENGTH], gaps)
    return out


def _leveled(sound: Samples, rng: Random, extra_db: float = 0.0) -> Samples:
    """An instrument at its place in the balance of the others."""
    level = loudness_db(sound)
    if level < -90.0:
        return sound
    return (sound * gain(-20.0 + extra_db - float(rng.gamma(1.5, 2.5)) - level)).astype(np.float32)
