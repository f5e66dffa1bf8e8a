"""The recipe: so many minutes of tracks into a folder, in several processes, going on where an earlier run ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from unmixcli.audio.encode import open_encoder
from unmixcli.errors import OptionError, OutputError
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.training.synthesis.needs import need, sound_font
from unmixcli.training.synthesis.song import Track, make_track
from unmixcli.training.synthesis.sound import RATE
from unmixcli.training.synthesis.sources import Library, Split, open_library

# Counts up when the same seed gives other sound; tracks of another version are not mixed into a set.
VERSION = 4


@dataclass(frozen=True)
class SynthesisOptions:
    """What to render.

    Attributes:
        data: folder of the material.
        out: folder of the tracks.
        minutes: length of the set.
        seed: of the set; track n of a seed is the same in every set.
        jobs: processes.
        validation_share: part of the material, and of the tracks, that is kept apart for validation, 0 … 0.5.
        shortest, longest: track length in seconds.
        sound_font: "auto", "none" or an .sf2 file.
    """

    data: Path
    out: Path
    minutes: float = 200.0
    seed: int = 0
    jobs: int = 1
    validation_share: float = 0.1
    shortest: float = 60.0
    longest: float = 120.0
    sound_font: str = "auto"

    def check(self) -> None:
        """Raises OptionError for what can't be."""
        for name, value, low, high in (
            ("--minutes", self.minutes, 0.01, 1e6),
            ("--seed", self.seed, 0, 2**31),
            ("--jobs", self.jobs, 1, 1024),
            ("--validation-share", self.validation_share, 0.0, 0.5),
            ("--shortest", self.shortest, 4.0, 600.0),
            ("--longest", self.longest, self.shortest, 600.0),
        ):
            if not low <= value <= high:
                raise OptionError(f"{name} {value}: expected {low} … {high}.")


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        tracks: folders of the set, those that were there before too.
        rendered: how many of them are new.
        seconds: of audio in the set.
    """

    tracks: tuple[Path, ...]
    rendered: int
    seconds: float


def synthesize(options: SynthesisOptions, *, on_progress: ProgressCallback = ignore_progress) -> Summary:
    """Render a set of multitracks: `<out>/<track>/{vocals,drums,bass,other}.flac` and `track.json`.

    A track that is complete is left alone, so an interrupted run goes on; the result doesn't depend on `jobs`.

    Raises:
        OptionError: an option out of range.
        InputError: the data folder holds no music.
        OutputError: a track can't be written.
        UnmixError: a library or program is missing.
    """
    options.check()
    font = sound_font(options.sound_font)
    need("mido")
    need("pyworld")
    open_library(options.data, options.validation_share)  # errors before any process is started
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.minutes * 60.0
    done: dict[int, float] = {}
    rendered = 0
    names: dict[int, Path] = {}
    for number, folder, seconds, new in _tracks(options, font, wanted):
        done[number], names[number] = seconds, folder
        rendered += new
        on_progress(Progress("synthesize", folder.name, min(sum(done.values()), wanted), wanted))
    return Summary(tuple(names[number] for number in sorted(names)), rendered, sum(done.values()))


def track_name(seed: int, number: int) -> str:
    """The folder of a track."""
    return f"synthetic-{seed}-{number:05d}"


def split_of(number: int, share: float) -> Split:
    """Validation tracks are spread evenly over the set."""
    return "validation" if share > 0 and int((number + 1) * share) > int(number * share) else "train"


def _tracks(options: SynthesisOptions, font: Path | None, wanted: float) -> Iterator[tuple[int, Path, float, bool]]:
    """(number, folder, seconds, new) until the set is long enough; the numbers used are 0, 1, 2 … without gaps."""
    total, number = 0.0, 0
    waiting: dict[Future[float], int] = {}
    executor = None if options.jobs == 1 else ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"))
    mean = (options.shortest + options.longest) / 2.0
    try:
        while total + 1e-6 < wanted or waiting:
            while total + mean * len(waiting) < wanted and len(waiting) < 2 * options.jobs:
                folder = options.out / track_name(options.seed, number)
                known = _finished(folder, options, number)
                if known is not None:
                    total += known
                    yield number, folder, known, False
                elif executor is None:
                    known = _render(options, font, number)
                    total += known
                    yield number, folder, known, True
                else:
                    waiting[executor.submit(_render, options, font, number)] = number
                number += 1
            if not waiting:
                continue
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                finished = waiting.pop(future)
                total += future.result()
                yield finished, options.out / track_name(options.seed, finished), future.result(), True
    finally:
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _finished(folder: Path, options: SynthesisOptions, number: int) -> float | None:
    """Seconds of a track that is complete and was made by the same settings, else None.

    Raises:
        OutputError: the folder holds a track of other settings.
    """
    try:
        record = json.loads((folder / "track.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if record.get("recipe") != _settings(options, number):
        raise OutputError(
            f"{folder}: holds a track of other settings ({record.get('recipe')}).",
            hint="Use another --out or --seed, or delete the old set.",
        )
    return float(record["seconds"])


def _settings(options: SynthesisOptions, number: int) -> dict[str, object]:
    return {
        "version": VERSION,
        "seed": options.seed,
        "number": number,
        "validation_share": options.validation_share,
        "length": [options.shortest, options.longest],
        "sound_font": options.sound_font,
    }


@lru_cache(maxsize=1)
def _library(root: Path, share: float) -> Library:
    return open_library(root, share)


def _render(options: SynthesisOptions, font: Path | None, number: int) -> float:
    """Make and write one track; gives its length in seconds. Runs in a process of its own."""
    library = _library(options.data, options.validation_share)
    split = split_of(number, options.validation_share)
    track = make_track(library, split, _seed(options.seed, number), font, (options.shortest, options.longest))
    return write_track(track, options.out / track_name(options.seed, number), _settings(options, number))


def _seed(seed: int, number: int) -> int:
    return seed * 1_000_003 + number


def write_track(track: Track, folder: Path, settings: dict[str, object]) -> float:
    """Write stems as 16-bit FLAC and track.json beside their place, then move them there; gives the seconds.

    Raises:
        OutputError: the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    length = max((stem.shape[1] for stem in track.stems.values()), default=0)
    record = {
        "name": folder.name,
        "split": track.split,
        "seconds": length / RATE,
        "sample_rate": RATE,
        "stems": sorted(track.stems),
        "licence": ", ".join(sorted({source["licence"] for source in track.sources})),
        "description": track.description,
        "sources": track.sources,
        "recipe": settings,
    }
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, audio in track.stems.items():
            path = str(partial / f"{name}.flac")
            with open_encoder(path, format="flac", sample_rate=RATE, channels=2, sample_type="s16") as encoder:
                encoder.write(audio)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (partial / "track.json").write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error}") from error
    return length / RATE
