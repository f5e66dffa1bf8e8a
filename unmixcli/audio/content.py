"""What a file says about itself, read from its bytes: the content decides, never the suffix.

The decoders give what they find; whether that is all there should be is checked here, against what the headers state:
the size of a WAV's data chunk, an MP3's Xing frame count, an MP4's sample table, the last granule of an Ogg stream.
Facts: the RIFF/RF64 description (EBU Tech 3306), the LAME tag description (gabriel.mp3-tech.org/mp3infotag.html),
RFC 3533 (Ogg), RFC 7845 (Opus in Ogg), RFC 8794 (EBML).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unmixcli.errors import InputError

AGAIN = "Copy or download the file again; to use the part that is there, save it anew with an audio editor."
# A program that writes WAV into a pipe can't go back to fill the sizes in; it leaves zero or a value near the limit
# (ffmpeg 0xFFFFFFFF, sox 0x7FFFF000 and a bit). From here on a size is read as "unknown".
_UNKNOWN_SIZE = 0x7FFFF000

_GUID_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_GUID_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")

# Compression types of AIFF-C that are none: frames are counted in samples.
_AIFF_PCM = frozenset({b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"fl64", b"FL64", b"in24", b"in32", b"raw "})

# WAVEFORMATEXTENSIBLE speaker masks that have a name in channels.LAYOUTS
CHANNEL_MASKS: dict[int, str] = {
    0x4: "mono",
    0x3: "stereo",
    0xB: "2.1",
    0x7: "3.0",
    0x103: "3.0(back)",
    0xF: "3.1",
    0x107: "4.0",
    0x33: "quad",
    0x603: "quad(side)",
    0x10F: "4.1",
    0x37: "5.0",
    0x607: "5.0(side)",
    0x3F: "5.1",
    0x60F: "5.1(side)",
    0x707: "6.0",
    0x70F: "6.1",
    0x13F: "6.1(back)",
    0x637: "7.0",
    0x63F: "7.1",
    0xFF: "7.1(wide)",
    0x503F: "5.1.2",
    0x2D03F: "5.1.4",
    0x2D63F: "7.1.4",
}


@dataclass(frozen=True)
class Content:
    """What the first bytes and the structure of a file state.

    Attributes:
        kind: "wav", "aiff", "w64", "flac", "ogg", "mp3", "mp4", "matroska", "asf", "au", "caf" or "other".
        frames: exact number of samples where the structure states it and it can be relied on.
        channel_layout: a name in `channels.LAYOUTS`, where stated.
        codec: of an Ogg stream: "vorbis", "opus", "flac", "speex", "other" or "chained"; of WAV: "pcm" or
            "other".
        notes: sentences for the user.
        unknown_length: a WAV from a pipe, whose header holds no length.
    """

    kind: str
    frames: int | None = None
    channel_layout: str | None = None
    codec: str = ""
    notes: tuple[str, ...] = ()
    unknown_length: bool = False


def check_readable(path: str | os.PathLike[str]) -> int:
    """Size in bytes of a file that can be opened.

    Raises:
        InputError: missing, a folder, not a file, without permission, or empty.
    """
    name = os.fspath(path)
    place = Path(name)
    try:
        if place.is_dir():
            raise InputError(
                f"{name}: is a folder, expected an audio file.", hint="Give the files, or the folder alone."
            )
        if not place.exists():
            raise InputError(f"{name}: no such file.", hint="Check the spelling and the current folder.")
        if not place.is_file():
            raise InputError(f"{name}: is not a plain file (a device or a pipe).", hint="Use - to read standard input.")
        with place.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{name}: can't be opened: {reason}.", hint="Check the permissions of the file.") from error
    except ValueError as error:
        raise InputError(f"{name!r}: is not a possible file name: {error}.") from error
    if size == 0:
        raise InputError(f"{name}: the file is empty (0 bytes), expected audio.", hint="Copy or download it again.")
    return size


def examine(path: str | os.PathLike[str]) -> Content:
    """Look at a file.

    Raises:
        InputError: the file can't be read, its header is impossible, or it is shorter than its header states.
    """
    size = check_readable(path)
    name = os.fspath(path)
    with Path(name).open("rb") as file:
        head = file.read(64)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _examine_wav(file, name, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _examine_aiff(file, name, size)
        if head[:16] == _GUID_W64:
            return _examine_w64(file, name, size)
        if head[:4] == b"OggS":
            from unmixcli.audio.content_ogg import examine_ogg

            return examine_ogg(file, name, size)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _examine_mp4(file, name, size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _examine_matroska(file, name, size)
        if head[:16] == _GUID_ASF:
            return Content("asf")
        for magic, kind in ((b"fLaC", "flac"), (b".snd", "au"), (b"caff", "caf")):
            if head.startswith(magic):
                return Content(kind)
        return _examine_tagged(file, name, size)


def _examine_wav(file: BinaryIO, name: str, size: int) -> Content:
    """Walk the chunks of RIFF, RIFX (big-endian) and RF64."""
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    file.seek(12)
    long_data: int | None = None
    form = b""
    while True:
        start = file.tell()
        header = file.read(8)
        if len(header) < 8:
            break
        kind, length = header[:4], int(struct.unpack(order + "I", header[4:])[0])
        if kind == b"ds64":
            long_data = struct.unpack(order + "Q", file.read(28)[8:16])[0] if length >= 28 else None
        elif kind == b"fmt ":
            form = file.read(min(length, 64))
        elif kind == b"data":
            return _wav_data(name, size, file.tell(), length, long_data, form, order)
        file.seek(start + 8 + length + length % 2)
    what = "has no audio (no data chunk)" if form else "has no format header (no fmt chunk)"
    raise InputError(f"{name}: the WAV file {what}; it has {size} bytes.", hint=AGAIN)


def _wav_data(name: str, size: int, at: int, length: int, long_data: int | None, form: bytes, order: str) -> Content:
    if len(form) < 16:
        raise InputError(f"{name}: the WAV file's format header is missing or cut off.", hint=AGAIN)
    tag, channels, rate, _, align, bits = struct.unpack(order + "HHIIHH", form[:16])
    for what, value in (("channels", channels), ("Hz as sample rate", rate), ("bytes per sample frame", align)):
        if value == 0:
            raise InputError(
                f"{name}: the WAV header says 0 {what}, expected 1 or more.",
                hint="The header is damaged; export the file again from the program that made it.",
            )
    layout = None
    if tag == 0xFFFE and len(form) >= 26:
        layout = CHANNEL_MASKS.get(struct.unpack(order + "I", form[20:24])[0])
        tag = struct.unpack(order + "H", form[24:26])[0]
    there = size - at
    notes: tuple[str, ...] = ()
    stated = long_data if length == 0xFFFFFFFF and long_data is not None else length
    unknown = long_data is None and (length >= _UNKNOWN_SIZE > there or (length == 0 and there > 0))
    if unknown:
        stated = there
        notes = (f"{Path(name).name}: the WAV header states no length; everything up to the end of the file is read.",)
    elif stated > there:
        raise InputError(
            f"{name}: the WAV file is cut off: its header states {stated // align} sample frames, "
            f"{max(there, 0) // align} are there.",
            hint=AGAIN,
        )
    pcm = tag in (1, 3) and align == channels * ((bits + 7) // 8)
    return Content("wav", stated // align if pcm else None, layout, "pcm" if pcm else "other", notes, unknown)


def _examine_aiff(file: BinaryIO, name: str, size: int) -> Content:
    file.seek(12)
    exact: int | None = None
    while True:
        start = file.tell()
        header = file.read(8)
        if len(header) < 8:
            break
        kind, length = header[:4], int(struct.unpack(">I", header[4:])[0])
        if kind == b"COMM":
            common = file.read(min(length, 22)).ljust(22, b"\0")
            channels, frames = struct.unpack(">hI", common[:6])
            if channels < 1:
                raise InputError(
                    f"{name}: the AIFF header says {channels} channels, expected 1 or more.",
                    hint="The header is damaged; export the file again from the program that made it.",
                )
            if length < 22 or common[18:22] in _AIFF_PCM:
                exact = frames
        elif kind == b"SSND" and start + 8 + length > size:
            raise InputError(
                f"{name}: the AIFF file is cut off: its sound chunk has {length} bytes, {size - start - 8} are there.",
                hint=AGAIN,
            )
        file.seek(start + 8 + length + length % 2)
    return Content("aiff", exact)


def _examine_w64(file: BinaryIO, name: str, size: int) -> Content:
    file.seek(40)
    while True:
        start = file.tell()
        header = file.read(24)
        if len(header) < 24:
            break
        length = int(struct.unpack("<Q", header[16:])[0])
        if header[:4] == b"data" and start + length > size:
            raise InputError(
                f"{name}: the W64 file is cut off: its data chunk has {length - 24} bytes, "
                f"{size - start - 24} are there.",
                hint=AGAIN,
            )
        if length < 24:
            break
        file.seek(start + (length + 7) // 8 * 8)
    return Content("w64")


def _examine_mp4(file: BinaryIO, name: str, size: int) -> Content:
    """Top-level boxes must fit into the file, and there must be a moov box."""
    from unmixcli.audio.boxes import top_boxes

    kinds = []
    for box in top_boxes(file, size):
        kinds.append(box.kind)
        if box.end > size:
            raise InputError(
                f"{name}: the file is cut off: its {box.kind.decode('latin-1')} box ends at byte {box.end}, "
                f"the file at {size}.",
                hint=AGAIN,
            )
    if b"moov" not in kinds and b"moof" not in kinds:
        if b"mdat" in kinds or b"ftyp" in kinds:
            raise InputError(
                f"{name}: the MP4 file has no index (moov box): the recording or download was not finished.",
                hint=AGAIN,
            )
        return Content("other")
    return Content("mp4")


def _examine_matroska(file: BinaryIO, name: str, size: int) -> Content:
    """The segment's stated size must fit into the file; all ones means unknown."""

    def number(keep_marker: bool) -> tuple[int, int]:
        first = file.read(1)
        if not first or first[0] == 0:
            return -1, 0
        length = 9 - first[0].bit_length()
        rest = file.read(length - 1)
        value = first[0] if keep_marker else first[0] & ((1 << (8 - length)) - 1)
        return int.from_bytes(bytes([value]) + rest, "big"), length

    file.seek(0)
    at = 0
    while at < size:
        file.seek(at)
        kind, _ = number(True)
        length, digits = number(False)
        if kind < 0 or length < 0:
            break
        if kind == 0x18538067:
            unknown = length == (1 << (7 * digits)) - 1
            if not unknown and file.tell() + length > size:
                raise InputError(
                    f"{name}: the Matroska/WebM file is cut off: it should have {file.tell() + length} bytes "
                    f"and has {size}.",
                    hint=AGAIN,
                )
            break
        at = file.tell() + length
    return Content("matroska")


def _examine_tagged(file: BinaryIO, name: str, size: int) -> Content:
    """Streams that may hide behind an ID3v2 tag: MP3, or FLAC with a tag it should not have."""
    from unmixcli.audio.content_mp3 import examine_mp3, skip_id3

    start = skip_id3(file)
    file.seek(start)
    if file.read(4) == b"fLaC":
        return Content("flac")
    return examine_mp3(file, name, size, start) or Content("other")
