"""Score folders of estimates against folders of references."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from unmixcli.errors import InputError, OptionError, UnmixError
from unmixcli.evaluation.families import Family, Scene, choose_families
from unmixcli.evaluation.folders import ACCOMPANIMENT, MIXTURE, Stems, find_tracks, match_tracks, stem_name
from unmixcli.evaluation.metrics import References, difference_db, is_silent, level_db
from unmixcli.evaluation.oracles import oracle_blocks, oracle_name
from unmixcli.evaluation.projection import Signal
from unmixcli.evaluation.spool import Recording, collect, fitted, read, total
from unmixcli.progress import Progress, ProgressCallback, ignore_progress

# Seconds by which an estimate may be longer or shorter than its reference (padding of lossy codecs): it is cut or
# filled with silence, and that is said. More than that is another song, or an offset.
_LENGTH_TOLERANCE = 0.1
# A mixture that differs from the sum of its stems by more than this, relative to the sum, is worth a word.
_MIXTURE_TOLERANCE_DB = -40.0


@dataclass(frozen=True)
class TrackScore:
    """The scores of one stem of one track by one system.

    Attributes:
        values: family name -> column -> dB; NaN where not defined.
        seconds: length of the track.
        reason: why nothing is defined: "silent reference", "silent estimate" or "".
        level_db: level of the estimate relative to the mixture, where the reference is silent.
    """

    system: str
    track: str
    stem: str
    values: Mapping[str, Mapping[str, float]]
    seconds: float
    reason: str = ""
    level_db: float | None = None


@dataclass
class Evaluation:
    """All scores.

    Attributes:
        families: what was computed.
        systems: names, in the order given, oracles last.
        stems: names, in the order of the references.
        scores: by track, system and stem.
        problems: what could not be scored although it should have been, in sentences.
        notes: what was done otherwise than one might think.
    """

    families: tuple[Family, ...]
    systems: tuple[str, ...]
    stems: tuple[str, ...] = ()
    scores: list[TrackScore] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Everything asked for is scored."""
        return not self.problems


@dataclass(frozen=True)
class _System:
    name: str
    tracks: Mapping[str, Stems]
    matched: Mapping[str, str]


