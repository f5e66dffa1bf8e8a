"""A piece out of the middle of a file, exact to the sample, without decoding what lies before it where that can be.

WAV, AIFF, FLAC, W64, CAF and Ogg Vorbis are sought in by libsndfile (in Vorbis two ways to a place must agree, as its
seeking misses now and then); AAC and ALAC in MP4 (Stems files too) by FFmpeg, which starts some frames earlier so that
the decoder's memory is what it would be in a run from the start. All give the samples that decoding the whole file
gives. Limits: MP3, Opus, WMA, Matroska and the rest are decoded from their start to the end of the piece; in Vorbis,
two seconds of digital silence before a place leave nothing to check the search by.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.decode import open_audio

Samples = NDArray[np.float32]


def read_excerpt(path: str | os.PathLike[str], start: int, length: int, *, track: int = 0) -> Samples:
    """Samples `start` … `start + length` of a file, [C, length] float32; zeros where the file has none.

    Args:
        path: of the file.
        start: first sample, may be negative or beyond the end.
        length: samples to give.
        track: which audio track, 0 is the first.

    Raises:
        InputError: as `open_audio` and iterating it.
    """
    with open_audio(path, track=track) as decoder:
        excerpt = np.zeros((decoder.info.channels, length), np.float32)
        at = max(0, start)
        for block in _blocks_from(decoder.blocks_from(at), start + length - at):
            excerpt[:, at - start : at - start + block.shape[1]] = block
            at += block.shape[1]
        return excerpt


def count_frames(path: str | os.PathLike[str], *, track: int = 0) -> int:
    """Exact number of samples per channel; decodes the file where it doesn't say."""
    with open_audio(path, track=track) as decoder:
        if decoder.info.frames is not None:
            return decoder.info.frames
        return sum(block.shape[1] for block in decoder)


def _blocks_from(blocks: Iterator[Samples], length: int) -> Iterator[Samples]:
    """The first `length` samples of a stream, in blocks."""
    if length <= 0:
        return
    for block in blocks:
        yield block[:, :length]
        length -= block.shape[1]
        if length <= 0:
            return
