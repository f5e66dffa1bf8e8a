"""What a decoder knows about a file before the first sample."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class AudioInfo:
    """One audio track of a file.

    Attributes:
        path: of the file.
        sample_rate: Hz.
        channels: C.
        frames: exact number of samples per channel where the file states it reliably, else None.
        duration: seconds; an estimate where `frames` is None, for progress only.
        sample_type: what is stored: "u8" "s8" "s16" "s24" "s32" "f32" "f64"; "f32" for lossy codecs.
        lossy: whether the codec is.
        format: the word of `Options.format` where there is one (wav flac mp3 m4a alac ogg opus aiff), else the name
            of the container (webm wma mp4 mkv mov w64 …).
        codec: name of the codec ("pcm_24", "aac", "vorbis" …).
        bit_rate: bit/s, where known.
        track: index of the audio track that is read, 0 is the first.
        tracks: number of audio tracks.
        has_video: whether there are moving pictures (cover art is not).
        channel_layout: a name in `channels.LAYOUTS` such as "5.1", where the file states it.
        notes: sentences for the user about what is unusual.
    """

    path: str
    sample_rate: int
    channels: int
    frames: int | None
    duration: float | None
    sample_type: str
    lossy: bool
    format: str
    codec: str
    bit_rate: int | None = None
    track: int = 0
    tracks: int = 1
    has_video: bool = False
    channel_layout: str | None = None
    notes: tuple[str, ...] = ()


def sndfile_path(path: str) -> str | bytes:
    """A path as libsndfile's binding takes it: on POSIX the bytes it is made of, as a name need not be valid UTF-8."""
    return os.fsencode(path) if os.name == "posix" else path
