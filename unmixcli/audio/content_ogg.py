"""The pages of an Ogg file: which codec, whether it is chained, whether it was cut off (RFC 3533, RFC 7845)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from unmixcli.audio.content import Content

_MAGIC = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex"}
_END_OF_STREAM, _BEGIN = 4, 2


def examine_ogg(file: BinaryIO, name: str, size: int) -> Content:
    """Read the header of every page; the bodies are skipped.

    A file of several streams after each other (an internet radio recording) or side by side (with video) is "chained":
    libsndfile reads only the first, so those go to FFmpeg; and so does Opus of more than two channels, which libsndfile
    1.2 calls malformed.
    """
    codec, streams, flags, at, channels = "", 0, 0, 0, 0
    cut_off = False
    first_data = False
    while at < size:
        file.seek(at)
        header = file.read(27)
        if len(header) < 27 or header[:4] != b"OggS":
            cut_off = len(header) < 27 and b"OggS".startswith(header[:4])
            break
        flags = header[5]
        table = file.read(header[26])
        body = sum(table)
        if flags & _BEGIN:
            streams += 1
            packet = file.read(min(body, 16))
            if packet.startswith(b"OpusHead") and len(packet) > 9:
                channels = packet[9]
            if not codec:
                codec = next((word for magic, word in _MAGIC.items() if packet.startswith(magic)), "other")
        elif not first_data:
            first_data = True
            if streams == 1 and size - at > _SCAN_LIMIT and not _more_streams(file, at, size):
                break
        at += 27 + header[26] + body
    else:
        cut_off = at > size
    notes: tuple[str, ...] = ()
    if cut_off:
        notes = (f"{Path(name).name}: the last Ogg page is cut off; the file ends early.",)
    if streams > 1:
        codec = "chained"
    elif codec == "opus" and channels > 2:
        codec = "multichannel opus"
    return Content("ogg", codec=codec, notes=notes)


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
