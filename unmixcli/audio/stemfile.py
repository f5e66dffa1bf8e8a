"""NI Stems: one `.stem.mp4` with the mixture and four stems, as DJ programs (Traktor, Mixxx, djay) open it.

The first track is the mixture and the only one enabled, so that an ordinary player plays the song. The other four are
drums, bass, other and vocals in this order by convention. A box `stem` in `moov/udta` holds JSON: names, colours, and
the compressor and limiter a player should put behind the sum of the stems (here switched off: the stems sum to the
mixture as it is). Facts: Native Instruments' Stem Creator format, as stempeg (github.com/faroit/stempeg) describes it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.boxes import find, inner_boxes, make_box, top_boxes
from unmixcli.audio.encode import DEFAULT_BITRATES, check_channels, plan_rate, plan_sample_type
from unmixcli.audio.resample import Resampler
from unmixcli.audio.samples import refuse_not_finite
from unmixcli.audio.spec import EncodeSpec
from unmixcli.audio.writer_av import AvTrack
from unmixcli.errors import OutputError

Samples = NDArray[np.float32]

TRACKS = 5
# Colour-blind safe (Okabe and Ito), as Stem Creator's own default palette is.
COLOURS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9")


class StemEncoder:
    """A `.stem.mp4` being written; a context manager.

    Attributes:
        sample_rate: Hz of the file.
        note: sentence for the user about what is not as asked, or None.
        clipped: samples beyond ±1 that were cut (ALAC only).
        offset: always 0.
    """

    offset = 0

    def __init__(self, path: str, spec: EncodeSpec, codec: str, names: Sequence[str], in_rate: int, note: str | None):
        self.path = path
        self.sample_rate = spec.sample_rate
        self.note = note
        self._names = tuple(names)
        self._spec = spec
        self._closed = False
        self._resamplers = [Resampler(in_rate, spec.sample_rate, spec.channels) for _ in range(TRACKS)]
        self._container: Any = None
        try:
            Path(path).open("wb").close()
            self._container = av.open(
                "file:" + path, "w", format="mp4", options={"movie_timescale": str(spec.sample_rate)}
            )
            self._tracks = [AvTrack(self._container, codec, spec) for _ in range(TRACKS)]
        except (OSError, av.error.FFmpegError, ValueError) as error:
            raise OutputError(f"{path}: can't be created: {error}.", hint="Check the folder and the disk.") from error

    @property
    def clipped(self) -> int:
        """Samples beyond ±1 that were cut."""
        return sum(track.clipped for track in self._tracks)

    def write(self, mixture: Samples, stems: Sequence[Samples]) -> None:
        """Append [C, T] of the mixture and of each of the four stems, in the order of their names."""
        blocks = [mixture, *stems]
        if len(blocks) != TRACKS:
            raise ValueError(f"{len(stems)} stems, expected {TRACKS - 1}")
        for block in blocks:
            if block.shape != mixture.shape or block.shape[0] != self._spec.channels:
                raise ValueError(f"block of shape {block.shape}, expected [{self._spec.channels}, T] for all")
            refuse_not_finite(self.path, block)
        self._append([resampler.process(block) for resampler, block in zip(self._resamplers, blocks, strict=True)])

    def _append(self, blocks: list[Samples]) -> None:
        try:
            for track, block in zip(self._tracks, blocks, strict=True):
                for packet in track.encode(block):
                    self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise OutputError(f"{self.path}: writing failed: {error}.") from error

    def close(self) -> None:
        """Finish the file and add the stem box; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._append([resampler.finish() for resampler in self._resamplers])
            for track in self._tracks:
                for packet in track.finish():
                    self._container.mux(packet)
            if not self._tracks[0].frames:
                self._container.start_encoding()  # else a file without samples would have no header either
            self._container.close()
            add_stem_box(self.path, stem_metadata(self._names))
        except (OSError, av.error.FFmpegError) as error:
            self._abort()
            raise OutputError(f"{self.path}: writing failed: {error}.") from error

    def _abort(self) -> None:
        try:
            self._container.close()
        except (av.error.FFmpegError, ValueError):
            return

    def __enter__(self) -> StemEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._abort()


