"""MPEG audio layers without a container: frame headers, the Xing/Info/LAME tag, what surrounds them.

Facts: ISO 11172-3 and 13818-3 frame headers, and the description of the LAME tag
(gabriel.mp3-tech.org/mp3infotag.html).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unmixcli.audio.content import AGAIN, Content
from unmixcli.errors import InputError

_RATES = (44100, 48000, 32000)
_KBITS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class FrameHeader:
    """One MPEG audio frame: bytes it takes (header included), samples it gives, Hz, channels, side data size."""

    length: int
    samples: int
    sample_rate: int
    channels: int
    layer: int
    side: int


def parse_header(data: bytes) -> FrameHeader | None:
    """The frame that starts with these four bytes; None where they are no frame header (or free format)."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return None
    version = {3: 1, 2: 2, 0: 25}.get(data[1] >> 3 & 3)  # 25 stands for MPEG 2.5
    layer = 4 - (data[1] >> 1 & 3)
    rate_index, bits_index = data[2] >> 2 & 3, data[2] >> 4
    if version is None or layer == 4 or rate_index == 3 or bits_index in (0, 15):
        return None
    family = 1 if version == 1 else 2
    rate = _RATES[rate_index] // {1: 1, 2: 2, 25: 4}[version]
    kbit = _KBITS[family, layer][bits_index]
    padding = data[2] >> 1 & 1
    mono = data[3] >> 6 == 3
    if layer == 1:
        length, samples = (12000 * kbit // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and family == 2 else 1152
        length = samples // 8 * 1000 * kbit // rate + padding
    side = (17 if mono else 32) if family == 1 else (9 if mono else 17)
    return FrameHeader(length, samples, rate, 1 if mono else 2, layer, side)


def skip_id3(file: BinaryIO) -> int:
    """Bytes that ID3v2 tags take at the start."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return at
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        at += 10 + size + (10 if head[5] & 0x10 else 0)


def examine_mp3(file: BinaryIO, name: str, size: int, start: int) -> Content | None:
    """Look for MPEG audio from byte `start`; None where there is none.

    Raises:
        InputError: the Xing header states more bytes than the file has.
    """
    found = _first_frame(file, start)
    if found is None:
        return None
    at, header = found
    file.seek(at)
    frame = file.read(max(header.length, 200))
    tag = frame[4 + header.side :]
    if header.layer != 3 or tag[:4] not in (b"Xing", b"Info"):
        if frame[36:40] != b"VBRI" and _ends_inside_frame(file, at, size):
            note = f"{Path(name).name}: the last MP3 frame is cut off; the file may end early."
            return Content("mp3", notes=(note,))
        return Content("mp3")
    flags = struct.unpack(">I", tag[4:8])[0]
    position = 8
    frames = stated_bytes = None
    if flags & 1:
        frames = struct.unpack(">I", tag[position : position + 4])[0]
        position += 4
    if flags & 2:
        stated_bytes = struct.unpack(">I", tag[position : position + 4])[0]
        position += 4
    position += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if stated_bytes and at + stated_bytes > size:
        raise InputError(
            f"{name}: the MP3 file is cut off: its header states {stated_bytes} bytes of audio"
            + (f" ({frames} frames)" if frames else "")
            + f", {size - at} are there.",
            hint=AGAIN,
        )
    lame = tag[position : position + 24]
    # More audio than stated: files joined together, so the count is of the first one only. Tags at the end are
    # allowed for; a second stream as short as that can't be told from them.
    joined = stated_bytes is not None and _has_frames_after(file, at + stated_bytes, size)
    if frames is None or len(lame) < 24 or joined:
        return Content("mp3")
    delay, padding = lame[21] << 4 | lame[22] >> 4, (lame[22] & 15) << 8 | lame[23]
    exact = frames * header.samples - delay - padding
    known = lame[:4] in (b"LAME", b"Lavc", b"Lavf", b"L3.9") and exact > 0
    return Content("mp3", exact if known else None)


def _first_frame(file: BinaryIO, start: int) -> tuple[int, FrameHeader] | None:
    """The first header that another of the same kind follows, within 64 KiB; or the only frame of a file."""
    file.seek(start)
    data = file.read(65536 + 8192)
    at = data.find(b"\xff")
    while 0 <= at < 65536:
        header = parse_header(data[at : at + 4])
        if header is not None:
            follows = parse_header(data[at + header.length : at + header.length + 4])
            alone = at == 0 and len(data) <= header.length + 256
            if alone or (
                follows is not None and (follows.layer, follows.sample_rate) == (header.layer, header.sample_rate)
            ):
                return start + at, header
        at = data.find(b"\xff", at + 1)
    return None


def _has_frames_after(file: BinaryIO, at: int, size: int) -> bool:
    if at + 8 >= size:
        return False
    file.seek(at)
    head = file.read(10)
    if head[:3] == b"ID3":
        return True
    return parse_header(head[:4]) is not None


def _ends_inside_frame(file: BinaryIO, at: int, size: int) -> bool:
    """Whether the file stops in the middle of a frame: walk the headers of the last part of the file.

    Only called for streams without a Xing header. A constant bitrate needs no walk through the whole file: any run of
    four linked headers within the last 64 KiB is a safe place to start from.
    """
    begin = max(at, size - 65536)
    file.seek(begin)
    data = file.read(65536)
    here = 0
    while here < len(data):
        here = data.find(b"\xff", here)
        if here < 0:
            return False
        place, linked = here, 0
        while place < len(data):
            header = parse_header(data[place : place + 4])
            if header is None:
                break
            place, linked = place + header.length, linked + 1
        if linked >= 4:
            return place > len(data)
        here += 1
    return False
