"""One track from nothing but a number: which song, which band, which voices, how it is mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unmixcli.errors import InputError
from unmixcli.training.synthesis.arrange import arrange, fitting
from unmixcli.training.synthesis.band import Band
from unmixcli.training.synthesis.mastering import Master, master
from unmixcli.training.synthesis.midi import read_midi
from unmixcli.training.synthesis.mixing import STEMS, balance, vocal_bus
from unmixcli.training.synthesis.score import DRUMS, LENGTH, START, Part, Score, change, cut
from unmixcli.training.synthesis.sound import RATE, Random, Samples, samples
from unmixcli.training.synthesis.sources import Library, Shelf, Split, Voice
from unmixcli.training.synthesis.styles import STYLES, Style
from unmixcli.training.synthesis.voices import Line, from_song, shouted, spoken, sung

_ARRANGED = 0.55  # share of songs that are made up rather than read
_STYLE_WEIGHTS = {"rock": 3.0, "pop": 2.0, "country": 2.0, "metal": 1.5, "punk": 1.5, "jazz": 0.6, "reggae": 0.6}
_TRIES = 6  # scores that turn out too short or too thin are drawn again


@dataclass(frozen=True)
class Track:
    """A finished multitrack.

    Attributes:
        stems: [2, T] by name; a stem without a part isn't there. Their sum is the mixture, below full scale.
        split: "train" or "validation".
        seed: the number it was made from.
        description: what was chosen, for track.json.
        sources: collections it was made of, with licences and credits.
    """

    stems: dict[str, Samples]
    split: Split
    seed: int
    description: dict[str, str]
    sources: list[dict[str, str]]


def make_track(library: Library, split: Split, seed: int, font: Path | None, length: tuple[float, float]) -> Track:
    """Render one track; the same arguments give the same samples.

    Args:
        library: the material.
        split: whose part of it.
        seed: everything that chance decides follows from it.
        font: a General MIDI sound font, or None.
        length: shortest and longest track in seconds.

    Raises:
        UnmixError: a library or program is missing, or fails.
    """
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    shelf = library.shelves[split]
    used: set[Path] = set()
    notes: dict[str, str] = {}
    seconds = float(rng.uniform(*length))
    score = _score(shelf, rng, seconds, used, notes)
    count = samples(seconds)
    band = Band(shelf, font, rng, used, notes)
    stems = band.play(score, count)
    if rng.random() < 0.12 and "drums" in stems:
        loop = band.loop(score, count)
        if loop is not None:
            stems["drums"] = loop if rng.random() < 0.5 else stems["drums"] + loop
    lines = _vocals(shelf, score, count, rng, used, notes)
    if lines:
        stems["vocals"] = vocal_bus(lines, score, count, rng)
    stems = _without_some(stems, rng)
    stems = master(balance(stems, rng), Master.draw(rng), rng)
    sources = [library.credit(path) for path in sorted(used)]
    unique = {source["name"]: source for source in sources}
    if font is not None:
        unique["sound font"] = {"name": font.name, "licence": "MIT" if "FluidR3" in font.name else "unknown"}
    return Track(stems, split, seed, notes, [unique[name] for name in sorted(unique)])


def _score(shelf: Shelf, rng: Random, seconds: float, used: set[Path], notes: dict[str, str]) -> Score:
    """A song made up in some style, or a piece of a MIDI song; drums often from a real drummer's groove."""
    if not shelf.songs or rng.random() < _ARRANGED:
        names = sorted(STYLES)
        score, style = arrange(names[int(rng.choice(len(names), p=_style_shares(names)))], seconds, rng)
        notes["song"] = score.name
        if rng.random() >= style.machine:
            score = _with_groove(score, shelf, rng, used, notes, style)
        return score
    return _from_midi(shelf, rng, seconds, used, notes)


def _style_shares(names: Sequence[str]) -> list[float]:
    weights = [_STYLE_WEIGHTS.get(name, 1.0) for name in names]
    return [weight / sum(weights) for weight in weights]


def _from_midi(shelf: Shelf, rng: Random, seconds: float, used: set[Path], notes: dict[str, str]) -> Score:
    """A piece of a song, faster or slower and in another key."""
    for _ in range(_TRIES):
        path = shelf.songs[int(rng.integers(len(shelf.songs)))]
        try:
            song = read_midi(path)
        except InputError:
            continue
        speed = float(2.0 ** rng.normal(0.0, 0.12))
        if song.seconds < 0.7 * seconds * speed or len(song.parts) < 3:
            continue
        begin = float(rng.uniform(0.0, max(song.seconds - seconds * speed, 0.0)))
        score = change(cut(song, begin, seconds * speed), speed=speed, semitones=int(rng.integers(-5, 7)))
        if sum(len(part.notes) for part in score.parts) < seconds:
            continue
        used.add(path)
        notes["song"] = path.stem
        if rng.random() < 0.4:
            score = _with_groove(score, shelf, rng, used, notes, None)
        return replace(score, seconds=seconds)
    score, _ = arrange("rock", seconds, rng)  # a collection of sketches only
    notes["song"] = score.name
    return score


