"""Which files a run works on: paths as they are typed, folders walked to the bottom.

A folder gives every file with a suffix of `AUDIO_SUFFIXES` in any letter case, sorted, sub-folders included and links
followed once. Left out are hidden files and folders, the output folder if it lies inside, and whatever a record of
finished work (see `record.py`) says was written by an earlier run: stems are not separated again.
A file that is named itself is taken as it is, whatever it is called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unmixcli.audio.decode import AUDIO_SUFFIXES
from unmixcli.errors import InputError, OutputError
from unmixcli.record import RECORD_NAME, Record


@dataclass(frozen=True)
class InputFile:
    """One file to separate.

    Attributes:
        path: where it can be read.
        name: path relative to the folder that was given, with "/"; for a file that was named itself, its name.
        track: word for {track}: the name without its suffix.
        size: bytes.
        mtime_ns: time of its last change; None where that says nothing (standard input).
    """

    path: Path
    name: str
    track: str
    size: int
    mtime_ns: int | None

    @property
    def subfolder(self) -> Path:
        """Folders between the one that was given and the file."""
        return Path(self.name).parent


@dataclass(frozen=True)
class Problem:
    """Something that was asked for and can't be read: a missing file, a folder without permission."""

    path: Path
    error: InputError


@dataclass
class Inputs:
    """What was found.

    Attributes:
        files: in the order asked, each folder's sorted.
        problems: what could not be read.
        left_out: number of files left out because an earlier run wrote them.
    """

    files: list[InputFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: int = 0


def find_inputs(paths: Sequence[str | os.PathLike[str]], *, output: Path | None = None) -> Inputs:
    """Expand files and folders.

    Args:
        paths: as given; the same file given twice is taken once.
        output: folder of the results, left out of a scan where it lies inside a folder that is scanned.
    """
    found = Inputs()
    seen: set[str] = set()
    avoided = os.path.realpath(output) if output is not None else None
    for given in map(Path, paths):
        if given.is_dir():
            candidates: Iterator[tuple[Path, Path]] = ((path, given) for path in _walk(given, avoided, found))
        else:
            candidates = iter([(given, given.parent)])
        for path, root in candidates:
            key = str(path.absolute())
            if key not in seen:
                seen.add(key)
                _add(found, path, root)
    return found


def input_file(path: Path, *, name: str | None = None, track: str | None = None, timeless: bool = False) -> InputFile:
    """Describe one file.

    Args:
        name: how it is called in results and in the record; None: its own name.
        track: word for {track}; None: the name without its suffix.
        timeless: its time of change says nothing.

    Raises:
        InputError: it isn't there or isn't a file.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}.", hint="check the name; quote it if it has spaces."
        ) from error
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file.")
    return InputFile(
        path,
        path.name if name is None else name,
        path.stem if track is None else track,
        state.st_size,
        None if timeless else state.st_mtime_ns,
    )


def _add(found: Inputs, path: Path, root: Path) -> None:
    try:
        found.files.append(input_file(path, name=path.relative_to(root).as_posix()))
    except InputError as error:
        found.problems.append(Problem(path, error))


def _walk(root: Path, avoided: str | None, found: Inputs) -> Iterator[Path]:
    """Audio files below a folder in sorted order; every real folder is entered once, so loops of links end."""
    entered: set[str] = set()

    def enter(folder: Path, written: frozenset[str]) -> Iterator[Path]:
        real = os.path.realpath(folder)
        if real in entered or (real == avoided and folder != root):
            return
        entered.add(real)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = InputError(f"{folder}: {error.strerror or error}.", hint="check the folder's permissions.")
            found.problems.append(Problem(folder, reason))
            return
        if any(entry.name == RECORD_NAME for entry in entries):
            with contextlib.suppress(OutputError):  # a record that can't be read excludes nothing
                written = written | Record(Path(real)).written()
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if _is_folder(entry):
                yield from enter(path, written)
            elif path.suffix.lower() in AUDIO_SUFFIXES:
                if str(Path(real, entry.name)) in written:
                    found.left_out += 1
                else:
                    yield path

    yield from enter(root, frozenset())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to nowhere, or to itself
        return False
