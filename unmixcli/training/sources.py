"""The data of a recipe: excerpts to learn from, passages to measure on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmixcli.errors import InputError, OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.training.datasets import Excerpts, read_track
from unmixcli.training.feed import Items
from unmixcli.training.layouts import find_tracks
from unmixcli.training.packed import pack
from unmixcli.training.recipe import DataSection, Recipe
from unmixcli.training.tracks import Samples, Track, describe_all
from unmixcli.training.validation import Passage


@dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
        items: excerpts by number.
        passages: songs or parts of songs with their truth; none of them is learnt from.
        fingerprint: of the tracks learnt from: a run goes on only with the same ones.
        notes: sentences for the user.
        tracks: what there is to say of the tracks learnt from, for a model card.
    """

    items: Items
    passages: Sequence[Passage] = ()
    fingerprint: str = ""
    notes: Sequence[str] = ()
    tracks: Sequence[Mapping[str, Any]] = ()


def open_sources(recipe: Recipe, model: SeparationModel) -> Sources:
    """Find the tracks of a recipe and split them.

    Raises:
        OptionError: no folder, or a track named that isn't there.
        InputError: a folder without tracks.
    """
    section, stems = recipe.data, recipe.model.stems
    learnt, measured = split_tracks(section)
    if section.pack:
        learnt = pack(learnt, section.pack, sample_rate=model.sample_rate)
    items = Excerpts(
        learnt,
        stems,
        sample_rate=model.sample_rate,
        length=round(section.seconds * model.sample_rate),
        seed=recipe.training.seed,
        augmentations=section.augmentations,
        cross_track=section.cross_track,
        keep_silent=section.keep_silent,
        unknown=section.unknown,
    )
    validation = recipe.validation
    passages = [
        passage
        for track in measured
        for passage in cut_passages(track, stems, model.sample_rate, validation.seconds, validation.excerpts)
    ]
    notes = [f"learns from {_some(learnt)}; measures on {_some(measured) if passages else 'nothing'}."]
    if not passages:
        notes.append("without validation tracks the last weights are the result, not the best.")
    rate = model.sample_rate
    described = [
        {
            "name": track.name,
            "licence": track.licence,
            "seconds": round(track.frames(rate) / rate, 1),
            "weight": track.weight,
            "known": [stem for stem, sure in zip(stems, track.plan(stems).known, strict=True) if sure],
        }
        for track in learnt
    ]
    return Sources(items, passages, _fingerprint(learnt, stems), notes, described)


def split_tracks(section: DataSection) -> tuple[list[Track], list[Track]]:
    """Tracks to learn from, and tracks to measure on.

    Test tracks of a data set are neither. Validation tracks of the folders to learn from are measured on unless other
    folders are given for that, and never learnt from.
    """
    if not section.train:
        raise OptionError(
            "nothing is given to learn from.", hint="`--data FOLDER`, or `train` in the [data] section of the recipe."
        )
    found = _tracks(section.train, section)
    names = {track.name for track in found}
    if missing := [name for name in section.hold_out if name not in names]:
        raise OptionError(
            f"no track is called {missing[0]!r}; there are {', '.join(sorted(names)[:10])}.",
            hint="hold_out names tracks of the folders to learn from.",
        )
    held = set(section.hold_out)
    measured = [track for track in found if track.name in held or track.split == "validation"]
    if section.validation:
        other = _tracks(section.validation, None)
        measured = [track for track in other if track.split == "validation"] or other
    elif not measured and section.hold_out_count:
        measured = [track for track in found if track.split == "train"][-section.hold_out_count :]
        held = {track.name for track in measured}
    learnt = [track for track in found if track.split == "train" and track.name not in held and track.weight > 0]
    if not learnt:
        raise InputError(
            f"{', '.join(section.train)}: none of {len(found)} tracks is left to learn from.",
            hint="tracks of a test or validation split, held out or with weight 0 are not learnt from.",
        )
    return learnt, measured


def _tracks(folders: Sequence[str], section: DataSection | None) -> list[Track]:
    """The tracks of all folders; with several folders a track is called after its folder as well."""
    found: list[Track] = []
    for folder in folders:
        prefix = f"{Path(folder).resolve().name}/" if len(folders) > 1 else ""
        tracks = find_tracks(folder, section.layout, bleed=section.bleed) if section else find_tracks(folder)
        found += [replace(track, name=prefix + track.name) for track in tracks]
    return describe_all(found, section.tracks) if section else found


def cut_passages(track: Track, stems: Sequence[str], sample_rate: int, seconds: float, count: int) -> list[Passage]:
    """The passages of a track: the whole song, or excerpts evenly spread over it.

    Args:
        seconds: length of each; 0: the whole song.
        count: how many, at most as many as fit side by side.
    """
    total = track.frames(sample_rate)
    length = min(total, round(seconds * sample_rate)) if seconds else total
    if length == 0:
        return []
    count = max(1, min(count, total // length))
    passages = []
    for index in range(count):
        start = round((total - length) * (index + 0.5) / count) if seconds else 0
        name = f"{track.name} at {start / sample_rate:.1f} s" if seconds else track.name
        read = functools.partial(_read, track, tuple(stems), start, length, sample_rate)
        passages.append(Passage(name, sample_rate, read))
    return passages


def _read(
    track: Track, stems: Sequence[str], start: int, length: int, sample_rate: int
) -> tuple[Samples, dict[str, Samples]]:
    """Mixture and known references, [2, length]."""
    item = read_track(track, stems, sample_rate, start=start, length=length)
    rows = zip(stems, item["stems"].numpy(), item["known"].tolist(), strict=True)
    return item["mixture"].numpy(), {stem: samples for stem, samples, known in rows if known}


def _fingerprint(tracks: Sequence[Track], stems: Sequence[str]) -> str:
    rows = [[track.name, track.weight, *track.plan(stems).known, *sorted(track.stems)] for track in tracks]
    return hashlib.sha256(json.dumps(sorted(rows, key=str)).encode()).hexdigest()


def _some(tracks: Sequence[Track]) -> str:
    names = ", ".join(track.name for track in tracks[:3])
    return f"{len(tracks)} track{'s' * (len(tracks) != 1)} ({names}{', …' if len(tracks) > 3 else ''})"