def evaluate(
    references: str | os.PathLike[str],
    estimates: Iterable[str | os.PathLike[str]] = (),
    *,
    metrics: Sequence[str] = ("v4",),
    stems: Sequence[str] = (),
    oracles: Sequence[str] = (),
    jobs: int = 1,
    pictures: str | os.PathLike[str] | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> Evaluation:
    """Score systems on all tracks of a folder.

    Everything is rounded to 16 bit first (see `metrics.to_16_bit`). SIR and SAR take all stems of the references that
    sound as interference, also where a system gives some only. `accompaniment` is scored against the sum of the other
    stems, with vocals as its interference, as SiSEC does.

    Args:
        references: folder of tracks with their true stems; see `folders.py` for the layouts.
        estimates: folders of systems, laid out alike; "NAME=FOLDER" names one.
        metrics: names of `families.FAMILIES`.
        stems: only these; empty for all that references and estimates share.
        oracles: pseudo-systems of `oracles.ORACLES`.
        jobs: tracks worked on at the same time; each needs the memory of one.
        pictures: folder that gets spectrograms (see `spectrograms.py`): TRACK/SYSTEM.png, and TRACK/references.png.
        on_progress: told of each track that is done, in tracks.

    Returns:
        The scores; what could not be scored is in `problems`.

    Raises:
        InputError: a folder without audio.
        OptionError: an unknown metric, stem or oracle, nothing to score, two systems of one name, or pictures without
            matplotlib.
    """
    if pictures is not None:
        from unmixcli.evaluation.plot import check_plot

        check_plot(Path("references.png"))
    families = choose_families(metrics)
    wanted = tuple(dict.fromkeys(stem_name(stem) for stem in stems if stem.strip()))
    pseudo = tuple(dict.fromkeys(oracle_name(name) for name in oracles))
    if not families:
        raise OptionError("no metric was given.")
    if jobs < 1:
        raise OptionError(f"jobs is {jobs}, expected 1 or more.")
    tracks = find_tracks(references)
    systems = _systems(estimates, tracks)
    if not systems and not pseudo:
        raise OptionError("there is nothing to score.", hint="give a folder of estimates, or --oracle irm2.")
    _check_stems(wanted, tracks)
    result = Evaluation(families, (*(system.name for system in systems), *pseudo))
    result.problems += _missing(tracks, systems, wanted, result.notes)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        folders = {name: None if pictures is None else Path(pictures, name) for name in tracks}
        runs = [
            pool.submit(_Track(name, tracks[name], families, wanted, folders[name]).run, systems, pseudo)
            for name in tracks
        ]
        try:
            for done, (name, run) in enumerate(zip(tracks, runs, strict=True), start=1):
                scores, problems, notes = run.result()
                result.scores += scores
                result.problems += problems
                result.notes += notes
                on_progress(Progress("evaluate", name, done, len(tracks), "tracks"))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    order = dict.fromkeys(stem for track in tracks.values() for stem in _ordered(track))
    scored = {score.stem for score in result.scores}
    result.stems = tuple(stem for stem in (*order, ACCOMPANIMENT) if stem in scored)
    result.stems = tuple(dict.fromkeys(result.stems))
    return result


_USUAL_ORDER = ("vocals", "drums", "bass", "other")


def _ordered(stems: Iterable[str]) -> list[str]:
    """Stems of a track without the mixture, the usual four first."""
    rest = [stem for stem in stems if stem != MIXTURE]
    return [stem for stem in _USUAL_ORDER if stem in rest] + [stem for stem in rest if stem not in _USUAL_ORDER]


def _systems(estimates: Iterable[str | os.PathLike[str]], tracks: Mapping[str, Stems]) -> list[_System]:
    given = []
    for item in estimates:
        text = os.fspath(item)
        title, equals, path = text.partition("=")
        if equals and not Path(text).exists():
            given.append((title, Path(path)))
        else:
            given.append(("", Path(text)))
    plain = [name or folder.resolve().name for name, folder in given]
    systems: list[_System] = []
    for (name, folder), short in zip(given, plain, strict=True):
        title = name or (short if plain.count(short) == 1 else str(folder))
        if any(system.name == title for system in systems):
            raise OptionError(f"two systems are called {title!r}.", hint="write NAME=FOLDER to name one.")
        found = find_tracks(folder)
        matched = match_tracks(tracks, found)
        if not matched:
            raise InputError(
                f"{folder}: none of its tracks ({_some(found)}) is one of the references ({_some(tracks)}).",
                hint="a track's folder must be called alike in both.",
            )
        systems.append(_System(title, found, matched))
    return systems


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _check_stems(wanted: Sequence[str], tracks: Mapping[str, Stems]) -> None:
    known = {stem for track in tracks.values() for stem in track if stem != MIXTURE}
    for stem in wanted:
        if stem not in known and not (stem == ACCOMPANIMENT and "vocals" in known):
            raise OptionError(f"no reference has the stem {stem!r}; there are {', '.join(sorted(known))}.")


def _missing(
    tracks: Mapping[str, Stems], systems: Sequence[_System], wanted: Sequence[str], notes: list[str]
) -> list[str]:
    """Sentences about tracks and stems that a system lacks; stems that it never gives only if they were asked for."""
    problems = []
    for system in systems:
        lacking = [name for name in tracks if name not in system.matched]
        problems += [f"{system.name}: the track {name!r} is missing." for name in lacking]
        extra = sorted(set(system.tracks) - set(system.matched.values()))
        if extra:
            notes.append(f"{system.name}: {_some(extra)} is no track of the references and is left out.")
        gives = {stem for track in system.matched.values() for stem in system.tracks[track]}
        never: set[str] = set()
        for name, theirs in system.matched.items():
            for stem in wanted or _ordered(tracks[name]):
                if stem in system.tracks[theirs] or (stem not in tracks[name] and stem != ACCOMPANIMENT):
                    continue
                if stem in gives or stem in wanted:
                    problems.append(f"{system.name}: {name!r} has no {stem}.")
                else:
                    never.add(stem)
        if never:
            notes.append(f"{system.name} gives no {', '.join(sorted(never))}.")
    return problems


class _Track:
    """One track: its references are read once and serve all systems."""

    def __init__(
        self, name: str, places: Stems, families: Sequence[Family], wanted: Sequence[str], pictures: Path | None
    ) -> None:
        self.name = name
        self.pictures = pictures
        self.places = places
        self.families = families
        self.wanted = wanted
        self.scores: list[TrackScore] = []
        self.problems: list[str] = []
        self.notes: list[str] = []

    def run(self, systems: Sequence[_System], oracles: Sequence[str]) -> tuple[list[TrackScore], list[str], list[str]]:
        """Score all systems; scores, problems, notes."""
        concerned = [system for system in systems if self.name in system.matched]
        if concerned or oracles:
            try:
                self._prepare()
            except UnmixError as error:
                self.problems.append(f"{self.name}: {error}")
                return self.scores, self.problems, self.notes
            self._draw("references", dict(zip(self.scene.stems, self.scene.references.signals, strict=True)))
            others = False  # somebody gives an accompaniment to compare with
            for system in concerned:
                estimates = self._read(system)
                others = others or ACCOMPANIMENT in estimates
                self._score(system.name, estimates)
                self._draw(system.name, estimates)
            for oracle in oracles:
                blocks = oracle_blocks(oracle, self.scene.mixture, self.scene.references.signals)
                made = dict(zip(self.scene.stems, collect(blocks, len(self.scene.stems)), strict=True))
                if self._composite and (ACCOMPANIMENT in self.wanted or others):
                    made[ACCOMPANIMENT] = total([made[stem] for stem in self._accompanying])
                self._score(oracle, made)
                self._draw(oracle, made)
        return self.scores, self.problems, self.notes

    def _draw(self, system: str, signals: Mapping[str, Signal]) -> None:
        """Spectrograms, if they are wanted."""
        if self.pictures is None or not signals:
            return
        from unmixcli.evaluation.spectrograms import draw_signals

        name = re.sub(r"[^\w.+-]", "_", system)  # a system may be called by its path
        try:
            draw_signals(
                self.pictures / f"{name}.png", self.scene.mixture, signals, self.rate, title=f"{self.name} · {system}"
            )
        except UnmixError as error:
            self.problems.append(f"{system}, {self.name}: {error}")

    def _prepare(self) -> None:
        recordings = {stem: read(self.places[stem]) for stem in _ordered(self.places)}
        if not recordings:
            raise InputError("there is no stem in the references, only a mixture.")
        first = next(iter(recordings.values()))
        self.rate, self.channels = first.sample_rate, first.samples.shape[0]
        self.length = first.samples.shape[1]
        for recording in recordings.values():
            self._check(recording, first)
            if recording.samples.shape[1] != self.length:
                raise InputError(
                    f"{recording.place} has {recording.samples.shape[1]} samples, {first.place.path.name} has "
                    f"{self.length}; references of a track must be equally long."
                )
        if len(recordings) > 2 and "vocals" in recordings:
            recordings.pop(ACCOMPANIMENT, None)  # the sum of the others, which is made here
        signals = [recording.samples for recording in recordings.values()]
        self.scene = Scene(References(signals), tuple(recordings), self._mixture(signals, first), self.rate)
        self._accompanying = [stem for stem in recordings if stem != "vocals"]
        self._composite = "vocals" in recordings and ACCOMPANIMENT not in recordings and bool(self._accompanying)
        self._second: Scene | None = None

    def _mixture(self, signals: Sequence[Signal], first: Recording) -> Signal:
        added = total(signals)
        if MIXTURE not in self.places:
            return added
        recording = read(self.places[MIXTURE])
        self._check(recording, first)
        mixture = self._fitted(recording, "the references")
        difference = difference_db(mixture, added)
        if difference > _MIXTURE_TOLERANCE_DB:
            self.notes.append(f"{self.name}: the mixture differs from the sum of the stems by {difference:.1f} dB.")
        return mixture

    def _accompaniment_scene(self) -> Scene:
        """Vocals against everything else, as SiSEC scores the accompaniment."""
        if self._second is None:
            signals = dict(zip(self.scene.stems, self.scene.references.signals, strict=True))
            rest = total([signals[stem] for stem in self._accompanying])
            self._second = Scene(
                References([rest, signals["vocals"]]), (ACCOMPANIMENT, "vocals"), self.scene.mixture, self.rate
            )
        return self._second

    def _check(self, recording: Recording, first: Recording) -> None:
        if recording.sample_rate != self.rate:
            raise InputError(
                f"{recording.place} is at {recording.sample_rate} Hz, {first.place} at {self.rate} Hz.",
                hint="scores of resampled audio are others; separate at the references' rate.",
            )
        if recording.samples.shape[0] != self.channels:
            raise InputError(
                f"{recording.place} has {recording.samples.shape[0]} channel(s), {first.place} has {self.channels}."
            )

    def _fitted(self, recording: Recording, whose: str) -> Signal:
        difference = recording.samples.shape[1] - self.length
        if difference == 0:
            return recording.samples
        if abs(difference) > _LENGTH_TOLERANCE * self.rate:
            raise InputError(
                f"{recording.place} has {recording.samples.shape[1]} samples, {whose} {self.length}: "
                f"{abs(difference) / self.rate:.2f} s {'more' if difference > 0 else 'less'}."
            )
        done = f"cut by {difference}" if difference > 0 else f"filled with {-difference} zero"
        self.notes.append(f"{self.name}: {recording.place} was {done} samples at its end to fit {whose}.")
        return fitted(recording, self.length)

    def _read(self, system: _System) -> dict[str, Signal]:
        """The estimates of a system that are asked for and can be scored."""
        places = system.tracks[system.matched[self.name]]
        known = [*self.scene.stems, *([ACCOMPANIMENT] if self._composite else [])]
        first = Recording(self.scene.references.signals[0], self.rate, self.places[self.scene.stems[0]])
        found: dict[str, Signal] = {}
        for stem in known:
            if stem not in places or (self.wanted and stem not in self.wanted):
                continue
            try:
                recording = read(places[stem])
                self._check(recording, first)
                found[stem] = self._fitted(recording, "its reference")
            except UnmixError as error:
                self.problems.append(f"{system.name}, {self.name}: {error}")
        return found

    def _score(self, system: str, estimates: Mapping[str, Signal]) -> None:
        stems = [stem for stem in estimates if stem in self.scene.stems and (not self.wanted or stem in self.wanted)]
        self._score_in(self.scene, system, {stem: estimates[stem] for stem in stems})
        if self._composite and ACCOMPANIMENT in estimates:
            self._score_in(self._accompaniment_scene(), system, {ACCOMPANIMENT: estimates[ACCOMPANIMENT]})

    def _score_in(self, scene: Scene, system: str, estimates: Mapping[str, Signal]) -> None:
        if not estimates:
            return
        targets = [scene.stems.index(stem) for stem in estimates]
        values = scene.score(self.families, list(estimates.values()), targets)
        for index, (stem, estimate) in enumerate(estimates.items()):
            silent = scene.references.silent[targets[index]]
            reason = "silent reference" if silent else "silent estimate" if is_silent(estimate) else ""
            level = level_db(estimate, scene.mixture) if silent else None
            row = {family: columns[index] for family, columns in values.items()}
            self.scores.append(TrackScore(system, self.name, stem, row, scene.seconds, reason, level))
