"""Audio files out: one streaming encoder per format, all with the same face.

What goes in at sample 0 comes out at sample 0 when the file is decoded again, with the exact length: the encoders'
delays are written where each format keeps them (LAME tag, MP4 edit list and iTunSMPB, Opus pre-skip, Ogg granules).
Integer types are rounded, not dithered. An encoder may live in a worker thread of its own, but in one at a time.

Add a format: a writer class (`write`, `close`, `abort`, `offset`, `clipped`), one row in `ENCODERS`, one in `SUFFIX`.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.resample import Resampler, resampled_length
from unmixcli.audio.samples import SAMPLE_TYPES, refuse_not_finite
from unmixcli.audio.spec import EncodeSpec
from unmixcli.errors import OutputError

Samples = NDArray[np.float32]

ENCODERS: dict[str, str] = {
    "wav": "unmixcli.audio.writer_wav:WavWriter",
    "flac": "unmixcli.audio.writer_sndfile:SndfileWriter",
    "aiff": "unmixcli.audio.writer_sndfile:SndfileWriter",
    "mp3": "unmixcli.audio.writer_sndfile:SndfileWriter",
    "ogg": "unmixcli.audio.writer_sndfile:SndfileWriter",
    "m4a": "unmixcli.audio.writer_av:AvWriter",
    "alac": "unmixcli.audio.writer_av:AvWriter",
    "opus": "unmixcli.audio.writer_av:AvWriter",
}
SUFFIX: dict[str, str] = {
    "wav": "wav",
    "flac": "flac",
    "aiff": "aiff",
    "mp3": "mp3",
    "ogg": "ogg",
    "m4a": "m4a",
    "alac": "m4a",
    "opus": "opus",
    "stem.mp4": "stem.mp4",
}
# Formats that lose nothing of 16- and 24-bit samples.
LOSSLESS = frozenset({"wav", "flac", "aiff", "alac"})
# For stereo, in kbit/s.
DEFAULT_BITRATES = {"mp3": 320, "m4a": 256, "stem.mp4": 256, "ogg": 256, "opus": 192}

_RATES: dict[str, tuple[int, ...]] = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (48000,),  # its encoder takes 8 to 24 kHz too, but every decoder gives 48 kHz
    "m4a": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
}
_RATES["stem.mp4"] = _RATES["m4a"]
_RATE_LIMIT = {"flac": 655350, "ogg": 200000, "alac": 384000, "wav": 2**32 - 1, "aiff": 2**31 - 1}
# FFmpeg's ALAC encoder ends the process (an assertion) on a last frame of one or two samples with 3 channels or more,
# and PyAV 18 can't make planar frames of 8 channels, which AAC needs. FFmpeg's Opus encoder puts the channels of 5.0
# and 6.1 in the wrong order.
_CHANNELS: dict[str, tuple[int, ...]] = {
    "mp3": (1, 2),
    "flac": tuple(range(1, 9)),
    "opus": (1, 2, 3, 4, 6, 8),
    "m4a": tuple(range(1, 8)),
    "alac": (1, 2),
    "ogg": tuple(range(1, 256)),
    "aiff": tuple(range(1, 1025)),
    "wav": tuple(range(1, 1025)),
    "stem.mp4": (1, 2),
}

# What a format stores where the input has another type; wider is never cut without a note.
_TYPES: dict[str, dict[str, str]] = {
    "wav": {"s8": "u8"},
    "aiff": {"u8": "s16", "s8": "s16"},  # libsndfile counts the pad byte of odd 8-bit files as a sample
    "flac": {"u8": "s16", "s8": "s16", "s32": "s24", "f32": "s24", "f64": "s24"},
    "alac": {"u8": "s16", "s8": "s16", "s32": "s24", "f32": "s24", "f64": "s24"},
}


def plan_rate(format: str, sample_rate: int) -> tuple[int, str | None]:
    """The sample rate a file of `format` will have, and a sentence for the user where that is another one.

    A rate the codec lacks becomes the next higher one, so that no high frequencies are lost, or else its highest.
    Opus is always 48 kHz.
    """
    rates = _RATES.get(format)
    limit = _RATE_LIMIT.get(format, 2**31 - 1)
    if rates is None:
        if sample_rate <= limit:
            return sample_rate, None
        rates = (limit,)
    if sample_rate in rates:
        return sample_rate, None
    rate = next((rate for rate in rates if rate > sample_rate), rates[-1])
    return rate, f"{format} can't hold {sample_rate} Hz: written at {rate} Hz (resampled)."


def plan_sample_type(format: str, sample_type: str) -> tuple[str, str | None]:
    """The sample type a file of `format` will store, and a sentence where precision of the input is left out."""
    if sample_type not in SAMPLE_TYPES:
        raise OutputError(f"sample type {sample_type!r}, expected one of {', '.join(SAMPLE_TYPES)}.")
    if format not in LOSSLESS:
        return "f32", None
    stored = _TYPES.get(format, {}).get(sample_type, sample_type)
    if sample_type in ("s32", "f32", "f64") and stored == "s24":
        what = "32-bit integers" if sample_type == "s32" else "floating point"
        return stored, f"{format} can't hold {what}: written as 24-bit (wav and aiff can)."
    return stored, None


def default_bitrate(format: str, channels: int) -> int | None:
    """kbit/s where none is asked for: the same quality per channel for any number; None for lossless formats."""
    stereo = DEFAULT_BITRATES.get(format)
    if stereo is None or format == "mp3" or channels == 2:
        return stereo
    return stereo * channels // 2


def check_channels(format: str, channels: int) -> None:
    """Raise OutputError where a format can't hold so many channels."""
    counts = _CHANNELS[format]
    if channels not in counts:
        whole = len(counts) == counts[-1]
        holds = f"1 to {counts[-1]}" if whole and len(counts) > 2 else " or ".join(map(str, counts))
        able = ", ".join(name for name in ENCODERS if channels in _CHANNELS[name])
        raise OutputError(
            f"{format} can't hold {channels} channels, it holds {holds}.",
            hint=f"Use one of these formats: {able}." if able else None,
        )


