"""Change of sample rate in a stream, with soxr's very high quality filter.

The filter is linear phase and its delay is compensated: output sample 0 lies on input sample 0. A stream of n samples
gives round(n · out/in) samples, halves up, which is soxr's own count for whole signals. The input is cut anew into
pieces of one length inside, so that the result is the same bit for bit however the caller cuts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

from unmixcli.errors import OptionError

Samples = NDArray[np.float32]

# Input samples handed to soxr at a time. Its result depends in the last bit on how the stream is cut, so the cut is
# always the same; 16384 is large enough that the calls cost nothing.
PIECE = 16384


def resampled_length(frames: int, in_rate: int, out_rate: int) -> int:
    """Samples that `frames` samples become: round(frames · out_rate / in_rate), halves up."""
    return (2 * frames * out_rate + in_rate) // (2 * in_rate)


class Resampler:
    """A stream from one sample rate to another.

    Args:
        in_rate: Hz of what goes in.
        out_rate: Hz of what comes out; the same rate passes blocks through untouched.
        channels: C, the same for every block.
    """

    def __init__(self, in_rate: int, out_rate: int, channels: int) -> None:
        for name, rate in (("in_rate", in_rate), ("out_rate", out_rate)):
            if rate < 1:
                raise OptionError(f"{name} is {rate} Hz, expected a positive number.")
        self.in_rate = in_rate
        self.out_rate = out_rate
        self.channels = channels
        self._same = in_rate == out_rate
        self._stream = None if self._same else soxr.ResampleStream(in_rate, out_rate, channels, "float32", "VHQ")
        self._waiting: list[Samples] = []
        self._waiting_length = 0
        self._taken = 0
        self._given = 0
        self._finished = False

    def process(self, block: Samples) -> Samples:
        """Take [C, T], give what is ready: [C, T'], where T' may be 0."""
        if self._finished:
            raise RuntimeError("process() after finish()")
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"block of shape {block.shape}, expected [{self.channels}, T]")
        if self._same:
            return block
        self._taken += block.shape[1]
        self._waiting.append(block.copy())  # the caller may use the array again
        self._waiting_length += block.shape[1]
        if self._waiting_length < PIECE:
            return np.zeros((self.channels, 0), np.float32)
        data = np.concatenate(self._waiting, axis=1)
        whole = data.shape[1] - data.shape[1] % PIECE
        results = [self._run(data[:, at : at + PIECE], last=False) for at in range(0, whole, PIECE)]
        rest = data[:, whole:].copy()
        self._waiting, self._waiting_length = [rest], rest.shape[1]
        return results[0] if len(results) == 1 else np.concatenate(results, axis=1)

    def finish(self) -> Samples:
        """The rest of the stream, [C, T']; nothing can follow."""
        if self._finished or self._same:
            self._finished = True
            return np.zeros((self.channels, 0), np.float32)
        self._finished = True
        data = np.concatenate([np.zeros((self.channels, 0), np.float32), *self._waiting], axis=1)
        self._waiting = []
        missing = resampled_length(self._taken, self.in_rate, self.out_rate) - self._given
        if self._taken == 0:
            return data
        rest = self._run(data, last=True)[:, :missing]
        if rest.shape[1] < missing:
            rest = np.pad(rest, ((0, 0), (0, missing - rest.shape[1])))
        return np.ascontiguousarray(rest)

    def _run(self, piece: Samples, *, last: bool) -> Samples:
        assert self._stream is not None
        result: Samples = self._stream.resample_chunk(np.ascontiguousarray(piece.T), last=last)
        self._given += len(result)
        return np.ascontiguousarray(result.T)


def resample_blocks(
    blocks: Iterable[Samples], in_rate: int, out_rate: int, channels: int, length: int | None = None
) -> Iterator[Samples]:
    """Blocks [C, T] at another rate, as a stream.

    Args:
        blocks: the input, in order.
        in_rate: Hz of the input.
        out_rate: Hz of the output; the same rate passes blocks through untouched.
        channels: C.
        length: total samples to give: cut or padded with zeros to it. None: `resampled_length` of the input.

    Yields:
        [C, T'] with T' >= 1.
    """
    resampler = Resampler(in_rate, out_rate, channels)
    given = 0

    def limited(block: Samples) -> Samples:
        return block if length is None else block[:, : max(0, length - given)]

    for block in blocks:
        ready = limited(resampler.process(block))
        given += ready.shape[1]
        if ready.shape[1]:
            yield ready
    ready = limited(resampler.finish())
    given += ready.shape[1]
    if ready.shape[1]:
        yield ready
    while length is not None and given < length:
        ready = np.zeros((channels, min(PIECE, length - given)), np.float32)
        given += ready.shape[1]
        yield ready
