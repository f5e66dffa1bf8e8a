"""The augmentation that makes a lossy file of the mixture and reads it back, all in memory.

Songs that people separate are mostly MP3 or AAC. Only the mixture goes through the codec: the stems to be learnt stay
as they were, with what the codec took away, so a model learns to live with its artefacts, not to reproduce them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from unmixcli.audio.writer_av import AAC_PRIMING
from unmixcli.training.augment_checks import check_range

Samples = NDArray[np.float32]
Rng = np.random.Generator

CODECS = ("mp3", "aac", "ogg")
# Sample rates that all three take.
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Bitrates of libsndfile's scale from compression level 1 to 0.
_MP3_KBITS = (32.0, 320.0)


def codec(
    audio: Samples,
    rng: Rng,
    *,
    sample_rate: int,
    codecs: Sequence[str] = CODECS,
    low_kbits: float = 96.0,
    high_kbits: float = 256.0,
) -> Samples:
    """A round trip through one of `codecs` at a bitrate between the two, in kbit/s for stereo."""
    check_range("low_kbits", low_kbits, "high_kbits", high_kbits, 32, 512)
    unknown = set(codecs) - set(CODECS)
    if unknown or not codecs:
        raise ValueError(f"codecs is {', '.join(codecs) or 'empty'}, expected some of {', '.join(CODECS)}")
    if sample_rate not in _RATES:
        raise ValueError(f"the sample rate is {sample_rate} Hz, these codecs take {', '.join(map(str, _RATES))}")
    kind = codecs[int(rng.integers(len(codecs)))]
    kbits = float(np.exp(rng.uniform(np.log(low_kbits), np.log(high_kbits))))
    through = np.zeros_like(audio)
    for place in np.ndindex(audio.shape[:-2]):
        decoded = (
            _aac(audio[place], sample_rate, kbits)
            if kind == "aac"
            else _sndfile(audio[place], sample_rate, kind, kbits)
        )
        used = min(decoded.shape[1], audio.shape[-1])
        through[place][:, :used] = decoded[:, :used]
    return through


def _sndfile(audio: Samples, sample_rate: int, kind: str, kbits: float) -> Samples:
    """Through MP3 or Ogg Vorbis by libsndfile, which takes the encoder's delay out."""
    file = io.BytesIO()
    if kind == "mp3":
        low, high = _MP3_KBITS
        level = {"compression_level": min(0.99, max(0.0, (high - kbits) / (high - low))), "bitrate_mode": "CONSTANT"}
        soundfile.write(file, audio.T, sample_rate, format="MP3", subtype="MPEG_LAYER_III", **level)
    else:
        # Vorbis' quality 0 … 1 is about 64 … 500 kbit/s, linear enough below 0.9.
        quality = min(1.0, max(0.0, (kbits - 64) / 280))
        soundfile.write(file, audio.T, sample_rate, format="OGG", subtype="VORBIS", compression_level=1 - quality)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    return np.asarray(decoded.T)


def _aac(audio: Samples, sample_rate: int, kbits: float) -> Samples:
    """Through FFmpeg's AAC, without a container; its one frame of priming is cut off."""
    encoder: Any = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate, "stereo", "fltp"
    # AAC allows 6 bits per sample and channel.
    encoder.bit_rate = int(min(kbits * 1000, 2 * 6 * sample_rate))
    encoder.time_base = Fraction(1, sample_rate)
    encoder.options = {"aac_coder": "fast"}
    encoder.open()
    size = int(encoder.frame_size)
    padded = np.pad(audio, ((0, 0), (0, -audio.shape[1] % size + AAC_PRIMING + size)))
    packets = []
    for at in range(0, padded.shape[1], size):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(padded[:, at : at + size]), format="fltp", layout="stereo"
        )
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, at, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoder: Any = av.CodecContext.create("aac", "r")
    decoder.extradata = encoder.extradata
    frames = [frame.to_ndarray() for packet in (*packets, None) for frame in decoder.decode(packet)]
    return np.concatenate(frames, axis=1)[:, AAC_PRIMING:]
