"""The pages of an Ogg file: which codec, whether it is chained, whether it was cut off (RFC 3533, RFC 7845)."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from unmixcli.audio.content import Content

_MAGIC = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex"}
_END_OF_STREAM, _BEGIN = 4, 2
# Holds two pages of the largest size and more.
_TAIL = 1 << 18


def examine_ogg(file: BinaryIO, name: str, size: int) -> Content:
    """Read the header of every page; the bodies are skipped.

    A file of several streams after each other (an internet radio recording) or side by side (with video) is "chained":
    libsndfile reads only the first, so those go to FFmpeg.
    """
    codec, streams, at, pages, last = "", 0, 0, 0, -1
    head = b""
    from_zero = cut_off = complete = False
    while at < size:
        file.seek(at)
        header = file.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            cut_off = len(header) < 27 and b"OggS".startswith(header[:4])
            break
        table = file.read(header[26])
        body = sum(table)
        granule = int(struct.unpack("<q", header[6:14])[0])
        if header[5] & _BEGIN:
            streams += 1
            packet = file.read(min(body, 32))
            if not codec:
                codec = next((word for magic, word in _MAGIC.items() if packet.startswith(magic)), "other")
                head = packet
        elif granule > 0 and last <= 0:
            from_zero = codec == "opus" and _starts_at_zero(table, file.read(2), granule, header[5])
            if streams == 1 and size - at > _SCAN_LIMIT and not _more_streams(file, at, size):
                break
        if granule >= 0:
            last = granule
        pages += 1
        at += 27 + header[26] + body
        complete = at == size and bool(header[5] & _END_OF_STREAM)
    cut_off = cut_off or at > size
    notes: tuple[str, ...] = ()
    if cut_off:
        notes = (f"{Path(name).name}: the last Ogg page is cut off; the file ends early.",)
    if streams > 1:
        codec = "chained"
    frames = None
    if codec == "opus" and from_zero and complete and len(head) >= 12:
        frames = max(0, last - int(struct.unpack("<H", head[10:12])[0]))  # less the pre-skip
    return Content("ogg", frames, codec=codec, notes=notes)


def last_page_start(path: str | bytes) -> int:
    """First sample that the last page of a Vorbis file may hold: where the page before it ends; 0 if there is none."""
    with Path(os.fsdecode(path)).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    granules: list[int] = []
    end, at = len(tail), len(tail)
    while len(granules) < 2 and (at := tail.rfind(b"OggS", 0, at)) >= 0:
        header = tail[at : at + 27]
        table = tail[at + 27 : at + 27 + header[26]] if len(header) == 27 else b""
        if len(header) == 27 and at + 27 + header[26] + sum(table) == end:  # else these letters are inside a page
            end = at
            granule = int(struct.unpack("<q", header[6:14])[0])
            if granule >= 0:
                granules.append(granule)
    return max(0, granules[1]) if len(granules) == 2 else 0


def _starts_at_zero(table: bytes, start: bytes, granule: int, flags: int) -> bool:
    """Whether the first page with Opus sound ends where its own packets do: nothing was cut off before it."""
    if len(start) < 2:
        return False
    config, code = start[0] >> 3, start[0] & 3
    if config < 12:
        length = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        length = (480, 960)[config & 1]
    else:
        length = (120, 240, 480, 960)[config & 3]
    frames = start[1] & 63 if code == 3 else 1 if code == 0 else 2
    total = length * frames * sum(1 for lace in table if lace < 255)
    return granule == total or (bool(flags & _END_OF_STREAM) and granule <= total)


# Above this size the pages are not walked one by one; chained streams are looked for at the end only.
_SCAN_LIMIT = 256 * 2**20


def _more_streams(file: BinaryIO, first_page: int, size: int) -> bool:
    """Whether the last page belongs to another stream than the page at `first_page`."""
    file.seek(first_page + 14)
    serial = struct.unpack("<I", file.read(4))[0]
    file.seek(max(first_page, size - 70000))
    tail = file.read()
    at = tail.rfind(b"OggS")
    return at < 0 or len(tail) < at + 18 or struct.unpack("<I", tail[at + 14 : at + 18])[0] != serial
