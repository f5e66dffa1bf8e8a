"""Audio files in: any container and codec, block by block, exact to the sample.

libsndfile reads what it is exact for (WAV, AIFF, FLAC, Ogg Vorbis); FFmpeg through PyAV reads the rest, and Opus too:
libsndfile 1.2 gives other samples at its end for other block sizes. Both give float32
nominally in -1…1, integers divided by 2^(bits-1) so that 16- and 24-bit samples come through bit for bit. Nothing is
cut silently: a file that ends before the length it states is an InputError, at opening where the header shows it, else
when the end is reached.

Limits: WMA and raw AAC streams carry no information about the encoder's delay, so their first sample is the first that
the decoder gives. An MP3 without a Xing header, or an Ogg or MKV stream without a stated end, can't show that it was
cut off at a frame boundary.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.content import AGAIN, examine
from unmixcli.audio.info import AudioInfo
from unmixcli.audio.reader_av import AvReader
from unmixcli.audio.reader_sndfile import SndfileReader
from unmixcli.errors import InputError

__all__ = ["AUDIO_SUFFIXES", "AudioInfo", "Decoder", "open_audio", "probe", "spool_stdin"]

Samples = NDArray[np.float32]

# What a scan of a folder takes. The content decides how a file is read; the suffix only whether to look.
# fmt: off
AUDIO_SUFFIXES = frozenset({
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".mp3", ".mp2", ".m4a", ".m4b", ".aac", ".alac",
    ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".wma", ".webm", ".weba", ".mp4", ".m4v", ".mkv",
    ".mka", ".mov", ".au", ".snd", ".caf", ".ape", ".wv", ".tta", ".ac3", ".dts", ".avi", ".3gp", ".ts",
})
# fmt: on

_SNDFILE_KINDS = frozenset({"wav", "aiff", "w64", "flac", "au", "caf"})


class Decoder:
    """One audio track as a stream of blocks; a context manager that can be iterated once.

    Attributes:
        info: what the file states. `notes` may grow while blocks are read.
    """

    def __init__(self, reader: SndfileReader | AvReader, block_frames: int) -> None:
        self._reader = reader
        self._block_frames = block_frames
        self._started = False

    @property
    def info(self) -> AudioInfo:
        """What the file states."""
        return self._reader.info

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; iterating is over."""
        self._reader.close()

    def __iter__(self) -> Iterator[Samples]:
        """Yield float32 [C, T], 1 <= T <= block_frames, from the first sample to the last.

        Raises:
            InputError: damaged data, less audio than the file states, or a value that is not a number.
            RuntimeError: iterated before.
        """
        if self._started:
            raise RuntimeError("a Decoder can be iterated once; open the file again for a second pass")
        self._started = True
        return self._blocks()

    def blocks_from(self, start: int) -> Iterator[Samples]:
        """Like iterating, from sample `start` on, with what lies before passed over quickly where the format allows.

        That the file is as long as it states is not checked, as a caller mostly stops before its end.

        Raises:
            InputError: damaged data, or a value that is not a number.
            RuntimeError: iterated before.
        """
        if start <= 0 or not self._reader.seek(start):
            yield from _without(iter(self), start)
            return
        if self._started:
            raise RuntimeError("a Decoder can be iterated once; open the file again for a second pass")
        self._started = True
        info = self._reader.info
        at = start
        for block in self._reader.blocks(self._block_frames):
            block = block if info.frames is None else block[:, : max(0, info.frames - at)]
            if info.sample_type in ("f32", "f64") and not np.isfinite(block).all():
                _refuse_not_finite(info, block, at)
            at += block.shape[1]
            if block.shape[1]:
                yield np.ascontiguousarray(block)

    def _blocks(self) -> Iterator[Samples]:
        info = self._reader.info
        floats = info.sample_type in ("f32", "f64")
        done = 0
        for block in self._reader.blocks(self._block_frames):
            if info.frames is not None and done + block.shape[1] > info.frames:
                block = block[:, : info.frames - done]  # what the codec's last frame holds beyond the end
                if block.shape[1] == 0:
                    break
            if floats and not np.isfinite(block).all():
                _refuse_not_finite(info, block, done)
            done += block.shape[1]
            yield np.ascontiguousarray(block)
        if info.frames is not None and done < info.frames:
            yield from self._make_up(info, info.frames, done)
        if done == 0 and info.frames is None:
            raise InputError(f"{info.path}: no audio could be decoded from the file.", hint=AGAIN)

    def _make_up(self, info: AudioInfo, stated: int, done: int) -> Iterator[Samples]:
        """What to do about a file that ended early: an error, except for a few MP3 frames.

        That all bytes of an MP3 are there was checked at opening, so missing samples are frames inside the file that
        are damaged beyond recognition; players pass over them.
        """
        missing = stated - done
        reader = self._reader
        few = done > 0 and missing <= info.sample_rate
        if not (isinstance(reader, AvReader) and info.format == "mp3" and few):
            raise InputError(
                f"{info.path}: the file ends early: it states {stated} samples "
                f"({stated / info.sample_rate:.2f} s), {done} could be decoded.",
                hint=AGAIN,
            )
        reader.note(
            f"damaged MP3 frames were passed over, {missing / info.sample_rate:.3f} s are missing; "
            "silence was added at the end."
        )
        while missing > 0:
            length = min(missing, self._block_frames)
            missing -= length
            yield np.zeros((info.channels, length), np.float32)


