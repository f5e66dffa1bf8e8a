"""Tags of every format as one neutral thing, and back (through mutagen).

The neutral names are those of Vorbis comments in lower case. Fields without a row in the tables keep their own name in
the free-form place each format has (TXXX, a Vorbis comment, an iTunes `----` atom).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mutagen.apev2 import APEv2
from mutagen.asf import ASF
from mutagen.flac import FLAC, Picture
from mutagen.id3 import ID3, Encoding
from mutagen.id3 import Frames as Id3Frames
from mutagen.mp4 import MP4, AtomDataType, MP4Cover, MP4FreeForm
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggspeex import OggSpeex
from mutagen.oggvorbis import OggVorbis

_FREE_FORM = "----:com.apple.iTunes:"


@dataclass(frozen=True)
class Cover:
    """A picture: its bytes, MIME type, kind as in ID3 (3 is the front cover) and description."""

    data: bytes
    mime: str
    kind: int = 3
    description: str = ""


@dataclass
class Tags:
    """Neutral name -> values, and pictures. `id3` holds the frames only ID3 knows, for ID3 to ID3."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    covers: list[Cover] = field(default_factory=list)
    id3: list[Any] = field(default_factory=list)
    id3_version: int = 4

    def add(self, name: str, value: object) -> None:
        """Append a value unless it is empty."""
        text = str(value)
        if text.strip("\0 \t\r\n"):
            self.fields.setdefault(name, []).append(text)


# neutral name: (ID3 frame, MP4 atom, ASF attribute)
_TABLE: dict[str, tuple[str, str, str]] = {
    "title": ("TIT2", "\xa9nam", "Title"),
    "artist": ("TPE1", "\xa9ART", "Author"),
    "album": ("TALB", "\xa9alb", "WM/AlbumTitle"),
    "albumartist": ("TPE2", "aART", "WM/AlbumArtist"),
    "date": ("TDRC", "\xa9day", "WM/Year"),
    "originaldate": ("TDOR", "", "WM/OriginalReleaseTime"),
    "genre": ("TCON", "\xa9gen", "WM/Genre"),
    "composer": ("TCOM", "\xa9wrt", "WM/Composer"),
    "lyricist": ("TEXT", "", "WM/Writer"),
    "conductor": ("TPE3", "", "WM/Conductor"),
    "remixer": ("TPE4", "", "WM/ModifiedBy"),
    "grouping": ("TIT1", "\xa9grp", "WM/ContentGroupDescription"),
    "subtitle": ("TIT3", "", "WM/SubTitle"),
    "mood": ("TMOO", "", "WM/Mood"),
    "isrc": ("TSRC", "", "WM/ISRC"),
    "copyright": ("TCOP", "cprt", "Copyright"),
    "label": ("TPUB", "", "WM/Publisher"),
    "language": ("TLAN", "", "WM/Language"),
    "bpm": ("TBPM", "", "WM/BeatsPerMinute"),
    "initialkey": ("TKEY", "", "WM/InitialKey"),
    "media": ("TMED", "", "WM/Media"),
    "titlesort": ("TSOT", "sonm", "WM/TitleSortOrder"),
    "artistsort": ("TSOP", "soar", "WM/ArtistSortOrder"),
    "albumsort": ("TSOA", "soal", "WM/AlbumSortOrder"),
    "albumartistsort": ("TSO2", "soaa", "WM/AlbumArtistSortOrder"),
    "composersort": ("TSOC", "soco", "WM/ComposerSortOrder"),
    "comment": ("", "\xa9cmt", "Description"),
    "lyrics": ("", "\xa9lyr", "WM/Lyrics"),
    "compilation": ("TCMP", "", "WM/IsCompilation"),
}
_FROM_ID3 = {row[0]: name for name, row in _TABLE.items() if row[0]} | {"TYER": "date", "TORY": "originaldate"}
_FROM_MP4 = {row[1]: name for name, row in _TABLE.items() if row[1]}
_FROM_ASF = {row[2].lower(): name for name, row in _TABLE.items() if row[2]}
# Other names for the same, in Vorbis comments, APE tags, RIFF INFO and what FFmpeg reads from Matroska.
_ALIASES = {
    "album artist": "albumartist",
    "album_artist": "albumartist",
    "year": "date",
    "track": "tracknumber",
    "disc": "discnumber",
    "disk": "discnumber",
    "totaltracks": "tracktotal",
    "totaldiscs": "disctotal",
    "description": "comment",
    "unsyncedlyrics": "lyrics",
    "key": "initialkey",
    "tempo": "bpm",
    "organization": "label",
    "publisher": "label",
    "tbpm": "bpm",
    "tkey": "initialkey",
}