def _with_groove(
    score: Score, shelf: Shelf, rng: Random, used: set[Path], notes: dict[str, str], style: Style | None
) -> Score:
    """Drums played by a person instead of the song's own, over and over at the song's tempo."""
    suited = fitting([path.stem for path in shelf.grooves], style) if style is not None else []
    choice = [shelf.grooves[number] for number in suited] or shelf.grooves
    for _ in range(_TRIES if choice else 0):
        path = choice[int(rng.integers(len(choice)))]
        try:
            groove = read_midi(path)
        except InputError:
            continue
        beats = groove.seconds / groove.beat
        if beats < 7.5:
            continue
        tempo = score.tempo
        while tempo < groove.tempo / 1.5:
            tempo *= 2
        while tempo > groove.tempo * 1.5:
            tempo /= 2
        played = change(groove, speed=tempo / groove.tempo)
        period = max(4, round(beats / 4) * 4) * 60.0 / tempo
        rows = np.concatenate([part.notes for part in played.parts])
        rows = rows[rows[:, START] < period]
        copies = []
        for turn in range(int(score.seconds / period) + 2):
            again = rows.copy()
            again[:, START] += score.first_beat + (turn - 1) * period
            copies.append(again[(again[:, START] >= 0) & (again[:, START] < score.seconds)])
        all_rows = np.concatenate(copies)
        all_rows[:, LENGTH] = 0.1
        used.add(path)
        notes["groove"] = path.stem
        drums = Part(DRUMS, 0, all_rows[np.argsort(all_rows[:, START], kind="stable")])
        return score.with_parts([part for part in score.parts if part.role != DRUMS] + [drums])
    return score


def _vocals(shelf: Shelf, score: Score, count: int, rng: Random, used: set[Path], notes: dict[str, str]) -> list[Line]:
    """The voices of a track; one in ten has none."""
    if not shelf.voices or rng.random() < 0.1:
        return []
    makers: dict[str, tuple[float, Callable[[Voice], list[Line]]]] = {}
    activity = float(rng.uniform(0.35, 0.9))
    doubles, harmonies = int(rng.choice([0, 0, 1, 2])), int(rng.choice([0, 0, 0, 1, 2]))

    def sing(voice: Voice) -> list[Line]:
        return sung(voice, score, count, rng, activity=activity, doubles=doubles, harmonies=harmonies)

    makers["sung"] = (0.52, sing)
    makers["song"] = (0.22, lambda voice: from_song(voice, count, rng))
    makers["rap"] = (0.14, lambda voice: spoken(voice, score, count, rng, activity=activity, doubles=min(doubles, 1)))
    makers["shouts"] = (0.06, lambda voice: shouted(voice, score, count, rng, activity=activity))
    makers["syllables"] = (0.06, sing)
    kinds = {"sung": "speech", "rap": "speech", "song": "song", "shouts": "shout", "syllables": "syllables"}
    available = [name for name in makers if any(voice.kind == kinds[name] for voice in shelf.voices)]
    weights = np.array([makers[name][0] for name in available])
    chosen = available[int(rng.choice(len(available), p=weights / weights.sum()))]
    voices = [voice for voice in shelf.voices if voice.kind == kinds[chosen]]
    # corpora of unknown speakers hold many: they count as their number of files, up to a limit
    share = np.array([min(len(voice.files), 12) ** 0.7 for voice in voices])
    voice = voices[int(rng.choice(len(voices), p=share / share.sum()))]
    used.add(voice.files[0])
    notes["vocals"] = f"{chosen}: {voice.name}"
    return makers[chosen][1](voice)


def _without_some(stems: dict[str, Samples], rng: Random) -> dict[str, Samples]:
    """Now and then a stem pauses, so that a network hears the others alone and silence."""
    out = {name: stems[name] for name in STEMS if name in stems}
    for name in list(out):
        if rng.random() < 0.12 and len(out) > 1:
            length = out[name].shape[1]
            begin = int(rng.uniform(0.0, 0.8) * length)
            end = min(length, begin + int(rng.uniform(4.0, 16.0) * RATE))
            window = np.ones(length, np.float32)
            window[begin:end] = 0.0
            ramp = RATE // 20
            window = np.convolve(window, np.full(ramp, 1.0 / ramp, np.float32), mode="same").astype(np.float32)
            out[name] = out[name] * window
    return out