def _without(blocks: Iterator[Samples], start: int) -> Iterator[Samples]:
    """A stream less its first `start` samples."""
    for block in blocks:
        if start < block.shape[1]:
            yield block[:, max(0, start) :]
        start -= block.shape[1]


def _refuse_not_finite(info: AudioInfo, block: Samples, done: int) -> None:
    channel, at = np.argwhere(~np.isfinite(block))[0]
    position = done + int(at)
    raise InputError(
        f"{info.path}: sample {position} ({position / info.sample_rate:.3f} s, channel {int(channel) + 1}) is "
        f"{block[channel, at]}, expected a finite number.",
        hint="The file was damaged by the program that wrote it; export it again, or convert it to 24-bit.",
    )


def open_audio(path: str | os.PathLike[str], *, track: int = 0, block_frames: int = 65536) -> Decoder:
    """Open an audio track for reading.

    Args:
        path: of the file; the content decides how it is read, not the suffix.
        track: which audio track, 0 is the first.
        block_frames: the most samples a block holds.

    Raises:
        InputError: the file can't be read, holds no audio or no such track, or is damaged in a way its header shows.
    """
    if block_frames < 1:
        raise ValueError(f"block_frames is {block_frames}, expected 1 or more")
    if track < 0:
        raise InputError(f"{os.fspath(path)}: track {track} was asked for, expected 0 (the first) or more.")
    return Decoder(_open_reader(os.fspath(path), track), block_frames)


def probe(path: str | os.PathLike[str], track: int = 0) -> AudioInfo:
    """What a file states about an audio track; raises like `open_audio`."""
    with open_audio(path, track=track) as decoder:
        return decoder.info


def _open_reader(path: str, track: int) -> SndfileReader | AvReader:
    content = examine(path)
    direct = content.kind in _SNDFILE_KINDS or (content.kind == "ogg" and content.codec in ("vorbis", "flac"))
    if content.kind == "wav" and content.unknown_length:
        direct = False  # libsndfile takes a size of 0 by its word
    if direct:
        try:
            reader = SndfileReader(path, content)
        except InputError:
            return AvReader(path, content, track)  # a codec libsndfile lacks (mp3 in WAV, 20-bit …)
        if track > 0:
            reader.close()
            return AvReader(path, content, track)  # it says how many tracks there are
        if content.frames is not None and content.frames != reader.info.frames:
            seconds = content.frames / reader.info.sample_rate
            reader.info = replace(reader.info, frames=content.frames, duration=seconds)
        return reader
    return AvReader(path, content, track)


def spool_stdin(stream: BinaryIO) -> str:
    """Copy a stream that can't seek into a temporary file; the caller deletes it.

    Raises:
        InputError: the stream was empty.
    """
    handle, path = tempfile.mkstemp(prefix="unmix-input-")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
            size = file.tell()
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    if size == 0:
        Path(path).unlink(missing_ok=True)
        raise InputError("standard input was empty, expected audio.", hint="Pipe an audio file into unmix.")
    return path
