"""A video with other sound: pictures and subtitles are copied packet by packet, the audio track is replaced.

The new audio lies where the old one lay: its first sample gets the time of the old track's first sample, which is not
always zero. Nothing of the picture is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from unmixcli.audio.content import check_readable
from unmixcli.errors import InputError, OutputError

# Container by suffix, and the `Options.format` of the audio that fits into it.
VIDEO_CONTAINERS: dict[str, tuple[str, str]] = {
    ".mp4": ("mp4", "m4a"),
    ".m4v": ("mp4", "m4a"),
    ".mov": ("mov", "m4a"),
    ".mkv": ("matroska", "opus"),  # AAC would keep its priming as sound: 1024 samples late
    ".webm": ("webm", "opus"),
}
# FFmpeg's time bases are fractions of 32-bit integers: 1/90000 s over such a tempo still is one.
_LARGEST_DENOMINATOR = 9999
_TECHNICAL = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "creation_time", "duration"})


def audio_format_for(out_path: str | os.PathLike[str]) -> str:
    """The word of `Options.format` for the audio of a video file with this name.

    Raises:
        OutputError: videos of this kind can't be written.
    """
    suffix = Path(os.fspath(out_path)).suffix.lower()
    if suffix not in VIDEO_CONTAINERS:
        raise OutputError(
            f"{os.fspath(out_path)}: can't write a video with the suffix {suffix or '(none)'!s}, expected one of "
            f"{', '.join(VIDEO_CONTAINERS)}.",
            hint="Use .mkv, which holds every picture codec.",
        )
    return VIDEO_CONTAINERS[suffix][1]


def remux_video(
    video_path: str | os.PathLike[str],
    audio_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    track: int = 0,
    changes: Mapping[str, str] | None = None,
    tempo: float = 1.0,
) -> list[str]:
    """Write `out_path`: the pictures and subtitles of one file with the audio of another.

    Args:
        video_path: the original.
        audio_path: an encoded audio file (`audio_format_for` says which kind) whose first sample belongs to the first
            sample of the original's audio track.
        out_path: its suffix decides the container.
        track: which audio track of the original the new one replaces; the others are left out.
        changes: title and other container tags that take the place of the original's.
        tempo: the new audio plays this many times as fast as the old; pictures and subtitles get other times, so that
            they stay with it, and are still copied as they are.

    Returns:
        Sentences about streams that the container can't hold.

    Raises:
        InputError: no video, or a file that can't be read.
        OutputError: the container can't be written or can't hold the pictures.
    """
    video, audio, target = os.fspath(video_path), os.fspath(audio_path), os.fspath(out_path)
    audio_format_for(target)
    for path in (video, audio):
        check_readable(path)
    start = _audio_start(video, track)
    try:
        with _open(video) as source, _open(audio) as sound:
            speed = Fraction(tempo).limit_denominator(_LARGEST_DENOMINATOR)
            return _copy(source, sound, target, start, changes or {}, speed)
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{target}: the video can't be written: {reason}.", hint="Try .mkv as the suffix.") from error


def _open(path: str) -> Any:
    try:
        return av.open("file:" + path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(f"{path}: can't be read as video: {error.strerror or error}.") from error


def _audio_start(video: str, track: int) -> Fraction:
    """Seconds at which the first decoded sample of an audio track is played; 0 without that track."""
    with _open(video) as source:
        if track >= len(source.streams.audio):
            return Fraction(0)
        stream = source.streams.audio[track]
        for packet in source.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                return Fraction(0) if frame.pts is None else frame.pts * Fraction(frame.time_base)
    return Fraction(0)


def _copy(
    source: Any, sound: Any, target: str, start: Fraction, changes: Mapping[str, str], tempo: Fraction
) -> list[str]:
    name, kind = Path(target).name, VIDEO_CONTAINERS[Path(target).suffix.lower()][0]
    if not source.streams.video:
        raise InputError(f"{source.name.removeprefix('file:')}: has no video track.", hint="Use an audio format.")
    if not sound.streams.audio:
        raise InputError(f"{sound.name.removeprefix('file:')}: has no audio track.")
    voice = sound.streams.audio[0]
    # The movie's clock in samples, so that the edit list can state the end of the audio exactly.
    options = {"movie_timescale": str(voice.rate)} if kind in ("mp4", "mov") else {}
    notes: list[str] = []
    Path(target).open("wb").close()  # an OSError says more than FFmpeg's error
    with av.open("file:" + target, "w", format=kind, options=options) as out:
        for key, value in {**source.metadata, **changes}.items():
            if key.lower() not in _TECHNICAL and value:
                out.metadata[key] = value
        copies: dict[int, Any] = {}
        for stream in source.streams:
            if stream.type in ("video", "subtitle") or (stream.type == "attachment" and kind == "matroska"):
                try:
                    copies[stream.index] = _add_copy(out, stream)
                except (av.error.FFmpegError, ValueError, NotImplementedError):
                    if stream.type == "video" and not copies:
                        raise
                    notes.append(f"{name}: a {stream.type} stream was left out, {kind} can't hold it.")
        new_audio = _add_copy(out, voice)
        if hasattr(out, "set_chapters") and hasattr(source, "chapters"):
            out.set_chapters([_faster_chapter(chapter, tempo) for chapter in source.chapters()])
        for packet in _merged(_packets(source, copies, tempo), _audio_packets(sound, voice, new_audio, start / tempo)):
            out.mux(packet)
    return notes


def _add_copy(out: Any, stream: Any) -> Any:
    """A stream with the parameters of another, nothing encoded."""
    if hasattr(out, "add_stream_from_template"):
        copy = out.add_stream_from_template(stream)
    else:
        copy = out.add_stream(template=stream)  # PyAV 13
    for key, value in stream.metadata.items():
        if key.lower() in ("language", "title", "handler_name"):
            copy.metadata[key] = value
    if stream.type != "audio" and hasattr(stream, "disposition"):
        copy.disposition = stream.disposition
    return copy


def _faster_chapter(chapter: Any, tempo: Fraction) -> Any:
    return {**chapter, "time_base": chapter["time_base"] / tempo}


def _packets(source: Any, copies: Mapping[int, Any], tempo: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """(seconds, packet) of every copied stream, in the order of the file; the clock runs `tempo` times as fast."""
    wanted = [stream for stream in source.streams if stream.index in copies and stream.type != "attachment"]
    held: dict[int, list[Any]] = {index: [] for index in copies}  # packets whose decoding time isn't known yet
    for packet in source.demux(*wanted):
        early = held.get(packet.stream.index)
        if packet.size == 0:
            continue  # the demuxer's last packets are empty: they flush decoders
        if early is not None and packet.dts is None and packet.pts is not None:
            early.append(packet)
            continue
        if packet.dts is None:
            continue
        ready = [packet]
        if early:
            ready = [*_with_decoding_times(early, packet.dts), packet]
        held.pop(packet.stream.index, None)
        yield from ((_retimed(one, tempo), _moved(one, copies)) for one in ready)
    for early in held.values():  # a stream that never tells decoding times: there is no order but that of the file
        for packet in _with_decoding_times(early, None):
            yield _retimed(packet, tempo), _moved(packet, copies)


def _with_decoding_times(packets: list[Any], following: int | None) -> list[Any]:
    """Give packets decoding times, before that of the packet that follows.

    Matroska states none, and FFmpeg's guess starts behind the first reordered frames. They only have to rise, and not
    to exceed the time of showing.
    """
    latest = following
    for packet in reversed(packets):
        latest = packet.pts if latest is None else min(packet.pts, latest - 1)
        packet.dts = latest
    return packets


def _retimed(packet: Any, tempo: Fraction) -> Fraction:
    """Let a packet's clock run `tempo` times as fast (the muxer turns it into its own); seconds of its decoding."""
    if tempo != 1:
        packet.time_base = packet.time_base / tempo
    return Fraction(packet.dts * packet.time_base)


def _moved(packet: Any, copies: Mapping[int, Any]) -> Any:
    """A packet of the original as one of the copy."""
    packet.stream = copies[packet.stream.index]
    return packet


def _audio_packets(sound: Any, voice: Any, copy: Any, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """(seconds, packet) of the new audio, later by `start`. Priming packets keep their times before that."""
    for packet in sound.demux(voice):
        if packet.size == 0 or packet.pts is None:
            continue
        shift = round(start / packet.time_base)
        packet.pts += shift
        packet.dts = packet.pts if packet.dts is None else packet.dts + shift
        seconds = packet.dts * packet.time_base
        packet.stream = copy
        yield seconds, packet


def _merged(first: Iterator[tuple[Fraction, Any]], second: Iterator[tuple[Fraction, Any]]) -> Iterator[Any]:
    """Packets of two files in the order of time, so that the muxer has little to hold."""
    one, two = next(first, None), next(second, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one[0] <= two[0]):
            assert one is not None
            yield one[1]
            one = next(first, None)
        else:
            yield two[1]
            two = next(second, None)
