"""WAV, and RF64 where the file passes 4 GiB (EBU Tech 3306).

A JUNK chunk keeps the place of RF64's ds64 chunk, so that nobody must know beforehand how long the file becomes:
below 4 GiB the result is an ordinary WAV that every program reads.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.channels import DEFAULT_LAYOUTS
from unmixcli.audio.content import CHANNEL_MASKS
from unmixcli.audio.samples import interleave, quantize
from unmixcli.audio.spec import EncodeSpec

_LAYOUT_MASKS = {name: mask for mask, name in CHANNEL_MASKS.items()}
_WIDTH = {"u8": 1, "s8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
# Largest value of a 32-bit size; a test lowers it so as not to write 4 GiB.
LIMIT = 2**32 - 1


class WavWriter:
    """Writes one WAV file; see `encode.Encoder` for the meaning of the attributes."""

    offset = 0

    def __init__(self, path: str, spec: EncodeSpec) -> None:
        self.clipped = 0
        self._spec = spec
        self._bytes = 0
        self._file = open(path, "wb")  # noqa: SIM115, PTH123 (closed in close())
        self._file.write(self._header(0))

    def write(self, block: NDArray[np.float32]) -> None:
        """Append [C, T]."""
        kind = self._spec.sample_type
        if kind in ("f32", "f64"):
            data = interleave(block).astype("<f4" if kind == "f32" else "<f8", copy=False).tobytes()
        else:
            bits = 8 * _WIDTH[kind]
            values, clipped = quantize(block, bits)
            self.clipped += clipped
            frames = interleave(values)
            if bits == 8:
                data = (frames + 128).astype(np.uint8).tobytes()  # 8-bit WAV is unsigned
            elif bits == 24:
                data = frames.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
            else:
                data = frames.astype(f"<i{_WIDTH[kind]}").tobytes()
        self._file.write(data)
        self._bytes += len(data)

    def close(self) -> None:
        """Fill in the sizes and close."""
        if self._file.closed:
            return
        try:
            if self._bytes % 2:
                self._file.write(b"\0")
            self._file.seek(0)
            self._file.write(self._header(self._bytes))
        finally:
            self._file.close()

    def abort(self) -> None:
        """Close without finishing."""
        self._file.close()

    def _header(self, size: int) -> bytes:
        """Everything before the samples; the same length for every `size` in bytes."""
        spec = self._spec
        width = _WIDTH[spec.sample_type]
        align = width * spec.channels
        tag = 3 if spec.sample_type in ("f32", "f64") else 1
        mask = _LAYOUT_MASKS.get(spec.channel_layout or DEFAULT_LAYOUTS.get(spec.channels, ""), 0)
        extended = spec.channels > 2
        form = struct.pack(
            "<HHIIHH",
            0xFFFE if extended else tag,
            spec.channels,
            spec.sample_rate,
            spec.sample_rate * align,
            align,
            8 * width,
        )
        if extended:
            # the sub-format is a GUID whose first two bytes are the plain format tag
            guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
            form += struct.pack("<HHI", 22, 8 * width, mask) + guid
        frames = size // align
        chunks = b"fmt " + struct.pack("<I", len(form)) + form
        if tag == 3:
            chunks += b"fact" + struct.pack("<II", 4, min(frames, 0xFFFFFFFF))
        riff = 4 + 36 + len(chunks) + 8 + size + size % 2
        if riff > LIMIT:
            ds64 = b"ds64" + struct.pack("<IQQQI", 28, riff, size, frames, 0)
            return b"RF64\xff\xff\xff\xffWAVE" + ds64 + chunks + b"data\xff\xff\xff\xff"
        junk = b"JUNK" + struct.pack("<I", 28) + bytes(28)
        return b"RIFF" + struct.pack("<I", riff) + b"WAVE" + junk + chunks + b"data" + struct.pack("<I", size)
