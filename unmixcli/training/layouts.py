"""Finding the tracks of a folder, in the layouts in which data sets come.

    layout     what it looks like
    musdb18    {train,test}/<track>.stem.mp4: audio tracks mixture, drums, bass, other, vocals
    musdb18hq  {train,test}/<track>/{mixture,drums,bass,other,vocals}.wav
    dsd100     Mixtures/{Dev,Test}/<track>/mixture.wav and Sources/{Dev,Test}/<track>/{bass,drums,other,vocals}.wav
    mir1k      Wavfile/<singer>_<song>_<clip>.wav, or {train,dev,test}/ with such clips: left accompaniment, right voice
    ikala      Wavfile/<number>_{verse,chorus}.wav: left accompaniment, right voice
    ccmixter   <track>/{mix,source-01,source-02}.wav: source-01 accompaniment, source-02 voice
    medleydb   [Audio|V1|V2]/<track>/<track>_STEMS/<track>_STEM_nn.wav; <track>_METADATA.yaml in <track>/ or Metadata/
    tracks     a folder per track, at any depth, with audio files named after stems; track.json may say more
    sources    a folder per stem (vocals/ drums/ …) with recordings that have nothing to do with each other
    packed     what `unmixcli.training.packed.pack` wrote

Splits are those of the data sets (the validation tracks of MUSDB18 are the 14 of its own package, MIR-1K's split is
that of Huang et al. 2015); a folder of tracks has one where its sub-folders are called train, validation (or valid,
dev) and test. Layouts checked against sigsep/sigsep-mus-db, faroit/dsdtools, marl/medleydb and
mir-dataset-loaders/mirdata.

Limits: the stems of MedleyDB are summed as they are, which is not quite its own mix; tracks with bleed between the
microphones are left out unless asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from unmixcli.audio.decode import AUDIO_SUFFIXES
from unmixcli.audio.stemfile import read_stem_metadata
from unmixcli.errors import InputError, OptionError
from unmixcli.training.packed import INDEX, read_packed
from unmixcli.training.stem_names import MIXTURES, instrument_stem, stem_name
from unmixcli.training.tracks import ACCOMPANIMENT, ALL, STEMS, Track, describe, describe_all, file_part

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
# The tracks of MUSDB18's training half that its package keeps for validation.
_MUSDB_VALIDATION = frozenset(
    {
        "Actions - One Minute Smile",
        "Alexander Ross - Goodbye Bolero",
        "ANiMAL - Rockshow",
        "Clara Berry And Wooldog - Waltz For My Victims",
        "Fergessen - Nos Palpitants",
        "James May - On The Line",
        "Johnny Lokke - Promises & Lies",
        "Leaf - Summerghost",
        "Meaxic - Take A Step",
        "Patrick Talbot - A Reason To Leave",
        "Skelpolu - Human Mistakes",
        "Traffic Experiment - Sirens",
        "Triviul - Angelsaint",
        "Young Griffo - Pennies",
    }
)
_MUSDB_TRACKS = ("drums", "bass", "other", "vocals")  # after the mixture, which is audio track 0
_MIR1K_NAME = re.compile(r"[A-Za-z]+_\d+_\d{2}")
_MIR1K_TRAIN = ("abjones", "amy")
_MIR1K_DEV = ("abjones_5_08", "abjones_5_09", "amy_9_08", "amy_9_09")
_IKALA_NAME = re.compile(r"\d+_(verse|chorus)")
# MUSDB18 and DSD100 mix several licences; these are what their authors say of the whole.
_RESEARCH = "research use only"


def find_tracks(
    folder: str | Path,
    layout: str = "auto",
    *,
    bleed: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Track]:
    """The tracks of a data set, sorted by name.

    Args:
        folder: where it was unpacked.
        layout: a row of the table at the head of this module, or "auto".
        bleed: take tracks with bleed between stems too.
        settings: by a track's name, what a `track.json` could say about it.

    Raises:
        OptionError: an unknown layout, or settings for a track that isn't there.
        InputError: no such folder, nothing in it looks like tracks, or its description is damaged.
    """
    root = Path(folder)
    if layout != "auto" and layout not in LAYOUTS:
        raise OptionError(f"layout is {layout!r}, expected auto, {', '.join(LAYOUTS)}.")
    if not root.is_dir():
        raise InputError(f"{folder}: is not a folder.", hint="Give the folder in which the data set was unpacked.")
    chosen = layout if layout != "auto" else _detect(root)
    if chosen is None:
        raise InputError(
            f"{folder}: no tracks with stems were found.",
            hint="Expected one of the layouts in docs/howto/datasets.md, such as a folder per track with vocals.wav, "
            "drums.wav, bass.wav, other.wav.",
        )
    tracks = LAYOUTS[chosen](_descend(root, chosen) if layout == "auto" else root)
    if not tracks:
        raise InputError(f"{folder}: no tracks in the layout {chosen} were found.")
    found = sorted(describe_all(tracks, settings or {}), key=lambda track: track.name)
    kept = [track for track in found if bleed or not track.bleed]
    if not kept:
        raise InputError(f"{folder}: all {len(found)} tracks have bleed between their stems.", hint="ask for bleed.")
    return kept


def _detect(root: Path) -> str | None:
    """The layout of a folder, or of the only folder in it (archives often hold one)."""
    place, levels = root, 2
    while True:
        for name, looks_like in _SIGNS.items():
            if name != "tracks" and looks_like(place):
                return name
        inner = _folders(place)
        if len(inner) != 1 or not levels:
            break
        place, levels = inner[0], levels - 1
    return "tracks" if _SIGNS["tracks"](root) else None  # at any depth, so it would hide the others


def _descend(root: Path, layout: str) -> Path:
    while not _SIGNS[layout](root):
        root = _folders(root)[0]
    return root


# ---------------------------------------------------------------- what each looks like


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _audio(folder: Path) -> list[Path]:
    """Audio files directly in a folder."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    return [(path, _SPLIT_FOLDERS[path.name.lower()]) for path in _folders(root) if path.name.lower() in _SPLIT_FOLDERS]