def read_native(file: Any) -> Tags:
    """Tags of an open mutagen file."""
    tags = Tags()
    if file.tags is None:
        return tags
    readers: tuple[tuple[Any, Callable[[Any, Tags], None]], ...] = (
        (ID3, _read_id3),
        (APEv2, _read_ape),
    )
    if isinstance(file, MP4):
        _read_mp4(file, tags)
    elif isinstance(file, ASF):
        _read_asf(file, tags)
    elif isinstance(file, (FLAC, OggVorbis, OggOpus, OggFLAC, OggSpeex)):
        _read_vorbis(file, tags)
    else:
        for kind, reader in readers:
            if isinstance(file.tags, kind):
                reader(file.tags, tags)
    _split_numbers(tags)
    return tags


def add_plain(tags: Tags, pairs: dict[str, str]) -> None:
    """Add name -> value pairs with names as people write them."""
    for name, value in pairs.items():
        tags.add(_ALIASES.get(name.lower(), name.lower()), value)
    _split_numbers(tags)


def _split_numbers(tags: Tags) -> None:
    """ "3/12" becomes number and total."""
    for name, total in (("tracknumber", "tracktotal"), ("discnumber", "disctotal")):
        values = tags.fields.get(name)
        if values and "/" in values[0]:
            number, _, count = values[0].partition("/")
            tags.fields[name] = [number.strip()] if number.strip() else []
            if count.strip():
                tags.fields.setdefault(total, [count.strip()])
            if not tags.fields[name]:
                del tags.fields[name]


def _read_id3(frames: Any, tags: Tags) -> None:
    tags.id3_version = 3 if frames.version[:2] <= (2, 3) else 4
    for frame in frames.values():
        kind = frame.FrameID
        if kind == "APIC":
            tags.covers.append(Cover(frame.data, frame.mime, int(frame.type), frame.desc))
        elif kind == "TXXX":
            for value in frame.text:
                tags.add(_ALIASES.get(frame.desc.lower(), frame.desc.lower()), value)
        elif kind == "COMM":
            # iTunes hides technical numbers in comments with a description
            if frame.desc.startswith("iTun"):
                continue
            for value in frame.text:
                tags.add("comment", value)
        elif kind == "USLT":
            tags.add("lyrics", frame.text)
        elif kind in ("TRCK", "TPOS"):
            for value in frame.text[:1]:
                tags.add("tracknumber" if kind == "TRCK" else "discnumber", value)
        elif kind == "TCON":
            for genre in frame.genres:
                tags.add("genre", genre)
        elif kind in _FROM_ID3:
            for value in frame.text:
                tags.add(_FROM_ID3[kind], value)
        else:
            tags.id3.append(frame)


def _read_vorbis(file: Any, tags: Tags) -> None:
    for name, value in file.tags:
        lower = name.lower()
        if lower == "metadata_block_picture":
            try:
                _add_picture(Picture(base64.b64decode(value)), tags)
            except Exception:
                continue
        elif lower == "coverart":
            tags.covers.append(Cover(base64.b64decode(value, validate=False), ""))
        elif lower != "coverartmime":
            tags.add(_ALIASES.get(lower, lower), value)
    for picture in getattr(file, "pictures", ()):
        _add_picture(picture, tags)


def _add_picture(picture: Any, tags: Tags) -> None:
    tags.covers.append(Cover(picture.data, picture.mime, int(picture.type), picture.desc))


def _read_ape(items: Any, tags: Tags) -> None:
    for name, value in items.items():
        lower = name.lower()
        if lower.startswith("cover art"):
            _, _, data = value.value.partition(b"\0")
            tags.covers.append(Cover(data, "", 3 if "front" in lower else 4))
        elif value.kind == 0:
            for text in value:
                tags.add(_ALIASES.get(lower, lower), text)


def _read_mp4(file: Any, tags: Tags) -> None:
    for name, values in file.tags.items():
        if name == "covr":
            tags.covers += [Cover(bytes(data), "") for data in values]
        elif name in ("trkn", "disk"):
            word = "track" if name == "trkn" else "disc"
            for number, total in values[:1]:
                if number:
                    tags.add(f"{word}number", number)
                if total:
                    tags.add(f"{word}total", total)
        elif name == "tmpo":
            tags.add("bpm", values[0] if values else "")
        elif name == "cpil":
            tags.add("compilation", "1" if values else "")
        elif name in _FROM_MP4:
            for value in values:
                tags.add(_FROM_MP4[name], value)
        elif name.startswith("----:"):
            free = name.rsplit(":", 1)[-1].lower()
            for value in values:
                tags.add(_ALIASES.get(free, free), bytes(value).decode("utf-8", "replace"))


def _read_asf(file: Any, tags: Tags) -> None:
    for name, values in file.tags.as_dict().items():
        lower = name.lower()
        for value in values:
            if lower == "wm/picture":
                cover = _asf_picture(bytes(value.value))
                if cover is not None:
                    tags.covers.append(cover)
            elif lower in ("wm/tracknumber", "wm/partofset"):
                tags.add("tracknumber" if lower == "wm/tracknumber" else "discnumber", value)
            elif lower == "wm/iscompilation":
                tags.add("compilation", "1" if value.value else "")
            elif lower in _FROM_ASF:
                tags.add(_FROM_ASF[lower], value)
            elif isinstance(value.value, str) and not lower.startswith(("wm/", "wmfsdk", "isvbr")):
                tags.add(lower, value)


