"""Audio of any length as an array: short signals in memory, long ones in a temporary file that is mapped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio.decode import open_audio
from unmixcli.errors import InputError
from unmixcli.evaluation.folders import Place
from unmixcli.evaluation.metrics import to_16_bit
from unmixcli.evaluation.projection import Signal, blocks_of

# Bytes that one signal may take in memory: a minute and a half of stereo at 44.1 kHz.
_IN_MEMORY = 32 << 20


@dataclass(frozen=True)
class Recording:
    """A stem as it is scored: rounded to 16 bit, [C, T]."""

    samples: Signal
    sample_rate: int
    place: Place


class Spool:
    """Blocks [C, t] that become one signal [C, T], rounded to 16 bit; on disk when it is long."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.float32]] = []
        self._file: Any = None
        self._channels = 0
        self._held = 0
        self._length = 0

    def add(self, block: NDArray[np.float32]) -> None:
        """Append [C, t]."""
        rounded = np.ascontiguousarray(to_16_bit(block).T)
        self._channels = block.shape[0]
        self._length += block.shape[1]
        self._held += rounded.nbytes
        self._blocks.append(rounded)
        if self._held > _IN_MEMORY:
            if self._file is None:
                # Closed by finish(), or with this object where that is never reached.
                self._file = tempfile.TemporaryFile(prefix="unmix-evaluate-")  # noqa: SIM115
            self._pour()

    def _pour(self) -> None:
        for block in self._blocks:
            self._file.write(block.data)
        self._blocks, self._held = [], 0

    def finish(self) -> Signal:
        """The signal, [C, T]."""
        if self._file is None:
            whole = np.concatenate(self._blocks) if self._blocks else np.zeros((0, self._channels), np.float32)
            self._blocks = []
            return np.ascontiguousarray(whole.T)
        self._pour()
        self._file.flush()
        mapped: Signal = np.memmap(self._file, np.float32, mode="r", shape=(self._length, self._channels)).T
        self._file.close()  # the map has a handle of its own, and the file no name: it is gone with the map
        return mapped


def read(place: Place) -> Recording:
    """Decode a stem.

    Raises:
        InputError: as `open_audio`, or there is no sample in it.
    """
    spool = Spool()
    with open_audio(place.path, track=place.track) as decoder:
        for block in decoder:
            spool.add(block)
        rate = decoder.info.sample_rate
    samples = spool.finish()
    if samples.shape[1] == 0:
        raise InputError(f"{place}: the file holds no samples, nothing can be scored.")
    return Recording(samples, rate, place)


def total(signals: Sequence[Signal]) -> Signal:
    """The sum of signals [C, T]."""
    spool = Spool()
    for part in blocks_of(signals[0].shape[1]):
        spool.add(np.sum([signal[:, part] for signal in signals], axis=0, dtype=np.float32))
    return spool.finish()


def collect(blocks: Iterable[NDArray[np.float32]], count: int) -> list[Signal]:
    """`count` signals from blocks [S, C, t]."""
    spools = [Spool() for _ in range(count)]
    for block in blocks:
        for spool, part in zip(spools, block, strict=True):
            spool.add(part)
    return [spool.finish() for spool in spools]


def fitted(recording: Recording, length: int) -> Signal:
    """The signal cut, or filled with zeros, to `length`."""
    samples = recording.samples[:, :length]
    if samples.shape[1] == length:
        return samples
    spool = Spool()
    for part in blocks_of(samples.shape[1]):
        spool.add(np.asarray(samples[:, part]))
    spool.add(np.zeros((samples.shape[0], length - samples.shape[1]), np.float32))
    return spool.finish()