def _is_stem_file(path: Path) -> bool:
    return path.name.lower().endswith((".stem.mp4", ".stem.m4a"))


def _stem_files(root: Path) -> list[tuple[Path, str]]:
    places = [(root, "train"), *_split_folders(root)]
    return [(path, split) for folder, split in places for path in _audio(folder) if _is_stem_file(path)]


def _clips(root: Path, pattern: re.Pattern[str]) -> list[tuple[Path, str | None]]:
    """Files of a karaoke data set: in Wavfile/, or in folders called after splits."""
    wav = root / "Wavfile"
    places: list[tuple[Path, str | None]] = [(wav, None)] if wav.is_dir() else [*_split_folders(root)]
    return [
        (path, split)
        for folder, split in places
        for path in _audio(folder)
        if pattern.fullmatch(path.name.split(".")[0])
    ]


def _medley_folders(root: Path) -> list[Path]:
    places = [root, *(root / name for name in ("Audio", "V1", "V2") if (root / name).is_dir())]
    return [path for place in places for path in _folders(place) if (path / f"{path.name}_STEMS").is_dir()]


def _mixter_folders(root: Path) -> list[Path]:
    return [
        path for path in _folders(root) if (path / "source-01.wav").is_file() and (path / "source-02.wav").is_file()
    ]


def _is_sources(root: Path) -> bool:
    folders = _folders(root)
    named = [path for path in folders if path.name.lower() in (*STEMS, ACCOMPANIMENT)]
    return bool(named) and len(named) * 2 > len(folders) and any(_walk_audio(path) for path in named)


def _walk_audio(folder: Path) -> list[Path]:
    found = _audio(folder)
    for inner in _folders(folder):
        found.extend(_walk_audio(inner))
    return found