def _asf_picture(data: bytes) -> Cover | None:
    """WM/Picture: kind, size, MIME type and description in UTF-16 ending with zeros, then the image."""
    if len(data) < 9:
        return None
    kind, size = struct.unpack("<BI", data[:5])
    texts, at = [], 5
    for _ in range(2):
        end = at
        while end + 1 < len(data) and data[end : end + 2] != b"\0\0":
            end += 2
        texts.append(data[at:end].decode("utf-16-le", "replace"))
        at = end + 2
    return Cover(data[at : at + size], texts[0], kind, texts[1])


# ---------------------------------------------------------------- writing


def write_native(file: Any, tags: Tags) -> None:
    """Put tags into an open mutagen file, in place of what is there, and save it."""
    if isinstance(file, MP4):
        _write_mp4(file, tags)
        file.save()
    elif isinstance(file, (FLAC, OggVorbis, OggOpus)):
        _write_vorbis(file, tags)
        file.save()
    else:
        if file.tags is None:
            file.add_tags()
        _write_id3(file.tags, tags)
        file.save(v2_version=tags.id3_version)


def _write_id3(frames: Any, tags: Tags) -> None:
    frames.clear()
    for frame in tags.id3:
        frames.add(frame)
    for name, values in tags.fields.items():
        kind = _TABLE.get(name, ("", "", ""))[0]
        if name == "comment":
            frames.add(Id3Frames["COMM"](Encoding.UTF8, lang="eng", desc="", text=values))
        elif name == "lyrics":
            frames.add(Id3Frames["USLT"](Encoding.UTF8, lang="eng", desc="", text="\n".join(values)))
        elif name in ("tracknumber", "discnumber"):
            total = tags.fields.get(name.replace("number", "total"))
            text = f"{values[0]}/{total[0]}" if total else values[0]
            frames.add(Id3Frames["TRCK" if name == "tracknumber" else "TPOS"](Encoding.UTF8, text=[text]))
        elif name in ("tracktotal", "disctotal"):
            continue
        elif kind:
            frames.add(Id3Frames[kind](Encoding.UTF8, text=values))
        else:
            frames.add(Id3Frames["TXXX"](Encoding.UTF8, desc=name, text=values))
    for index, cover in enumerate(tags.covers):
        description = cover.description or ("" if index == 0 else str(index))  # frames of one name overwrite each other
        frames.add(Id3Frames["APIC"](Encoding.UTF8, cover.mime, cover.kind, description, cover.data))


def _write_vorbis(file: Any, tags: Tags) -> None:
    if file.tags is None:
        file.add_tags()
    file.tags.clear()
    for name, values in tags.fields.items():
        file.tags[name.upper()] = values
    pictures = []
    for cover in tags.covers:
        picture = Picture()
        picture.data, picture.mime, picture.type, picture.desc = cover.data, cover.mime, cover.kind, cover.description
        pictures.append(picture)
    if isinstance(file, FLAC):
        file.clear_pictures()
        for picture in pictures:
            file.add_picture(picture)
    elif pictures:
        file.tags["METADATA_BLOCK_PICTURE"] = [base64.b64encode(p.write()).decode("ascii") for p in pictures]


def _write_mp4(file: Any, tags: Tags) -> None:
    if file.tags is None:
        file.add_tags()
    keep = {name: value for name, value in file.tags.items() if name.endswith(":iTunSMPB")}
    file.tags.clear()
    file.tags.update(keep)
    for name, values in tags.fields.items():
        atom = _TABLE.get(name, ("", "", ""))[1]
        if name in ("tracknumber", "discnumber"):
            number, total = _number(values[0]), _number((tags.fields.get(name.replace("number", "total")) or ["0"])[0])
            if number or total:
                file.tags["trkn" if name == "tracknumber" else "disk"] = [(number, total)]
        elif name in ("tracktotal", "disctotal"):
            continue
        elif name == "bpm" and _number(values[0]):
            file.tags["tmpo"] = [_number(values[0])]
        elif name == "compilation":
            file.tags["cpil"] = values[0].strip().lower() not in ("0", "", "false")
        elif atom:
            file.tags[atom] = values
        else:
            free = [MP4FreeForm(value.encode("utf-8"), AtomDataType.UTF8) for value in values]
            file.tags[_FREE_FORM + name] = free
    formats = {"image/jpeg": MP4Cover.FORMAT_JPEG, "image/png": MP4Cover.FORMAT_PNG}
    covers = [MP4Cover(cover.data, formats[cover.mime]) for cover in tags.covers if cover.mime in formats]
    if covers:
        file.tags["covr"] = covers


def _number(text: str) -> int:
    """A number that fits 16 bits, rounded; 0 where there is none."""
    try:
        value = round(float(text.replace(",", ".")))
    except (ValueError, OverflowError):
        return 0
    return value if 0 < value < 65536 else 0
