"""Tags and cover art from one file to another, across formats.

What describes the music is kept: names, dates, BPM, key, pictures, free fields. What describes the old file's signal is
left out, since it is wrong for a stem: ReplayGain, R128 and Sound Check levels, encoder names and delays, fingerprints.
Tags come from strangers: whatever is broken, huge or unprintable in them costs a warning, never the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import av.error
import mutagen
import soundfile
from mutagen.aiff import AIFF
from mutagen.asf import ASF
from mutagen.flac import FLAC
from mutagen.mp3 import MP3
from mutagen.mp4 import MP4
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE

from unmixcli.audio.info import sndfile_path
from unmixcli.audio.tag_maps import Cover, Tags, add_plain, read_native, write_native

_WRITABLE = (MP3, FLAC, OggVorbis, OggOpus, MP4, AIFF, WAVE)

_LEFT_OUT = re.compile(
    r"replaygain_.*|r128_.*|itunsmpb|itunnorm|itunpgap|itunes_cddb.*|encoder.*|encoded.?by|encoding|encodingtime|"
    r"encodersettings|tool name|tool version|length|duration|acoustid_fingerprint|mp3gain_.*|loudness.*|"
    r"album_?gain|track_?gain|major_brand|minor_version|compatible_brands|creation_time|bps|number_of_.*|"
    r"_statistics_.*|handler_name|vendor_id|software|waveformatextensible_channel_mask|"
    r"id3v2_priv.*|cuesheet"
)
# ID3 frames about the old file's signal or encoder: levels, equaliser, seek tables, encoder, length, file type.
_LEFT_OUT_FRAMES = frozenset({"RVA2", "RVAD", "RGAD", "EQU2", "EQUA", "TSSE", "TENC", "TLEN", "TFLT", "TDEN", "ASPI"})
_LEFT_OUT_FRAMES |= frozenset({"MLLT", "SEEK", "RBUF", "AENC", "ENCR", "NCON", "XRVA"})

_MANY_LINES = frozenset({"comment", "lyrics"})
_LONGEST = 10_000  # characters of a field
_LONGEST_LINES = 500_000  # of a comment or lyrics
_MOST_FIELDS = 500
_MOST_COVERS = 8
# FLAC's metadata block takes 2^24 bytes; a picture larger than this is no cover.
_LARGEST_COVER = 15 * 2**20
_MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"RIFF": "image/webp",
}


def read_tags(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tags for people and templates: neutral name -> text, several values joined by ", ".

    Names are title, artist, album, albumartist, date, genre, composer, tracknumber, discnumber, bpm, initialkey,
    comment, lyrics and whatever else is there. Never raises: a file without readable tags gives {}.
    """
    tags, _ = _read(os.fspath(path))
    clean, _ = _clean(tags)
    return {name: ", ".join(values) for name, values in clean.fields.items()}


def copy_tags(
    source_path: str | os.PathLike[str],
    target_path: str | os.PathLike[str],
    *,
    changes: Mapping[str, str] | None = None,
) -> list[str]:
    """Copy tags and cover art of one file into another, in place of what that one has.

    Args:
        source_path: any audio or video file.
        target_path: wav, flac, mp3, m4a, ogg, opus, aiff or stem.mp4.
        changes: neutral name -> value that takes the place of the source's; "" removes the field.

    Returns:
        Sentences about what could not be copied. Never raises for what is inside the tags; a target that can't be
        written is a warning too, and is left as it was.
    """
    source, target = os.fspath(source_path), os.fspath(target_path)
    tags, warnings = _read(source)
    clean, more = _clean(tags)
    warnings += more
    for name, value in (changes or {}).items():
        text = _clean_text(name, value)
        if text:
            clean.fields[name] = [text]
        else:
            clean.fields.pop(name, None)
    name = Path(target).name
    try:
        file = _open(target)
        if not isinstance(file, _WRITABLE):
            return [*warnings, f"{name}: tags were not written, this kind of file can't take them."]
        if isinstance(file, MP4):
            warnings += [
                f"{name}: a {cover.mime} picture was left out, MP4 takes JPEG and PNG."
                for cover in clean.covers
                if cover.mime not in ("image/jpeg", "image/png")
            ]
        if isinstance(file, (MP4, FLAC, OggVorbis, OggOpus)):
            clean.id3 = []
        write_native(file, clean)
    except Exception as error:
        # mutagen raises its own errors, but also struct.error, KeyError, IndexError and others on hostile input
        warnings.append(f"{name}: tags were not written: {_reason(error)}.")
    return warnings