def _track_folders(root: Path) -> list[Path]:
    """Folders with at least one file that is called after a stem."""
    found = []
    for folder in _folders(root):
        if any(_plain_stem(path, folder) in (*STEMS, ACCOMPANIMENT) for path in _audio(folder)):
            found.append(folder)
        found.extend(_track_folders(folder))
    return found


_SIGNS: dict[str, Callable[[Path], bool]] = {
    "packed": lambda root: (root / INDEX).is_file(),
    "musdb18": lambda root: bool(_stem_files(root)),
    "dsd100": lambda root: (root / "Mixtures").is_dir() and (root / "Sources").is_dir(),
    "ikala": lambda root: (root / "Wavfile").is_dir() and bool(_clips(root, _IKALA_NAME)),
    "mir1k": lambda root: bool(_clips(root, _MIR1K_NAME)),
    "ccmixter": lambda root: bool(_mixter_folders(root)),
    "medleydb": lambda root: bool(_medley_folders(root)),
    "musdb18hq": lambda root: _is_musdb18hq(root),
    "sources": _is_sources,
    "tracks": lambda root: bool(_track_folders(root)),
}


def _is_musdb18hq(root: Path) -> bool:
    half = root / "train"
    if not half.is_dir() or not (root / "test").is_dir():
        return False
    names = {path.name for path in _folders(half)}
    return bool(names & _MUSDB_VALIDATION) and any((path / "mixture.wav").is_file() for path in _folders(half))


# ---------------------------------------------------------------- what each holds


def _musdb18(root: Path) -> list[Track]:
    tracks = []
    for path, split in _stem_files(root):
        name = path.name[: -len(".stem.mp4")]
        split = "validation" if split == "train" and name in _MUSDB_VALIDATION else split
        stems = {stem: (file_part(path, track=index),) for index, stem in enumerate(_stem_order(path), 1)}
        tracks.append(Track(name, stems, split=split, licence=_RESEARCH))
    return tracks


def _stem_order(path: Path) -> tuple[str, ...]:
    """Stems of a file's audio tracks 1 … 4: as its stem box says if it names the four, else as in MUSDB18."""
    described = (read_stem_metadata(path) or {}).get("stems")
    if isinstance(described, list) and all(isinstance(stem, dict) for stem in described):
        names = tuple(stem_name(str(stem.get("name", ""))) for stem in described)
        if sorted(names) == sorted(STEMS):
            return names
    return _MUSDB_TRACKS


def _musdb18hq(root: Path) -> list[Track]:
    return [
        replace(
            track, split="validation" if track.split == "train" and track.name in _MUSDB_VALIDATION else track.split
        )
        for track in (replace(track, name=track.name.split("/")[-1]) for track in _tracks(root))
    ]


def _dsd100(root: Path) -> list[Track]:
    tracks = []
    for half, split in (("Dev", "train"), ("Test", "test")):
        if (root / "Sources" / half).is_dir():
            for folder in _folders(root / "Sources" / half):
                stems = {path.stem: (file_part(path),) for path in _audio(folder) if path.stem in STEMS}
                tracks.append(Track(folder.name, stems, split=split, licence=_RESEARCH))
    return tracks


def _karaoke(path: Path) -> dict[str, tuple[Any, ...]]:
    """Stems of a clip with the accompaniment on the left and the voice on the right."""
    return {ACCOMPANIMENT: (file_part(path, channel=0),), "vocals": (file_part(path, channel=1),)}


def _mir1k(root: Path) -> list[Track]:
    tracks = []
    for path, folder_split in _clips(root, _MIR1K_NAME):
        split = "validation" if path.stem in _MIR1K_DEV else "train" if path.stem.startswith(_MIR1K_TRAIN) else "test"
        tracks.append(Track(path.stem, _karaoke(path), split=folder_split or split))
    return tracks


def _ikala(root: Path) -> list[Track]:
    return [
        Track(path.stem, _karaoke(path), split=split or "train", licence=_RESEARCH)
        for path, split in _clips(root, _IKALA_NAME)
    ]


