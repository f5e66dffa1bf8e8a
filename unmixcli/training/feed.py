"""Batches of excerpts, made in the background while the network works.

Excerpt i is the same whatever makes it, so a run is described by one number: how many excerpts it has used. Process
`rank` of `world` takes every world-th batch.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmixcli.streams import ordered_map, prefetch

# Batches ready before they are needed: enough to bridge one long file, little enough memory.
_AHEAD = 3


class Items(Protocol):
    """Excerpts by number, any number from 0 on.

    An item has "stems" [S, C, T]; and where they say more, "mixture" [C, T] (else it is the sum of the stems), "known"
    [S] bool (else all are) and nothing else that is used here.
    """

    def __getitem__(self, index: int, /) -> Mapping[str, Any]: ...


class Batch(NamedTuple):
    """What one forward pass gets.

    Attributes:
        mixture: [B, C, T].
        references: [B, S, C, T].
        known: [B, S] bool; a reference that is not known must not be learnt from.
    """

    mixture: Tensor
    references: Tensor
    known: Tensor


class _Prepared(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Items with all their parts, in as many channels as the network takes."""

    def __init__(self, items: Items, channels: int) -> None:
        self.items = items
        self.channels = channels

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        item = self.items[index]
        stems = torch.as_tensor(item["stems"], dtype=torch.float32)
        mixture = torch.as_tensor(item["mixture"]).float() if "mixture" in item else stems.sum(0)
        known = torch.as_tensor(item["known"]).bool() if "known" in item else torch.ones(len(stems), dtype=torch.bool)
        return _fitted(mixture, self.channels), _fitted(stems, self.channels), known


def _fitted(wave: Tensor, channels: int) -> Tensor:
    """[..., C', T] in `channels`: the mean of both for mono, the one twice for stereo."""
    if wave.shape[-2] == channels:
        return wave
    return wave.mean(-2, keepdim=True).expand(*wave.shape[:-2], channels, wave.shape[-1])


def _collate(samples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Batch:
    mixtures, references, known = zip(*samples, strict=True)
    return Batch(torch.stack(mixtures), torch.stack(references), torch.stack(known))


class Feed:
    """An endless line of batches from any position.

    Args:
        items: the excerpts.
        batch_size: B.
        channels: C of the network.
        rank, world: which of how many processes this one is.
        workers: processes that prepare items; 0: threads of this one.
        threads: with workers = 0; 1 is a thread beside the one that trains.
        pin: page-locked memory, for a faster way to a GPU.
    """

    def __init__(
        self,
        items: Items,
        *,
        batch_size: int,
        channels: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        threads: int = 1,
        pin: bool = False,
    ) -> None:
        self._prepared = _Prepared(items, channels)
        self.batch_size = batch_size
        self.rank, self.world = rank, world
        self._workers, self._threads, self._pin = workers, threads, pin

    def batches(self, position: int) -> Generator[Batch, None, None]:
        """Batches from excerpt number `position` on; close it to stop what works in the background."""
        numbers = self._numbers(position)
        if self._workers:
            loader = DataLoader(
                self._prepared,
                batch_sampler=numbers,
                num_workers=self._workers,
                collate_fn=_collate,
                prefetch_factor=_AHEAD,
                pin_memory=self._pin,
                multiprocessing_context=_context(),
            )
            yield from loader
            return
        with closing(prefetch(self._threaded(numbers), depth=_AHEAD)) as stream:
            yield from stream

    def _numbers(self, position: int) -> _Numbers:
        return _Numbers(position, self.batch_size, self.rank, self.world)

    def _threaded(self, numbers: _Numbers) -> Iterator[Batch]:
        single = (index for batch in numbers for index in batch)
        made = ordered_map(self._prepared.__getitem__, single, workers=self._threads)
        while samples := list(itertools.islice(made, self.batch_size)):
            batch = _collate(samples)
            yield Batch(*(part.pin_memory() for part in batch)) if self._pin else batch


class _Numbers:
    """The excerpts of each batch of a process, for ever."""

    def __init__(self, position: int, batch_size: int, rank: int, world: int) -> None:
        self._first = position + rank * batch_size
        self._size, self._stride = batch_size, world * batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in itertools.count(self._first, self._stride):
            yield list(range(start, start + self._size))


def _context() -> str:
    """A way of starting processes that does not copy this one's threads with their locks."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"
