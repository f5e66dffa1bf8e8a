"""Reading through PyAV (FFmpeg inside the wheel): MP3, AAC, ALAC, WMA and whatever sits in a container.

FFmpeg itself drops the encoder delay at the start (LAME tag, MP4 edit list, Opus pre-skip); what it leaves at the end
of AAC and Vorbis is cut here to the length the file states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.boxes import audio_track_lengths
from unmixcli.audio.channels import LAYOUTS
from unmixcli.audio.content import AGAIN, Content
from unmixcli.audio.info import AudioInfo
from unmixcli.audio.resample import Resampler
from unmixcli.errors import InputError

Samples = NDArray[np.float32]

# Only formats that hold sound themselves. FFmpeg also knows playlists and scripts (hls, concat, dash …), through which
# a file from a stranger could make it open other files or addresses.
_CONTAINERS = (
    "aac,ac3,eac3,aiff,alac,amr,amrnb,amrwb,ape,asf,au,avi,caf,dff,dsf,dts,dtshd,flac,flv,gsm,iff,matroska,webm,mlp,"
    "truehd,mov,mp4,mp3,mpc,mpc8,mpeg,mpegts,nut,oga,ogg,oma,qcp,rm,shn,sox,tak,tta,voc,w64,wav,wsd,wv,xwma,mxf"
)
_FORMATS = {
    "flac": "flac",
    "mp3": "mp3",
    "ogg": "ogg",
    "wav": "wav",
    "w64": "w64",
    "aiff": "aiff",
    "asf": "wma",
    "aac": "aac",
    "avi": "avi",
    "flv": "flv",
    "mpegts": "ts",
    "mpeg": "mpg",
    "caf": "caf",
    "wv": "wv",
    "ape": "ape",
    "tta": "tta",
}
_LOSSLESS = {"alac", "flac", "wavpack", "ape", "tta", "tak", "truehd", "mlp", "shorten", "wmalossless", "als"}
# A codec frame that does not decode: sound before and after it is still good. Beyond this share of all frames the
# file is not worth it, and it is more likely not audio at all.
_BAD_SHARE = 0.1
# Samples to decode before those that are sought: an AAC frame is 1024 or 2048, and two are enough for its overlap.
_PREROLL = 8192
# From this number of channels on FFmpeg's planar frames are handled differently.
_PLANES = 8


class AvReader:
    """One open audio track; `info`, then `blocks` once.

    Args:
        path: of the file.
        content: of `content.examine`.
        track: index among the audio tracks.

    Raises:
        InputError: not a known format, no audio track, no such track.
    """

    def __init__(self, path: str, content: Content, track: int) -> None:
        self._path = path
        self._packer: Any = None
        self._start = 0  # first sample that is wanted, where `seek` was called
        self._first_time = 0  # time stamp of sample 0
        self._scale = 1  # samples per unit of the stream's time stamps
        try:
            # "file:" so that a name with a colon is not taken for the address of another protocol.
            self._container = av.open(
                "file:" + path,
                options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise InputError(
                f"{path}: is not audio in a format that can be read ({_reason(error)}).",
                hint="Expected wav, flac, mp3, m4a, ogg, opus, aiff, wma, webm, mp4, mkv or the like.",
            ) from error
        try:
            self._stream = self._choose(track)
            self.info = self._describe(content, track)
        except BaseException:
            self._container.close()
            raise

    def _choose(self, track: int) -> Any:
        streams = self._container.streams.audio
        count = len(streams)
        if count == 0:
            found = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            raise InputError(
                f"{self._path}: has no audio track (it holds: {found}).",
                hint="Give a file with sound.",
            )
        if track >= count:
            plural = "s" if count > 1 else ""
            raise InputError(
                f"{self._path}: track {track} was asked for, the file has {count} audio track{plural} "
                f"(numbered from 0).",
                hint=f"Use a track from 0 to {count - 1}." if count > 1 else "Leave the track out.",
            )
        stream = streams[track]
        context = stream.codec_context
        # An unknown codec has no context, a damaged header no rate, no sample format or no channels.
        if context is None or not context.sample_rate or context.format is None or not context.layout.nb_channels:
            raise InputError(
                f"{self._path}: the audio track's codec is not known or its header is damaged.",
                hint="Convert the file to wav or flac.",
            )
        return stream

    def _describe(self, content: Content, track: int) -> AudioInfo:
        context = self._stream.codec_context
        rate = int(context.sample_rate)
        codec = str(context.codec.canonical_name if hasattr(context.codec, "canonical_name") else context.name)
        codec = {"mp3float": "mp3", "libopus": "opus", "libvorbis": "vorbis"}.get(codec, codec)
        video = any(not _is_picture(other) for other in self._container.streams.video)
        frames = content.frames if content.kind in ("mp3", "wav", "ogg") else None
        if content.kind == "mp4":
            lengths = audio_track_lengths(self._path)
            stated = lengths[track] if track < len(lengths) else None
            frames = stated[0] if stated is not None and stated[1] == rate else None
        lossy = codec not in _LOSSLESS and not codec.startswith("pcm_")
        layout = context.layout.name if context.layout.name in LAYOUTS else None
        return AudioInfo(
            path=self._path,
            sample_rate=rate,
            channels=len(context.layout.channels),
            frames=frames,
            duration=frames / rate if frames is not None else self._duration(),
            sample_type="f32" if lossy else _sample_type(codec, context),
            lossy=lossy,
            format=self._format(codec, video),
            codec=codec,
            bit_rate=context.bit_rate or self._container.bit_rate or None,
            track=track,
            tracks=len(self._container.streams.audio),
            has_video=video,
            channel_layout=layout,
            notes=content.notes,
        )

    def _duration(self) -> float | None:
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if self._container.duration:
            return float(self._container.duration / av.time_base)
        return None

    def _format(self, codec: str, video: bool) -> str:
        name = self._container.format.name
        if name.startswith("mov"):
            brand = self._container.metadata.get("major_brand", "").strip()
            if video:
                return "mov" if brand == "qt" else "mp4"
            return {"aac": "m4a", "alac": "alac"}.get(codec, "mov" if brand == "qt" else "mp4")
        if name.startswith("matroska"):
            return "webm" if Path(self._path).suffix.lower() == ".webm" else "mkv"
        if name == "ogg" and codec == "opus":
            return "opus"
        return _FORMATS.get(name, name.split(",")[0])

    def blocks(self, block_frames: int) -> Iterator[Samples]:
        """Yield [C, T], 1 <= T <= block_frames (as FFmpeg's frames come, gathered into blocks)."""
        waiting: list[Samples] = []
        length = 0
        for piece in self._pieces():
            waiting.append(piece)
            length += piece.shape[1]
            while length >= block_frames:
                data = np.concatenate(waiting, axis=1)
                yield np.ascontiguousarray(data[:, :block_frames])
                rest = data[:, block_frames:]
                waiting, length = ([rest], rest.shape[1]) if rest.shape[1] else ([], 0)
        if length:
            yield np.ascontiguousarray(np.concatenate(waiting, axis=1))

    def seek(self, start: int) -> bool:
        """Let `blocks` begin at sample `start`; False where that can't be done exactly.

        It can in MP4, whose index has the time of every packet. Decoding begins some frames earlier, as AAC overlaps
        its frames (and its decoder keeps a little more), and the surplus is dropped.
        """
        early = start - _PREROLL
        if early <= 0 or not self._container.format.name.startswith("mov") or self._stream.time_base is None:
            return False
        scale = self._stream.time_base * self.info.sample_rate
        if scale.denominator != 1:
            return False  # times coarser than samples
        try:
            self._first_time = self._time_of_first_frame()
            self._container.seek(int(self._first_time + early / scale), stream=self._stream)
        except av.error.FFmpegError as error:
            raise InputError(f"{self._path}: can't be sought in: {_reason(error)}.", hint=AGAIN) from error
        self._start, self._scale = start, int(scale)
        return True

    def _time_of_first_frame(self) -> int:
        """The time stamp of sample 0, which need not be 0 where there is an edit list."""
        for packet in self._container.demux(self._stream):
            for frame in packet.decode():
                if frame.pts is not None:
                    return int(frame.pts)
        raise InputError(f"{self._path}: no frame with a time could be decoded.", hint=AGAIN)

    def _from_start(self, frame: Any, data: Samples) -> Samples:
        """What of a frame lies at or after the sample that was sought; [C, 0] where nothing does."""
        if self._start == 0:
            return data
        if frame.pts is None:
            raise InputError(f"{self._path}: a frame has no time, its place isn't known.", hint=AGAIN)
        at = (int(frame.pts) - self._first_time) * self._scale
        return data[:, max(0, self._start - at) :]

    def _pieces(self) -> Iterator[Samples]:
        """Decoded frames with the stream's first rate and channel count, whatever comes later."""
        info = self.info
        resampler: Resampler | None = None
        source_rate = info.sample_rate
        for data, rate in self._frames():
            block = self._with_channels(data)
            if rate != source_rate:
                if resampler is not None:
                    yield resampler.finish()
                resampler = None if rate == info.sample_rate else Resampler(rate, info.sample_rate, info.channels)
                self.note(f"the sample rate changes to {rate} Hz inside the file; resampled to {info.sample_rate} Hz.")
                source_rate = rate
            yield block if resampler is None else resampler.process(block)
        if resampler is not None:
            yield resampler.finish()

    def _with_channels(self, data: Samples) -> Samples:
        channels = self.info.channels
        if data.shape[0] == channels:
            return data
        if data.shape[0] == 1:
            self.note(f"the number of channels changes to 1 inside the file; copied to all {channels}.")
            return np.repeat(data, channels, axis=0)
        if channels == 1:
            self.note(f"the number of channels changes to {data.shape[0]} inside the file; their mean is taken.")
            return np.asarray(data.mean(axis=0, keepdims=True, dtype=np.float32))
        raise InputError(
            f"{self._path}: the number of channels changes from {channels} to {data.shape[0]} inside the file.",
            hint="Cut the file at the change, or convert it to wav.",
        )

    def _frames(self) -> Iterator[tuple[Samples, int]]:
        """(samples [C, T], Hz) of each frame; frames that don't decode become silence of their length."""
        good = bad = 0
        last = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    bad += 1
                    self._check_damage(good, bad, error, ended=False)
                    frames = []
                    if good:
                        yield np.zeros((self.info.channels, last), np.float32), self.info.sample_rate
                for frame in self._packed(frames):
                    good += 1
                    last = frame.samples
                    yield self._from_start(frame, _to_float(frame)), frame.sample_rate
        except (av.error.FFmpegError, ValueError) as error:
            # ValueError: samples in a form that PyAV has no array for
            raise InputError(f"{self._path}: damaged audio data: {_reason(error)}.", hint=AGAIN) from error
        self._check_damage(good, bad, None, ended=True)

    def _packed(self, frames: list[Any]) -> Iterator[Any]:
        """The frames, interleaved where they have 8 channels or more.

        PyAV counts the planes of a planar frame up to a null pointer that FFmpeg only leaves below 8 channels, and
        reads beyond the frame. Interleaved frames have one plane.
        """
        for frame in frames:
            if frame.format.is_planar and frame.layout.nb_channels >= _PLANES:
                if self._packer is None:
                    self._packer = av.AudioResampler(format=frame.format.packed)
                yield from self._packer.resample(frame)
            else:
                yield frame

    def _check_damage(self, good: int, bad: int, error: Exception | None, *, ended: bool) -> None:
        lossless = not self.info.lossy
        if bad and (lossless or (ended and (not good or bad / (good + bad) > _BAD_SHARE)) or (bad > 50 > good)):
            raise InputError(
                f"{self._path}: damaged audio data: {bad} of {good + bad} {self.info.codec} frames can't be decoded"
                + (f" ({_reason(error)})." if error else "."),
                hint=AGAIN,
            ) from error
        if ended and bad:
            self.note(f"{bad} damaged {self.info.codec} frames; each became silence of the same length.")

    def note(self, sentence: str) -> None:
        """Add a sentence for the user to `info.notes`."""
        note = f"{Path(self._path).name}: {sentence}"
        if note not in self.info.notes:
            self.info = replace(self.info, notes=(*self.info.notes, note))

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _to_float(frame: Any) -> Samples:
    """Samples of a frame as float32 [C, T]; integers are divided by 2^(bits-1), so 16- and 24-bit stay exact."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(frame.samples, -1).T
    if data.dtype == np.uint8:
        return np.ascontiguousarray((data.astype(np.float32) - 128) / 128)
    if data.dtype.kind == "i":
        return np.ascontiguousarray(data.astype(np.float32) * np.float32(2.0 ** (1 - 8 * data.dtype.itemsize)))
    return np.ascontiguousarray(data, dtype=np.float32)


def _sample_type(codec: str, context: Any) -> str:
    """What a lossless codec stores. The depth inside 32-bit frames is in the codec's own header."""
    name = context.format.name.rstrip("p")
    if codec.startswith("pcm_"):
        for word in ("s16", "s24", "s32", "u8", "s8", "f32", "f64"):
            if codec.startswith("pcm_" + word):
                return word
    extra = context.extradata or b""
    depth = 0
    if codec == "alac" and len(extra) >= 24:
        depth = extra[-24 + 5] if len(extra) == 24 else extra[17]
    elif codec == "flac" and len(extra) >= 18:
        depth = ((extra[-22] & 1) << 4 | extra[-21] >> 4) + 1 if len(extra) >= 34 else 0
    if depth:
        return "s16" if depth <= 16 else "s24" if depth <= 24 else "s32"
    return {"flt": "f32", "dbl": "f64", "s16": "s16", "s32": "s24", "u8": "u8"}.get(name, "s24")


def _is_picture(stream: Any) -> bool:
    """Whether a video stream is cover art."""
    name = stream.codec_context.name if stream.codec_context is not None else ""
    frames = stream.frames
    attached = bool(getattr(stream, "disposition", 0) & 0x400)
    return attached or (name in ("mjpeg", "png", "bmp", "gif", "webp") and frames in (0, 1))


def _reason(error: Exception | None) -> str:
    if isinstance(error, av.error.FFmpegError):
        return error.strerror or str(error)
    return str(error)