def _ccmixter(root: Path) -> list[Track]:
    return [
        Track(
            folder.name,
            {ACCOMPANIMENT: (file_part(folder / "source-01.wav"),), "vocals": (file_part(folder / "source-02.wav"),)},
        )
        for folder in _mixter_folders(root)
    ]


def _medleydb(root: Path) -> list[Track]:
    tracks = []
    for folder in _medley_folders(root):
        metadata = _medley_metadata(root, folder)
        stems: dict[str, list[Any]] = {}
        for entry in _medley_stems(metadata, folder):
            path = folder / f"{folder.name}_STEMS" / Path(str(entry.get("filename", ""))).name
            if not path.is_file():
                raise InputError(f"{path}: is missing, the metadata name it.", hint="Unpack the data set again.")
            stem = instrument_stem(entry.get("instrument", ""), str(entry.get("component") or ""))
            stems.setdefault(stem, []).append(file_part(path))
        # YAML reads the word yes as true where it stands without quotes.
        bleed = metadata.get("has_bleed") in ("yes", True)
        parts = {name: tuple(found) for name, found in stems.items()}
        tracks.append(Track(folder.name, parts, bleed=bleed, licence="CC BY-NC-SA 4.0"))
    return tracks


def _medley_metadata(root: Path, folder: Path) -> dict[str, Any]:
    name = f"{folder.name}_METADATA.yaml"
    places = [folder, *(base / "Metadata" for base in (root, root.parent, root / "medleydb" / "data"))]
    path = next((place / name for place in places if (place / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder}: has no {name}.",
            hint=f"Copy the Metadata folder of the repository marl/medleydb to {root / 'Metadata'}.",
        )
    try:
        metadata = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not YAML: {error}.") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: expected a table, found {type(metadata).__name__}.")
    return metadata


def _medley_stems(metadata: dict[str, Any], folder: Path) -> Iterable[dict[str, Any]]:
    stems = metadata.get("stems")
    if not isinstance(stems, dict) or not all(isinstance(entry, dict) for entry in stems.values()):
        raise InputError(f"{folder.name}: its metadata have no table of stems.")
    return (stems[key] for key in sorted(stems))


def _plain_stem(path: Path, folder: Path) -> str | None:
    """Stem of a file in a track's folder; None for the mixture."""
    name = path.name[: -len("".join(path.suffixes[-1:]))].lower()
    return None if name in MIXTURES or name == folder.name.lower() else stem_name(name)


def _tracks(root: Path) -> list[Track]:
    tracks = []
    for folder in _track_folders(root):
        stems: dict[str, list[Any]] = {}
        for path in _audio(folder):
            stem = _plain_stem(path, folder)
            if stem is not None:
                stems.setdefault(stem, []).append(file_part(path))
        where = folder.relative_to(root).parts
        split = next((_SPLIT_FOLDERS[part.lower()] for part in where[:-1] if part.lower() in _SPLIT_FOLDERS), "train")
        track = Track("/".join(where), {name: tuple(parts) for name, parts in stems.items()}, split=split)
        tracks.append(describe(track, *_description(folder)))
    return tracks


def _description(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / "track.json"
    if not path.is_file():
        return {}, str(path)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected a table, found {type(settings).__name__}.")
    return settings, str(path)


def _sources(root: Path) -> list[Track]:
    return [
        Track(path.relative_to(root).as_posix(), {folder.name.lower(): (file_part(path),)}, unknown=frozenset({ALL}))
        for folder in _folders(root)
        if folder.name.lower() in (*STEMS, ACCOMPANIMENT)
        for path in _walk_audio(folder)
    ]


LAYOUTS: dict[str, Callable[[Path], list[Track]]] = {
    "musdb18": _musdb18,
    "musdb18hq": _musdb18hq,
    "dsd100": _dsd100,
    "mir1k": _mir1k,
    "ikala": _ikala,
    "ccmixter": _ccmixter,
    "medleydb": _medleydb,
    "tracks": _tracks,
    "sources": _sources,
    "packed": read_packed,
}
