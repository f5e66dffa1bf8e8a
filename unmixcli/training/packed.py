"""A training set decoded once: int16 samples in files that are mapped into memory, so that an excerpt costs a copy.

A folder with `packed.json` (written last) and, in `tracks/`, one file of samples and one description for each track:
stem after stem, each [T, 2] interleaved. Silent stems take no room. A stem that goes beyond ±1 is stored with a scale,
so nothing is clipped; what int16 rounds off lies 98 dB under full scale. Packing goes on where it was stopped, as a
finished track is kept while its sources have the same sizes and times.

Limit: about 10 MB for each minute of a stem in stereo at 44.1 kHz.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import InputError, OutputError
from unmixcli.naming import safe_name
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.training.tracks import FilePart, Part, Track, at_rate

Samples = NDArray[np.float32]

_log = logging.getLogger(__name__)

INDEX = "packed.json"
VERSION = 1
# Samples decoded at a time.
_BLOCK = 1 << 20
_LIMIT = 32767


@dataclass(frozen=True)
class PackedPart:
    """A stem in a packed file.

    Attributes:
        path: of the file of samples.
        offset: of its first sample in the file, in frames of two channels.
        length: its frames.
        rate: Hz.
        scale: value of the sample 32767.
    """

    path: str
    offset: int
    length: int
    rate: int
    scale: float

    def frames(self, sample_rate: int) -> int:
        """Samples it has at `sample_rate`."""
        return self.length if sample_rate == self.rate else round(self.length * sample_rate / self.rate)

    def read(self, start: int, length: int, sample_rate: int) -> Samples:
        """[2, length]."""
        return at_rate(self._read, start, length, self.rate, sample_rate)

    def _read(self, start: int, length: int) -> Samples:
        first, last = max(0, start), min(self.length, start + length)
        whole = np.zeros((2, length), np.float32)
        if last > first:
            stored = _mapped(self.path)[self.offset + first : self.offset + last]
            np.multiply(stored.T, np.float32(self.scale / _LIMIT), out=whole[:, first - start : last - start])
        return whole


@functools.lru_cache(maxsize=4096)
def _mapped(path: str) -> NDArray[np.int16]:
    try:
        return np.memmap(path, np.dtype("<i2"), mode="r").reshape(-1, 2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be mapped: {error}.", hint="Pack the data set again.") from error


def pack(
    tracks: Sequence[Track],
    folder: str | Path,
    *,
    sample_rate: int = 44100,
    on_progress: ProgressCallback = ignore_progress,
) -> list[Track]:
    """Decode all stems of all tracks into a folder, and give the tracks as they are there.

    Args:
        tracks: with different names.
        folder: made if need be; what was packed there before, of the same files, is kept.
        sample_rate: Hz of the packed set.
        on_progress: hears of each track ("scan", seconds of audio so far).

    Raises:
        InputError: a file can't be read, or two tracks have one name.
        OutputError: no room, or no permission to write.
    """
    root = Path(folder)
    if len({track.name for track in tracks}) != len(tracks):
        raise InputError(f"{folder}: two tracks have the same name.", hint="Pack them into folders of their own.")
    try:
        (root / "tracks").mkdir(parents=True, exist_ok=True)
        # Of several processes that start a training together one packs, and the others find it done.
        with filelock.FileLock(root / "packed.lock"):
            entries, seconds = [], 0.0
            for track in tracks:
                entry = _packed_entry(track, root, sample_rate)
                entries.append(entry)
                seconds += entry["frames"] / sample_rate
                on_progress(Progress("scan", track.name, done=seconds))
            _write_json(root / INDEX, {"version": VERSION, "sample_rate": sample_rate, "tracks": entries})
    except OSError as error:
        raise OutputError(f"{folder}: packing failed: {error.strerror or error}.") from error
    return read_packed(root)


def read_packed(folder: str | Path) -> list[Track]:
    """The tracks of a packed set.

    Raises:
        InputError: no packed set, one of another version, or damaged.
    """
    path = Path(folder) / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["version"] != VERSION:
            raise InputError(f"{path}: is of version {index['version']}, expected {VERSION}.", hint="Pack it again.")
        return [_track(entry, path.parent, index["sample_rate"]) for entry in index["tracks"]]
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is damaged: {error}.", hint="Pack the data set again.") from error


def _track(entry: dict[str, Any], root: Path, rate: int) -> Track:
    name = Path(entry["file"]).name
    path = root / "tracks" / name
    stems: dict[str, tuple[Part, ...]] = {}
    end = 0
    for stem, at in entry["stems"].items():
        stems[stem] = (PackedPart(str(path), int(at["offset"]), int(at["frames"]), int(rate), float(at["scale"])),)
        end = max(end, int(at["offset"]) + int(at["frames"]))
    if end and (not path.is_file() or path.stat().st_size < end * 4):
        raise InputError(f"{path}: is missing or cut short.", hint="Pack the data set again.")
    return Track(
        entry["name"],
        # A stem that was digital silence has no samples; an empty tuple says that it is there all the same.
        {**stems, **dict.fromkeys(entry["silent"], ())},
        unknown=frozenset(entry["unknown"]),
        split=entry["split"],
        weight=float(entry["weight"]),
        licence=entry["licence"],
        bleed=bool(entry["bleed"]),
    )


def _packed_entry(track: Track, root: Path, rate: int) -> dict[str, Any]:
    """The description of one track, packed now or before."""
    unique = hashlib.sha256(track.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    path = root / "tracks" / f"{safe_name(track.name)[:60]}-{unique}.i16"
    marks = path.with_suffix(".json")
    about = {
        "name": track.name,
        "unknown": sorted(track.unknown),
        "split": track.split,
        "weight": track.weight,
        "licence": track.licence,
        "bleed": track.bleed,
    }
    sources = {"rate": rate, "stems": {name: [_stamp(part) for part in parts] for name, parts in track.stems.items()}}
    old = _read_marks(marks)
    if old is not None and old["sources"] == sources and path.is_file() and path.stat().st_size == old["bytes"]:
        return {**old["entry"], **about}
    _log.info("packing %s", track.name)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        stems, silent = _write_stems(track, file, rate)
        size = file.tell()
    partial.replace(path)
    frames = max((at["frames"] for at in stems.values()), default=0)
    entry = {"file": path.name, "frames": frames, "stems": stems, "silent": silent}
    _write_json(marks, {"sources": sources, "bytes": size, "entry": entry})
    return {**entry, **about}


def _write_stems(track: Track, file: BinaryIO, rate: int) -> tuple[dict[str, Any], list[str]]:
    stems: dict[str, Any] = {}
    silent: list[str] = []
    for name, parts in track.stems.items():
        offset = file.tell() // 4
        frames = max((part.frames(rate) for part in parts), default=0)
        scale = 1.0
        while True:
            peak = _write_stem(parts, file, frames, rate, scale)
            if peak <= scale:
                break
            file.seek(offset * 4)
            file.truncate()
            scale = peak
        if peak == 0:
            file.seek(offset * 4)
            file.truncate()
            silent.append(name)
        else:
            stems[name] = {"offset": offset, "frames": frames, "scale": scale}
    return stems, silent


def _write_stem(parts: Sequence[Part], file: BinaryIO, frames: int, rate: int, scale: float) -> float:
    """Append a stem as int16; gives its peak. What comes after a value beyond `scale` is not written."""
    peak = 0.0
    streams = [_stream(part, rate) for part in parts]
    for start in range(0, frames, _BLOCK):
        block = np.zeros((2, min(_BLOCK, frames - start)), np.float32)
        for stream in streams:
            piece = next(stream, None)
            if piece is not None:
                block[:, : piece.shape[1]] += piece
        peak = max(peak, float(np.abs(block).max()))
        if peak <= scale:
            file.write(np.rint(block.T * np.float32(_LIMIT / scale)).astype("<i2").tobytes())
    return peak


def _stream(part: Part, rate: int) -> Iterator[Samples]:
    """A part in blocks of `_BLOCK`."""
    if isinstance(part, FilePart):
        yield from part.stream(rate, _BLOCK)
        return
    length = part.frames(rate)
    for start in range(0, length, _BLOCK):
        yield part.read(start, min(_BLOCK, length - start), rate)


def _stamp(part: Part) -> list[Any]:
    """What tells whether a part is still the same."""
    if isinstance(part, FilePart):
        status = Path(part.path).stat()
        where = [part.track, part.channel, part.gain]
        return [str(Path(part.path).resolve()), status.st_size, status.st_mtime_ns, *where]
    return [repr(part)]


def _read_marks(path: Path) -> dict[str, Any] | None:
    try:
        marks = json.loads(path.read_text(encoding="utf-8"))
        return marks if {"sources", "bytes", "entry"} <= set(marks) else None
    except (OSError, ValueError, TypeError):
        return None


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=True), encoding="utf-8")
    partial.replace(path)