def open_stem_encoder(
    path: str | os.PathLike[str],
    *,
    sample_rate: int,
    channels: int,
    stems: Sequence[str] = ("drums", "bass", "other", "vocals"),
    codec: str = "aac",
    bitrate: int | None = None,
    sample_type: str = "s24",
) -> StemEncoder:
    """Start a Stems file.

    Args:
        path: to write.
        sample_rate: Hz of the blocks that will be written.
        channels: C, 1 or 2.
        stems: four names.
        codec: "aac" or "alac".
        bitrate: kbit/s per track with "aac"; None: 256.
        sample_type: with "alac", "s16" or "s24".

    Raises:
        OutputError: not four stems, more than two channels, unknown codec, or the file can't be made.
    """
    name = os.fspath(path)
    if len(stems) != TRACKS - 1:
        raise OutputError(f"a stem.mp4 holds exactly 4 stems, got {len(stems)}: {', '.join(stems)}.")
    if codec not in ("aac", "alac"):
        raise OutputError(f"codec of stem.mp4 is {codec!r}, expected aac or alac.")
    check_channels("stem.mp4", channels)
    rate, note = plan_rate("stem.mp4" if codec == "aac" else "alac", sample_rate)
    stored, _ = plan_sample_type("alac", sample_type)
    spec = EncodeSpec(
        "m4a" if codec == "aac" else "alac", rate, channels, stored, bitrate or DEFAULT_BITRATES["stem.mp4"]
    )
    return StemEncoder(name, spec, codec, stems, sample_rate, note)


def stem_metadata(names: Sequence[str]) -> dict[str, Any]:
    """The JSON of the `stem` box: version 1, names and colours, compressor and limiter switched off."""
    return {
        "mastering_dsp": {
            "compressor": {
                "enabled": False,
                "ratio": 3,
                "output_gain": 0.5,
                "release": 0.3,
                "attack": 0.003,
                "input_gain": 0.5,
                "threshold": 0,
                "hp_cutoff": 300,
                "dry_wet": 50,
            },
            "limiter": {"enabled": False, "release": 0.05, "threshold": 0, "ceiling": -0.35},
        },
        "version": 1,
        "stems": [
            {"name": name[:1].upper() + name[1:], "color": colour} for name, colour in zip(names, COLOURS, strict=True)
        ],
    }


def add_stem_box(path: str, metadata: dict[str, Any]) -> None:
    """Put a `stem` box into `moov/udta` and switch all tracks but the first off.

    The moov box must be the last of the file, as FFmpeg writes it, so that growing it moves no audio.

    Raises:
        OutputError: the file is laid out otherwise.
    """
    with Path(path).open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        moov = next((box for box in top_boxes(file, size) if box.kind == b"moov"), None)
        if moov is None or moov.end != size:
            raise OutputError(f"{path}: the MP4 index is not at the end of the file, the stem box can't be added.")
        file.seek(moov.payload)
        data = bytearray(file.read(moov.end - moov.payload))
        _enable_first_track(data)
        stem = make_box(b"stem", json.dumps(metadata, separators=(",", ":")).encode())
        user = find(bytes(data), b"udta")
        if user is None:
            data += make_box(b"udta", stem)
        else:
            grown = make_box(b"udta", bytes(data[user.payload : user.end]) + stem)
            data[user.start : user.end] = grown
        file.seek(moov.start)
        file.write(make_box(b"moov", bytes(data)))


def read_stem_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The JSON of a file's `stem` box; None where there is none."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        moov = next((box for box in top_boxes(file, size) if box.kind == b"moov" and box.end <= size), None)
        if moov is None:
            return None
        file.seek(moov.payload)
        data = file.read(moov.end - moov.payload)
    box = find(data, b"udta", b"stem")
    if box is None:
        return None
    try:
        value = json.loads(data[box.payload : box.end])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _enable_first_track(data: bytearray) -> None:
    """Bit 0 of tkhd's flags: only the mixture plays in ordinary players."""
    first = True
    for track in list(inner_boxes(bytes(data))):
        if track.kind == b"trak":
            header = find(bytes(data), b"tkhd", start=track.payload, end=track.end)
            if header is not None:
                flags = struct.unpack(">I", data[header.payload : header.payload + 4])[0]
                flags = flags | 1 if first else flags & ~1
                data[header.payload : header.payload + 4] = struct.pack(">I", flags)
                first = False