def _read(path: str) -> tuple[Tags, list[str]]:
    """All tags of a file, as they are, and warnings."""
    tags = Tags()
    try:
        file = _open(path)
        if file is not None:
            tags = read_native(file)
        if not tags.fields:
            _read_elsewhere(path, file, tags)
    except Exception as error:
        # see copy_tags: what a parser raises on hostile input can't be named completely
        return tags, [f"{Path(path).name}: tags can't be read: {_reason(error)}."]
    return tags, []


def _read_elsewhere(path: str, file: Any, tags: Tags) -> None:
    """Tags mutagen does not see: RIFF INFO of WAV, and Matroska, AVI and others that FFmpeg knows."""
    if file is None or isinstance(file, WAVE):
        try:
            with soundfile.SoundFile(sndfile_path(path)) as sound:
                add_plain(tags, dict(sound.copy_metadata()))
        except (soundfile.LibsndfileError, RuntimeError):
            pass
    if file is None and not tags.fields:
        try:
            with av.open(
                "file:" + path, options={"protocol_whitelist": "file"}, metadata_errors="replace"
            ) as container:
                add_plain(tags, dict(container.metadata))
        except (av.error.FFmpegError, ValueError, OSError):
            return


def _open(path: str) -> Any:
    """mutagen's file; by content, except that a temporary name may have no suffix."""
    try:
        return mutagen.File(path)
    except mutagen.MutagenError:
        for kind in (WAVE, AIFF, FLAC, MP4, OggOpus, OggVorbis, ASF):
            try:
                return kind(path)
            except (mutagen.MutagenError, ValueError, KeyError, IndexError):
                continue
        raise


def _clean(tags: Tags) -> tuple[Tags, list[str]]:
    """A copy without what must not be copied or is hostile, and warnings."""
    clean = Tags(id3_version=tags.id3_version)
    warnings = []
    for name, values in list(tags.fields.items())[:_MOST_FIELDS]:
        # Vorbis names are printable ASCII without "="; MP4's and ID3's are more lenient
        plain = "".join(c for c in name if " " <= c <= "}" and c != "=").strip()
        if not plain or len(plain) > 100 or _LEFT_OUT.fullmatch(plain):
            continue
        texts = [text for value in values[:100] if (text := _clean_text(plain, value))]
        if texts:
            clean.fields[plain] = list(dict.fromkeys(texts))
    if len(tags.fields) > _MOST_FIELDS:
        warnings.append(f"only the first {_MOST_FIELDS} of {len(tags.fields)} tags were copied.")
    clean.id3 = [frame for frame in tags.id3 if frame.FrameID not in _LEFT_OUT_FRAMES]
    for cover in tags.covers:
        mime = next((mime for magic, mime in _MAGIC.items() if cover.data.startswith(magic)), None)
        if len(cover.data) > _LARGEST_COVER:
            warnings.append(f"a picture of {len(cover.data) / 2**20:.0f} MiB was left out, the limit is 15 MiB.")
        elif mime is None:
            warnings.append("a picture that is not JPEG, PNG, GIF, BMP or WebP was left out.")
        elif len(clean.covers) < _MOST_COVERS:
            kind = cover.kind if 0 <= cover.kind <= 20 else 3
            clean.covers.append(Cover(cover.data, mime, kind, _clean_text("description", cover.description)[:64]))
    return clean, warnings


def _clean_text(name: str, value: str) -> str:
    """Text without control characters and lone surrogates; one line except where lines are usual; not endless."""
    text = str(value).encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    many = name in _MANY_LINES
    if not many:
        text = re.sub(r"[\n\t\v\f\u2028\u2029]+", " ", text)
    text = "".join(c for c in text if (c >= " " and not "\x7f" <= c <= "\x9f") or (many and c in "\n\t"))
    # bidirectional overrides and zero-width characters make a name look like another
    text = re.sub(r"[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", "", text)
    return text.strip()[: _LONGEST_LINES if many else _LONGEST]


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
