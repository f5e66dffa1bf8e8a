"""Writing through PyAV (FFmpeg inside the wheel): AAC and ALAC in MP4, Opus in Ogg.

The encoders' delays are kept where each container has a place for them, so that players and decoders remove them: an
MP4 edit list in a movie time scale equal to the sample rate (FFmpeg's default of 1/1000 s rounds the end), iTunes' own
iTunSMPB tag beside it, the Opus pre-skip and the granule of the last Ogg page.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.channels import DEFAULT_LAYOUTS
from unmixcli.audio.samples import quantize
from unmixcli.audio.spec import EncodeSpec
from unmixcli.errors import OutputError

Samples = NDArray[np.float32]

# Sample format of the encoder; for ALAC by depth.
_FLOAT_FORMATS = {"aac": "fltp", "libopus": "flt"}
# FFmpeg's AAC encoder: one frame of priming.
AAC_PRIMING = 1024
# AAC allows 6144 bits per channel and frame of 1024 samples.
_AAC_BITS_PER_SAMPLE = 6
# kbit/s per channel from which FFmpeg's quick search for AAC is the better one too: a song at 256 kbit/s keeps 34 dB of
# signal to error instead of 30, in half the time. Below, its thorough search has the better judgement.
_FAST_KBITS = 96


class AvTrack:
    """One audio stream of an output container: blocks of any length in, packets out.

    Args:
        container: of `av.open(…, "w")`.
        codec: "aac", "alac" or "libopus".
        spec: rate, channels, sample type and bitrate.
    """

    def __init__(self, container: Any, codec: str, spec: EncodeSpec) -> None:
        self.clipped = 0
        self.frames = 0
        self._bits = 0 if codec in _FLOAT_FORMATS else 16 if spec.sample_type == "s16" else 24
        self._format = _FLOAT_FORMATS.get(codec) or ("s16p" if self._bits == 16 else "s32p")
        self._layout = _layout(spec)
        self._rate = spec.sample_rate
        fast = codec == "aac" and (spec.bitrate or 0) >= _FAST_KBITS * spec.channels
        self._stream = container.add_stream(codec, rate=spec.sample_rate, options={"aac_coder": "fast"} if fast else {})
        context = self._stream.codec_context
        context.layout = self._layout
        context.format = self._format
        context.time_base = Fraction(1, spec.sample_rate)
        self._stream.time_base = Fraction(1, spec.sample_rate)
        if codec != "alac" and spec.bitrate is not None:
            self._stream.bit_rate = _bit_rate(codec, spec)
        context.open()
        self._frame_size = int(context.frame_size) or 4096
        self._rest: Samples = np.zeros((spec.channels, 0), np.float32)

    @property
    def stream(self) -> Any:
        """PyAV's stream."""
        return self._stream

    def encode(self, block: Samples) -> Iterator[Any]:
        """Packets that are ready after [C, T] more samples."""
        data = np.concatenate([self._rest, block], axis=1) if self._rest.shape[1] else block
        whole = data.shape[1] - data.shape[1] % self._frame_size
        for at in range(0, whole, self._frame_size):
            yield from self._encode_frame(data[:, at : at + self._frame_size])
        self._rest = data[:, whole:].copy()

    def finish(self) -> Iterator[Any]:
        """The last packets."""
        if self._rest.shape[1]:
            yield from self._encode_frame(self._rest)
            self._rest = self._rest[:, :0]
        yield from self._stream.encode(None)

    def _encode_frame(self, data: Samples) -> Iterator[Any]:
        array: NDArray[Any]
        if self._bits:
            values, clipped = quantize(data, self._bits)
            self.clipped += clipped
            array = values.astype(np.int16) if self._bits == 16 else values << 8
        else:
            array = data
        if not self._format.endswith("p"):
            array = array.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(array), format=self._format, layout=self._layout)
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self.frames
        self.frames += data.shape[1]
        yield from self._stream.encode(frame)


class AvWriter:
    """Writes one file with one audio stream; see `encode.Encoder` for the meaning of the attributes."""

    offset = 0

    def __init__(self, path: str, spec: EncodeSpec) -> None:
        self._path = path
        self._spec = spec
        self._codec = {"m4a": "aac", "alac": "alac", "opus": "libopus"}[spec.format]
        kind = "ogg" if spec.format == "opus" else "ipod"
        options = {} if spec.format == "opus" else {"movie_timescale": str(spec.sample_rate)}
        Path(path).open("wb").close()  # an OSError with a clear reason, which FFmpeg does not give
        try:
            self._container = av.open("file:" + path, "w", format=kind, options=options)
            self._track = AvTrack(self._container, self._codec, spec)
        except (av.error.FFmpegError, ValueError) as error:
            raise _output_error(path, spec, error) from error

    @property
    def clipped(self) -> int:
        """Samples beyond ±1 that were cut."""
        return self._track.clipped

    def write(self, block: Samples) -> None:
        """Append [C, T]."""
        self._mux(self._track.encode(block))

    def close(self) -> None:
        """Flush the encoder and write the index."""
        self._mux(self._track.finish())
        try:
            if not self._track.frames:
                self._container.start_encoding()  # else a file without samples would have no header either
            self._container.close()
        except av.error.FFmpegError as error:
            raise _output_error(self._path, self._spec, error) from error
        if self._codec == "aac" and self._track.frames:
            write_gapless_tag(self._path, self._track.frames)

    def abort(self) -> None:
        """Close without finishing."""
        try:
            self._container.close()
        except (av.error.FFmpegError, ValueError):
            return

    def _mux(self, packets: Iterator[Any]) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise _output_error(self._path, self._spec, error) from error


def write_gapless_tag(path: str, frames: int) -> None:
    """iTunes' tag for gapless playback: priming, padding and length in samples, in hexadecimal."""
    from mutagen.mp4 import MP4, MP4FreeForm

    padding = -(frames + AAC_PRIMING) % 1024
    numbers = f" 00000000 {AAC_PRIMING:08X} {padding:08X} {frames:016X}" + " 00000000" * 8
    tags = MP4(path)
    tags["----:com.apple.iTunes:iTunSMPB"] = [MP4FreeForm(numbers.encode())]
    tags.save()


def _layout(spec: EncodeSpec) -> str:
    """The layout the encoder is told: by count, since each knows only one or two for each.

    The order of the channels in memory stays the same whatever the name.
    """
    layout = DEFAULT_LAYOUTS.get(spec.channels)
    if spec.channels == 4 and spec.format != "opus":
        layout = "4.0"  # AAC and ALAC know no quad
    if layout is None:
        raise ValueError(f"no layout of {spec.channels} channels")
    return layout


def _bit_rate(codec: str, spec: EncodeSpec) -> int:
    asked = (spec.bitrate or 128) * 1000
    if codec == "aac":
        return min(asked, _AAC_BITS_PER_SAMPLE * spec.sample_rate * spec.channels)
    return min(asked, 256000 * spec.channels)


def _output_error(path: str, spec: EncodeSpec, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    return OutputError(
        f"{path}: can't write {spec.format} with {spec.channels} channels at {spec.sample_rate} Hz: {reason}.",
        hint="Check the disk; wav holds everything.",
    )
