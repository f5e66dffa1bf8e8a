"""Cut a stream into overlapping segments and join the results: pure functions of blocks.

        |--edge--|------------ used ------------|--edge--|            one segment, `length` samples
                 |------- stride -------|------------ used ------...  the next one starts a stride later

A model's output is trusted only between the edges. Used parts that overlap are cross-faded with a triangle that never
reaches zero; used parts that don't overlap stand side by side, untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from unmixcli.models.base import EdgePadding

Needed = Callable[[int, int], bool]
Context = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Grid:
    """Where segments lie, in samples.

    Attributes:
        length: samples of a full segment, both edges included.
        edge: samples at each side whose output is dropped.
        stride: samples between the starts of neighbouring used parts.
        padding: what stands beyond the ends of the track: see `SeparationModel.edge_padding`.
        fixed: every segment has exactly `length` samples (the last one is padded).
        context: samples before and after a used part, by its length, where the last segment's differ: see
            `SeparationModel.context`.
    """

    length: int
    edge: int
    stride: int
    padding: EdgePadding = "reflect"
    fixed: bool = False
    context: Context | None = None

    def __post_init__(self) -> None:
        if self.edge < 0 or self.length <= 2 * self.edge:
            raise ValueError(f"a segment of {self.length} samples has no used part between edges of {self.edge}")
        if not 1 <= self.stride <= self.used:
            raise ValueError(f"stride is {self.stride}, expected 1..{self.used} (the used part of a segment)")
        if self.fixed and self.padding == "none":
            raise ValueError("segments of a fixed length need padding at the ends of the track")

    @property
    def used(self) -> int:
        """Samples of a segment's output that are used."""
        return self.length - 2 * self.edge

    @property
    def lookback(self) -> int:
        """The most samples before a used part that a segment can want."""
        return self.edge if self.context is None else max(self.edge, self.context(1)[0])


