"""Folders of stems, as datasets and `unmix` lay them out: which track has which stems, and where.

A folder that holds audio files is a track: its files are the stems, named by their file names (`vocals.wav`, in any
format, letter case and with the usual synonyms), beside an optional `mixture`. Sub-folders are searched to the bottom;
a track's name is its path below the folder given, so MUSDB18-HQ (`test/Artist - Song/vocals.wav`) and the output of
`unmix` (`Song/vocals.wav`) both fit. Stem files of five streams (`*.stem.mp4`: MUSDB18, Native Instruments) are tracks
too; their streams are mixture, drums, bass, other, vocals.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unmixcli.audio.decode import AUDIO_SUFFIXES, probe
from unmixcli.errors import InputError

MIXTURE = "mixture"
ACCOMPANIMENT = "accompaniment"

_STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")
_STEM_FILE = ".stem.mp4"
_SYNONYMS = {
    "vocal": "vocals",
    "voice": "vocals",
    "vox": "vocals",
    "singing": "vocals",
    "drum": "drums",
    "others": "other",
    "mix": MIXTURE,
    "instrumental": ACCOMPANIMENT,
    "instrumentals": ACCOMPANIMENT,
    "karaoke": ACCOMPANIMENT,
    "no_vocals": ACCOMPANIMENT,
    "novocals": ACCOMPANIMENT,
}


@dataclass(frozen=True)
class Place:
    """Where a stem's audio is: an audio track of a file."""

    path: Path
    track: int = 0

    def __str__(self) -> str:
        return str(self.path) if self.track == 0 else f"{self.path} (stream {self.track + 1})"


Stems = Mapping[str, Place]


def stem_name(text: str) -> str:
    """A stem's name from a file name or from what was typed: lower case, one word for each thing."""
    word = unicodedata.normalize("NFC", text).strip().lower().replace(" ", "_").replace("-", "_")
    return _SYNONYMS.get(word, word)


def find_tracks(folder: str | os.PathLike[str]) -> dict[str, Stems]:
    """All tracks below a folder, sorted by name; the folder itself, if it is one, is called like the folder.

    Raises:
        InputError: it is no folder, can't be read, holds no audio, or a track has two files for one stem.
    """
    root = Path(folder)
    if root.name.lower().endswith(_STEM_FILE) and root.is_file():
        return {_track_of(root): _streams(root)}
    if not root.is_dir():
        kind = "a file" if root.exists() else "not there"
        raise InputError(f"{root} is {kind}, expected a folder of tracks, each with its stems as files.")
    tracks: dict[str, Stems] = {}
    for path, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(path)
        parts = here.relative_to(root).parts
        stems: dict[str, Place] = {}
        for name in sorted(files):
            file = here / name
            if name.startswith("."):
                continue
            if name.lower().endswith(_STEM_FILE):
                tracks["/".join((*parts, _track_of(file)))] = _streams(file)
            elif file.suffix.lower() in AUDIO_SUFFIXES:
                stem = stem_name(file.stem)
                if stem in stems:
                    raise InputError(
                        f"{here}: both {stems[stem].path.name} and {name} are {stem}, expected one file for each stem."
                    )
                stems[stem] = Place(file)
        if stems:
            tracks["/".join(parts) or root.resolve().name] = stems
    if not tracks:
        raise InputError(
            f"{root}: there is no audio file in the folder.",
            hint="expected FOLDER/track/vocals.wav and so on, as `unmix` writes them.",
        )
    return dict(sorted(tracks.items()))


def match_tracks(references: Mapping[str, Stems], estimates: Mapping[str, Stems]) -> dict[str, str]:
    """Reference track -> estimate track: by path, else by the last part of it, else the only one to the only one."""
    if len(references) == 1 and len(estimates) == 1:
        return {next(iter(references)): next(iter(estimates))}
    exact = {_normal(name): name for name in estimates}
    last: dict[str, list[str]] = {}
    for name in estimates:
        last.setdefault(_normal(name).rpartition("/")[2], []).append(name)
    ends = [_normal(name).rpartition("/")[2] for name in references]
    matched = {}
    for name in references:
        end = _normal(name).rpartition("/")[2]
        if _normal(name) in exact:
            matched[name] = exact[_normal(name)]
        elif ends.count(end) == 1 and len(last.get(end, ())) == 1:
            matched[name] = last[end][0]
    return matched


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _track_of(path: Path) -> str:
    return path.name[: -len(_STEM_FILE)]


def _streams(path: Path) -> Stems:
    count = probe(path).tracks
    if count != len(_STREAMS):
        raise InputError(f"{path} has {count} audio streams, expected the five of a stem file: {', '.join(_STREAMS)}.")
    return {stem: Place(path, track) for track, stem in enumerate(_STREAMS)}


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror or error}.", hint="check the folder's permissions.") from error