class Encoder:
    """A file being written; a context manager. Leaving it by an exception closes the file unfinished.

    Attributes:
        path: of the file.
        sample_rate: Hz of the file, which is not the input's where the format can't hold that.
        sample_type: what the file stores.
        note: sentence for the user about what is not as asked (rate, sample type), or None.
        offset: samples by which the decoded file starts late, where the format can't take that back; else 0.
        frames: samples written so far, at the file's rate.
    """

    def __init__(self, path: str, spec: EncodeSpec, *, in_rate: int, note: str | None, writer: Any) -> None:
        self.path = path
        self.sample_rate = spec.sample_rate
        self.sample_type = spec.sample_type
        self.channels = spec.channels
        self.format = spec.format
        self.note = note
        self.frames = 0
        self._writer = writer
        self._resampler = Resampler(in_rate, spec.sample_rate, spec.channels) if in_rate != spec.sample_rate else None
        self._closed = False

    @property
    def offset(self) -> int:
        """Samples by which the decoded file starts late."""
        return int(self._writer.offset)

    @property
    def clipped(self) -> int:
        """Samples beyond ±1 that were cut, in integer types."""
        return int(self._writer.clipped)

    def write(self, block: Samples) -> None:
        """Append [C, T], float32.

        Raises:
            OutputError: NaN or infinite samples, a full disk, or a limit of the format.
        """
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"block of shape {block.shape}, expected [{self.channels}, T]")
        refuse_not_finite(self.path, block)
        self._append(block if self._resampler is None else self._resampler.process(block))

    def _append(self, block: Samples) -> None:
        if block.shape[1] == 0:
            return
        try:
            self._writer.write(block)
        except OSError as error:
            raise OutputError(f"{self.path}: writing failed: {error.strerror or error}.") from error
        self.frames += block.shape[1]

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._resampler is not None:
                self._append(self._resampler.finish())
            self._writer.close()
        except OSError as error:
            raise OutputError(f"{self.path}: writing failed: {error.strerror or error}.") from error
        except BaseException:
            self._writer.abort()
            raise

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._writer.abort()


def open_encoder(
    path: str | os.PathLike[str],
    *,
    format: str,
    sample_rate: int,
    channels: int,
    sample_type: str = "s16",
    bitrate: int | None = None,
    frames: int | None = None,
    channel_layout: str | None = None,
) -> Encoder:
    """Start a file.

    Args:
        path: to write; an existing file is replaced.
        format: a key of `ENCODERS` (Stems files have their own, `stemfile.open_stem_encoder`).
        sample_rate: Hz of the blocks that will be written; see `plan_rate`.
        channels: C of the blocks.
        sample_type: to store, in lossless formats; see `plan_sample_type`.
        bitrate: kbit/s of lossy formats; None: `default_bitrate`.
        frames: how many samples will come, where known; for early checks only.
        channel_layout: a name in `channels.LAYOUTS`; None: what the number of channels usually means.

    Raises:
        OutputError: unknown format, too many channels for it, or the file can't be made.
    """
    name = os.fspath(path)
    row = ENCODERS.get(format)
    if row is None:
        raise OutputError(f"format {format!r} can't be written, expected one of {', '.join(ENCODERS)}.")
    check_channels(format, channels)
    rate, rate_note = plan_rate(format, sample_rate)
    stored, type_note = plan_sample_type(format, sample_type)
    spec = EncodeSpec(
        format=format,
        sample_rate=rate,
        channels=channels,
        sample_type=stored,
        bitrate=bitrate or default_bitrate(format, channels),
        frames=None if frames is None else resampled_length(frames, sample_rate, rate),
        channel_layout=channel_layout,
    )
    module, _, attribute = row.partition(":")
    try:
        writer = getattr(import_module(module), attribute)(name, spec)
    except OSError as error:
        raise OutputError(
            f"{name}: can't be created: {error.strerror or error}.", hint="Check the folder, its permissions, the disk."
        ) from error
    note = " ".join(sentence for sentence in (rate_note, type_note) if sentence) or None
    return Encoder(name, spec, in_rate=sample_rate, note=note, writer=writer)