def make_grid(
    *,
    length: int,
    edge: int,
    overlap: float,
    multiple: int = 1,
    padding: EdgePadding = "reflect",
    fixed: bool = False,
    context: Context | None = None,
) -> Grid:
    """A grid whose stride is (1 - overlap) of the used part, on a multiple of `multiple` samples."""
    stride = round((length - 2 * edge) * (1 - overlap))
    return Grid(length, edge, max(multiple, stride // multiple * multiple), padding, fixed, context)


@dataclass(frozen=True)
class Segment:
    """One piece for the model.

    Attributes:
        start: first sample of the used part, in the track.
        used: samples of the used part (less than the grid's only at the end of the track).
        offset: where the used part starts inside `mixture`.
        mixture: [G, C, L] with its context, or None where the segment isn't needed.
    """

    start: int
    used: int
    offset: int
    mixture: Tensor | None


def _always(start: int, stop: int) -> bool:
    return True


def cut(blocks: Iterable[Tensor], grid: Grid, needed: Needed = _always) -> Iterator[Segment]:
    """Cut a stream into segments.

    Args:
        blocks: [G, C, T] of any lengths, in order.
        grid: where the segments lie. Segments start at 0, stride, 2 * stride, ... below the track's length.
        needed: asked with a used part's [start, stop); where it says no the segment comes without its mixture.

    Yields:
        Segments in order. The result does not depend on how the stream was cut into blocks.
    """
    parts: list[Tensor] = []  # what is held, joined only when a segment is complete
    origin = 0  # track position of the first sample held
    held = 0
    start = 0  # of the next used part
    for block in blocks:
        parts.append(block)
        held += block.shape[-1]
        while origin + held >= start + grid.used + grid.edge:
            buffer = torch.cat(parts, dim=-1)
            yield _segment(buffer, origin, start, None, grid, needed)
            start += grid.stride
            keep_from = max(origin, start - grid.lookback)
            parts = [buffer[..., keep_from - origin :]]
            held -= keep_from - origin
            origin = keep_from
    if not parts:
        return
    buffer = torch.cat(parts, dim=-1)
    total = origin + held
    while start < total:
        yield _segment(buffer, origin, start, total, grid, needed)
        start += grid.stride


def _segment(buffer: Tensor, origin: int, start: int, total: int | None, grid: Grid, needed: Needed) -> Segment:
    """The segment at `start`; `total` is the track's length once that is known."""
    stop = start + grid.used if total is None else min(start + grid.used, total)
    if not needed(start, stop):
        return Segment(start, stop - start, 0, None)
    first, last = start - grid.edge, stop + grid.edge
    if grid.fixed:
        last = first + grid.length
    if grid.context is not None and stop - start < grid.used:
        before, after = grid.context(stop - start)
        first, last = start - before, stop + after
    if grid.padding == "none":
        first, last = max(first, 0), last if total is None else min(last, total)
    real_first = max(first, 0)
    real_last = last if total is None else min(last, total)
    real = buffer[..., real_first - origin : real_last - origin]
    mixture = extend(real, real_first - first, last - real_last, mirrored=grid.padding == "reflect")
    return Segment(start, stop - start, start - first, mixture)


def extend(signal: Tensor, before: int, after: int, *, mirrored: bool) -> Tensor:
    """Add context at the ends of [..., T], T >= 1: silence, or the signal mirrored without repeating its end sample.

    A mirror image longer than the signal is mirrored again, as `numpy.pad(mode="reflect")` does.
    """
    if before == 0 and after == 0:
        return signal
    length = signal.shape[-1]
    if not mirrored or length == 1:
        return torch.nn.functional.pad(signal, (before, after))
    period = 2 * (length - 1)
    index = torch.remainder(torch.arange(-before, length + after), period)
    return signal[..., torch.where(index < length, index, period - index)]


def triangle(length: int) -> Tensor:
    """Weights 1, 2, ... n ... 2, 1 divided by their maximum: positive everywhere. [length]"""
    ramp = torch.arange(1, length + 1, dtype=torch.float32)
    weights = torch.minimum(ramp, ramp.flip(0))
    return weights / weights.max()


def overlap_add(segments: Iterable[tuple[int, Tensor]], grid: Grid) -> Iterator[Tensor]:
    """Join estimates of the used parts into one signal, cross-fading where they overlap.

    What no later segment reaches is given at once; only the overlap is held while the next segment is computed.

    Args:
        segments: (start, estimate [..., T]) in order, starts a stride apart, T the used part's length.
        grid: the grid they were cut on.

    Yields:
        Blocks [..., T] that together have the track's length.
    """
    if grid.stride == grid.used:
        for _, estimate in segments:
            yield estimate
            del estimate  # large: it must not be held while the next one is computed
        return
    weights = triangle(grid.used)
    tail: Tensor | None = None  # weighted sum of what is not finished yet, and the sum of its weights
    tail_weight = weights
    for _, estimate in segments:
        weight = weights[: estimate.shape[-1]].clone()
        total = estimate * weight
        del estimate
        if tail is not None:
            total, weight = _added(tail, total), _added(tail_weight, weight)
        finished = total[..., : grid.stride] / weight[: grid.stride]
        # a copy, so that the rest of the sum goes
        tail, tail_weight = total[..., grid.stride :].clone(), weight[grid.stride :].clone()
        del total, weight
        yield finished
        del finished
    if tail is not None and tail.shape[-1]:
        yield tail / tail_weight


def _added(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two signals that start together, in the memory of the longer one."""
    longer, shorter = (first, second) if first.shape[-1] > second.shape[-1] else (second, first)
    longer[..., : shorter.shape[-1]] += shorter
    return longer


def reblock(blocks: Iterable[Tensor], length: int) -> Iterator[Tensor]:
    """The same stream in blocks of `length` samples; the last one may be shorter."""
    parts: list[Tensor] = []
    held = 0
    for block in blocks:
        parts.append(block)
        held += block.shape[-1]
        if held >= length:
            joined = torch.cat(parts, dim=-1) if len(parts) > 1 else block
            whole = held // length * length
            yield from joined[..., :whole].split(length, dim=-1)
            parts, held = [joined[..., whole:]], held - whole
    if held:
        yield torch.cat(parts, dim=-1)
