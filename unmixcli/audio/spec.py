"""What an encoder is asked to write, as one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncodeSpec:
    """One output file.

    Attributes:
        format: word of `Options.format`.
        sample_rate: Hz of the file.
        channels: C.
        sample_type: "u8" … "f64"; what the file stores, already one the format can hold.
        bitrate: kbit/s of lossy formats.
        frames: number of samples that will come, where known.
        channel_layout: a name in `channels.LAYOUTS`, where known.
    """

    format: str
    sample_rate: int
    channels: int
    sample_type: str = "s16"
    bitrate: int | None = None
    frames: int | None = None
    channel_layout: str | None = None
