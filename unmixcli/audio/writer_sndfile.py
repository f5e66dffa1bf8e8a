"""Writing through libsndfile: FLAC, AIFF, Ogg Vorbis, and MP3 with the LAME inside it.

Integers are made here and handed over as integers: libsndfile's own conversion from float scales by 2^15-1 on the way
out but by 2^15 on the way in, so that samples would not come back bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmixcli.audio.channels import VORBIS_ORDER
from unmixcli.audio.info import sndfile_path
from unmixcli.audio.samples import interleave, quantize
from unmixcli.audio.spec import EncodeSpec
from unmixcli.errors import OutputError

_SUBTYPES = {"s8": "PCM_S8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE"}
_BITS = {"s8": 8, "s16": 16, "s24": 24, "s32": 32}
# Nominal kbit/s of a 44.1 kHz stereo stream at Vorbis quality 0 … 10 (the encoder's own table), and the same per
# channel is a fair guess elsewhere.
_VORBIS_KBITS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
# libvorbis keeps a whole write on the stack: large ones crash (libsndfile issue 135 and others). Its first samples also
# depend on the size of the first write, so that all have one size, whatever the caller's blocks.
_PIECE = 4096
# Sizes in AIFF are 32-bit, and readers take them as signed.
_AIFF_LIMIT = 2**31 - 2**16


class SndfileWriter:
    """Writes one file; see `encode.Encoder` for the meaning of the attributes."""

    offset = 0

    def __init__(self, path: str, spec: EncodeSpec) -> None:
        self.clipped = 0
        self._path = path
        self._spec = spec
        self._bytes = 0
        self._rest = np.zeros((0, spec.channels), np.float32)
        order = VORBIS_ORDER.get(spec.channels) if spec.format == "ogg" else None
        self._order = None if order is None else np.argsort(order[0])  # from WAV order to the codec's
        kind = {"aiff": "AIFF", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}[spec.format]
        subtype = {"ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}.get(spec.format) or _SUBTYPES[spec.sample_type]
        extra: dict[str, object] = {}
        if spec.format == "ogg":
            extra["compression_level"] = min(0.9999, 1.0 - _vorbis_quality(spec))  # exactly 1 is refused
        elif spec.format == "mp3":
            extra["compression_level"] = _mp3_level(spec)
            extra["bitrate_mode"] = "CONSTANT"
        try:
            self._file = soundfile.SoundFile(
                sndfile_path(path), "w", spec.sample_rate, spec.channels, format=kind, subtype=subtype, **extra
            )
        except (soundfile.LibsndfileError, ValueError) as error:
            raise OutputError(
                f"{path}: can't write {spec.format} with {spec.channels} channels at {spec.sample_rate} Hz "
                f"({spec.sample_type}): {getattr(error, 'error_string', error)}",
                hint="Use wav, which holds everything.",
            ) from error

    def write(self, block: NDArray[np.float32]) -> None:
        """Append [C, T]."""
        bits = 0 if self._spec.format in ("ogg", "mp3") else _BITS.get(self._spec.sample_type, 0)
        data: NDArray[np.float32] | NDArray[np.int16] | NDArray[np.int32]
        if bits:
            values, clipped = quantize(block, bits)
            self.clipped += clipped
            # libsndfile takes the upper bits of a 32-bit integer
            data = interleave(values << (32 - bits))
        else:
            data = interleave(block if self._order is None else block[self._order])
        self._bytes += block.size * max(bits, 32 if not bits else 0) // 8
        if self._spec.format == "aiff" and self._bytes > _AIFF_LIMIT:
            raise OutputError(f"{self._path}: AIFF holds at most 2 GiB of audio.", hint="Use wav or flac.")
        if self._spec.format not in ("ogg", "mp3"):
            self._append(data)
            return
        data = np.concatenate([self._rest, data])
        whole = len(data) - len(data) % _PIECE
        for at in range(0, whole, _PIECE):
            self._append(data[at : at + _PIECE])
        self._rest = data[whole:].copy()

    def _append(self, data: NDArray[np.float32] | NDArray[np.int16] | NDArray[np.int32]) -> None:
        try:
            self._file.write(data)
        except soundfile.LibsndfileError as error:
            raise OutputError(f"{self._path}: writing failed: {error.error_string}") from error

    def close(self) -> None:
        """Finish the file."""
        if len(self._rest):
            self._append(self._rest)
        self._file.close()
        if self._spec.format == "flac" and self._bytes == 0:
            _write_empty_flac(self._path, self._spec)

    def abort(self) -> None:
        """Close without caring for the result."""
        self._file.close()


def _vorbis_quality(spec: EncodeSpec) -> float:
    """libvorbis quality 0 … 1 for the bitrate asked, scaled to a stereo stream at 44.1 kHz."""
    asked = (spec.bitrate or 256) * 2 / max(spec.channels, 1) * min(1.5, max(1.0, 44100 / spec.sample_rate))
    return float(np.interp(asked, _VORBIS_KBITS, np.arange(11) / 10))


def _mp3_level(spec: EncodeSpec) -> float:
    """libsndfile's compression level 0 … 1, on which it spreads LAME's bitrates."""
    low, high = (32, 320) if spec.sample_rate >= 32000 else (8, 160) if spec.sample_rate >= 16000 else (8, 64)
    asked = min(high, max(low, spec.bitrate or high))
    return min(0.9999, (high - asked) / (high - low))


def _write_empty_flac(path: str, spec: EncodeSpec) -> None:
    """The header of a FLAC file without samples, which libsndfile leaves out."""
    bits = _BITS[spec.sample_type]
    packed = spec.sample_rate << 44 | (spec.channels - 1) << 41 | (bits - 1) << 36
    info = (4096).to_bytes(2, "big") * 2 + bytes(6) + packed.to_bytes(8, "big") + bytes(16)
    Path(path).write_bytes(b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info)
