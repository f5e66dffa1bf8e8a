"""Boxes of MP4 and QuickTime files (ISO 14496-12): enough to read exact lengths and to add one atom."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta"})


@dataclass(frozen=True)
class Box:
    """One box: its four letters, where it starts, where its payload starts, where it ends (bytes)."""

    kind: bytes
    start: int
    payload: int
    end: int


def top_boxes(file: BinaryIO, size: int) -> Iterator[Box]:
    """Boxes of the top level, up to the first that is no box; the last may end behind the end of the file."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        box = _box(head, at, size)
        if box is None:
            return
        yield box
        at = box.end


def inner_boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """Boxes inside `data[start:end]`, positions counted from the beginning of `data`."""
    stop = len(data) if end is None else end
    at = start
    while at + 8 <= stop:
        box = _box(data[at : at + 16], at, stop)
        if box is None or box.end > stop:
            return
        yield box
        at = box.end


def find(data: bytes, *path: bytes, start: int = 0, end: int | None = None) -> Box | None:
    """The first box at `path` below `data[start:end]`."""
    for box in inner_boxes(data, start, end):
        if box.kind == path[0]:
            if len(path) == 1:
                return box
            deeper = find(data, *path[1:], start=box.payload, end=box.end)
            if deeper is not None:
                return deeper
    return None


def make_box(kind: bytes, payload: bytes) -> bytes:
    """A box as bytes."""
    return struct.pack(">I", 8 + len(payload)) + kind + payload


def _box(head: bytes, at: int, stop: int) -> Box | None:
    if len(head) < 8:
        return None
    size, kind = struct.unpack(">I4s", head[:8])
    payload = at + 8
    if size == 1 and len(head) >= 16:
        size, payload = struct.unpack(">Q", head[8:16])[0], at + 16
    elif size == 0:
        size = stop - at
    return Box(kind, at, payload, at + size) if size >= payload - at else None


def audio_track_lengths(path: str) -> list[tuple[int, int] | None]:
    """(exact number of samples, their rate) of each audio track, in order; None where it is not stated.

    The sample table holds the sum of all durations in the track's own time scale. The first edit that is not empty
    says how many are priming (`media_time`), and how many play (`segment_duration`), but that one in the movie's
    often coarse time scale (1000 per second): where both agree to a tick, the sample table is exact.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        moov = next((box for box in top_boxes(file, size) if box.kind == b"moov"), None)
        if moov is None or moov.end > size or moov.end - moov.start > 2**28:
            return []
        file.seek(moov.payload)
        data = file.read(moov.end - moov.payload)
    header = find(data, b"mvhd")
    if header is None:
        return []
    movie_scale = _time_scale(data, header)
    lengths: list[tuple[int, int] | None] = []
    for track in inner_boxes(data):
        if track.kind == b"trak":
            kind = find(data, b"mdia", b"hdlr", start=track.payload, end=track.end)
            if kind is not None and data[kind.payload + 8 : kind.payload + 12] == b"soun":
                lengths.append(_track_length(data, track, movie_scale))
    return lengths


def _time_scale(data: bytes, box: Box) -> int:
    at = box.payload + (20 if data[box.payload] == 1 else 12)
    return int(struct.unpack(">I", data[at : at + 4].rjust(4, b"\0"))[0])


def _track_length(data: bytes, track: Box, movie_scale: int) -> tuple[int, int] | None:
    media = find(data, b"mdia", b"mdhd", start=track.payload, end=track.end)
    table = find(data, b"mdia", b"minf", b"stbl", b"stts", start=track.payload, end=track.end)
    if media is None or table is None:
        return None
    scale = _time_scale(data, media)
    count = struct.unpack(">I", data[table.payload + 4 : table.payload + 8])[0]
    if table.payload + 8 + 8 * count > table.end:
        return None
    numbers = struct.unpack(f">{2 * count}I", data[table.payload + 8 : table.payload + 8 + 8 * count])
    total = sum(n * length for n, length in zip(numbers[::2], numbers[1::2], strict=True))
    if total == 0:
        return None  # fragmented: the samples are elsewhere
    edits = find(data, b"edts", b"elst", start=track.payload, end=track.end)
    if edits is None:
        return total, scale
    played = [edit for edit in _edits(data, edits) if edit[1] >= 0]
    if len(played) != 1:
        return None if played else (total, scale)
    duration, skipped = played[0]
    rest = total - skipped
    if rest <= 0 or movie_scale == 0:
        return None
    asked = duration * scale / movie_scale
    if duration == 0 or abs(asked - rest) <= scale / movie_scale + 1:
        return rest, scale
    return (min(rest, round(asked)), scale) if asked > 0 else None


def _edits(data: bytes, box: Box) -> list[tuple[int, int]]:
    """(segment_duration, media_time) of each edit."""
    long = data[box.payload] == 1
    count = struct.unpack(">I", data[box.payload + 4 : box.payload + 8])[0]
    form, step = (">Qq", 20) if long else (">Ii", 12)
    result = []
    for index in range(count):
        at = box.payload + 8 + index * step
        if at + step > box.end:
            break
        result.append(struct.unpack(form, data[at : at + struct.calcsize(form)]))
    return result
