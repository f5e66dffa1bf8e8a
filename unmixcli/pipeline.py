"""THE main path: decode → resample → segment → model → overlap-add → post-filter → stems.

    source.blocks()  [C, T] at the input's rate ──┬────────────── originals ──────────────┐
          read                                    │                                       │
      [G, C, T] at the model's rate → estimate → [G, S, C, T] → deliver: back to the input's rate and channels,
                                                                outputs = plan.mix(mixture, estimates)

Reading, computing and delivering run in threads of their own with bounded queues between them; nothing here holds more
than a few segments, whatever the length of the track. Every stage is a function of blocks that knows nothing of its
neighbours. What is done with the outputs (arrays, files, a pipe) is the caller's business.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.audio.channels import ChannelGroups, channel_groups, from_model, to_model
from unmixcli.audio.resample import resample_blocks
from unmixcli.errors import InputError, OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.options import Options
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.runner import Runner
from unmixcli.segment import Grid, Needed, cut, make_grid, overlap_add, reblock
from unmixcli.stems import StemPlan, residual_of
from unmixcli.streams import prefetch_if

Block = NDArray[np.float32]

# Samples that one stage hands to the next: small against a segment, large against the cost of a hand-over.
BLOCK_LENGTH = 65536
# Samples at the model's rate beyond a region that the resampler's filter can see.
_RESAMPLER_REACH = 4096
# Random shifts lie below half a second (Demucs, Défossez et al. 2019, arXiv 1911.13254).
_MAX_SHIFT_SECONDS = 0.5


class Source(Protocol):
    """Audio that can be read from its start as often as needed."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def channel_layout(self) -> str | None: ...
    @property
    def duration(self) -> float | None:
        """Seconds, as far as known; for progress only."""

    @property
    def name(self) -> str: ...
    def blocks(self) -> Iterator[Block]:
        """Blocks [C, T], float32, of any lengths."""


@dataclass
class Report:
    """What a run found out, filled while it goes on.

    Attributes:
        frames: samples read from the input (all of it, or up to the end of the region).
        written: samples of each output.
        residual_db: level of the residual relative to the mixture, dB; None where it isn't known.
    """

    frames: int = 0
    written: int = 0
    mixture_energy: float = 0.0
    residual_energy: float | None = None

    @property
    def residual_db(self) -> float | None:
        if self.residual_energy is None or self.mixture_energy <= 0:
            return None
        return 10 * math.log10(max(self.residual_energy, 1e-30) / self.mixture_energy)


def separate_blocks(
    source: Source,
    runner: Runner,
    plan: StemPlan,
    options: Options,
    *,
    report: Report | None = None,
    on_progress: ProgressCallback = ignore_progress,
    read_ahead: bool = True,
    compute_ahead: bool = True,
) -> Generator[dict[str, Block], None, None]:
    """Separate a source: the whole deed.

    Args:
        source: what to separate.
        runner: the model, on its device; its stems are `plan.compute`.
        plan: the outputs.
        options: segment, overlap, shifts, region, post-filter.
        report: filled while blocks are delivered.
        on_progress: told of every block delivered.
        read_ahead: read in a thread of its own.
        compute_ahead: compute in a thread of its own, a segment before it is asked for.

    Yields:
        name -> [C, T] float32 at the source's rate and channels. Together the blocks have exactly the source's
        length, or the region's.

    Raises:
        InputError: the region starts after the end of the source.
    """
    report = report if report is not None else Report()
    originals = Backlog()
    groups = channel_groups(source.channels, source.channel_layout, model_channels=runner.model.channels)
    region = Region.of(options, source.sample_rate)
    blocks = prefetch_if(read_ahead, read(source, runner.model, groups, originals), depth=4)
    estimates = estimate(blocks, source, runner, options, region, on_progress)
    # One segment is delivered while the next one is computed; no third one exists.
    with closing(blocks), closing(prefetch_if(compute_ahead, estimates, depth=1)) as stream:
        flat = to_input(stream, source, runner.model, groups)
        yield from deliver(flat, source, plan, originals, region, report, on_progress)


# ---------------------------------------------------------------- region


@dataclass(frozen=True)
class Region:
    """The part asked for, [start, stop) in samples of the input; stop None is the end.

    A region is cut out of the full run: segments lie where they would lie without it, and those that don't touch it
    are not computed. So an excerpt equals the same part of the full result.
    """

    start: int
    stop: int | None
    sample_rate: int

    @classmethod
    def of(cls, options: Options, sample_rate: int) -> Region:
        start = round((options.start or 0.0) * sample_rate)
        stop = None if options.end is None else round(options.end * sample_rate)
        return cls(start, stop, sample_rate)

    def needed(self, sample_rate: int, margin: int) -> Needed:
        """Whether [first, last) at another rate is within `margin` samples of the region."""
        ratio = sample_rate / self.sample_rate
        reach = margin + (0 if sample_rate == self.sample_rate else _RESAMPLER_REACH)
        lowest = math.floor(self.start * ratio) - reach
        highest = math.inf if self.stop is None else math.ceil(self.stop * ratio) + reach
        return lambda first, last: last > lowest and first < highest


class Backlog:
    """Blocks that wait for another stream to catch up: first in, first out, in any lengths."""

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        self.added = 0
        self.taken = 0

    def add(self, block: Block) -> None:
        self._blocks.append(block)
        self.added += block.shape[-1]

    @property
    def held(self) -> int:
        return self.added - self.taken

    def take(self, length: int) -> Block:
        """The next `length` samples; `length` is at most `held`."""
        parts: list[Block] = []
        missing = length
        while missing:
            block = self._blocks.popleft()
            if block.shape[-1] > missing:
                self._blocks.appendleft(block[..., missing:])
                block = block[..., :missing]
            parts.append(block)
            missing -= block.shape[-1]
        self.taken += length
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


# ---------------------------------------------------------------- the stages


def read(source: Source, model: SeparationModel, groups: ChannelGroups, originals: Backlog | None) -> Iterator[Tensor]:
    """The mixture as the model wants it, [G, C, T]; the blocks as read are kept in `originals`."""
    blocks = source.blocks() if originals is None else kept_blocks(source, originals)
    return as_model_wants(blocks, source, model, groups)


def kept_blocks(source: Source, originals: Backlog) -> Iterator[Block]:
    """The blocks of a source, which are kept in `originals` as well."""
    for block in source.blocks():
        originals.add(block)
        yield block


def as_model_wants(
    blocks: Iterable[Block], source: Source, model: SeparationModel, groups: ChannelGroups
) -> Iterator[Tensor]:
    """Blocks of a source [C, T] at the model's rate and channels, [G, C, T]."""
    for block in resample_blocks(blocks, source.sample_rate, model.sample_rate, source.channels):
        yield torch.from_numpy(to_model(block, groups, model.channels))


def estimate(
    blocks: Iterable[Tensor],
    source: Source,
    runner: Runner,
    options: Options,
    region: Region,
    on_progress: ProgressCallback = ignore_progress,
    *,
    margin: float = 0.0,
) -> Iterator[Tensor]:
    """[G, C, T] → [G, S, C, T], both at the model's rate, with the normalization the model asks for.

    Args:
        blocks: the whole mixture, of `read`.
        source: where it comes from; read once more where the model asks for a track's statistics.
        margin: seconds around the region that must be right as well.
    """
    groups = channel_groups(source.channels, source.channel_layout, model_channels=runner.model.channels)
    if runner.model.normalization != "none":
        statistics = track_statistics(source, runner.model, groups, on_progress)
        return _normalized(
            blocks, statistics, lambda parts: _estimate(parts, runner, options, region, len(groups), margin)
        )
    return _estimate(blocks, runner, options, region, len(groups), margin)


def to_input(
    estimates: Iterable[Tensor], source: Source, model: SeparationModel, groups: ChannelGroups
) -> Iterator[Block]:
    """[G, S, C, T] of a model → [S * channels, T] at the input's rate and channels."""
    flat = _flat_blocks(_in_small_blocks(estimates), groups, source.channels)
    return resample_blocks(flat, model.sample_rate, source.sample_rate, len(model.stems) * source.channels)


def _estimate(
    blocks: Iterable[Tensor], runner: Runner, options: Options, region: Region, groups: int, margin: float
) -> Iterator[Tensor]:
    """[G, C, T] → [G, S, C, T], both at the model's rate: shifts, segments, model, overlap-add, post-filter."""
    model = runner.model
    grid = model_grid(model, options)
    beyond = math.ceil(margin * model.sample_rate)
    if options.postfilter == "none":
        yield from _shifted(blocks, runner, grid, options, region.needed(model.sample_rate, beyond), groups)
        return
    from unmixcli.postfilters.windowed import WINDOW_SECONDS, apply_windowed

    kept, heard = itertools.tee(blocks)
    window = math.ceil(WINDOW_SECONDS * model.sample_rate)
    needed = region.needed(model.sample_rate, beyond + window)
    estimates = _shifted(heard, runner, grid, options, needed, groups)
    filtered = apply_windowed(
        _paired(kept, estimates),
        options.postfilter,
        sample_rate=model.sample_rate,
        iterations=1 if options.iterations is None else options.iterations,
        residual=options.residual_model,
        needed=region.needed(model.sample_rate, beyond),
    )
    for _, block in filtered:
        yield block


def _segmented(blocks: Iterable[Tensor], runner: Runner, grid: Grid, needed: Needed, groups: int) -> Iterator[Tensor]:
    def estimates() -> Iterator[tuple[int, Tensor]]:
        for segment, estimate in runner.run(cut(blocks, grid, needed), groups):
            yield segment.start, estimate
            del estimate  # large: it must not be held while the next one is computed

    return overlap_add(estimates(), grid)


def _shifted(
    blocks: Iterable[Tensor], runner: Runner, grid: Grid, options: Options, needed: Needed, groups: int
) -> Iterator[Tensor]:
    """The average over `options.shifts` runs, each with a random silence before the track (so that segments and
    frames lie elsewhere), all in lockstep."""
    if options.shifts == 0:
        yield from _segmented(blocks, runner, grid, needed, groups)
        return
    draw = random.Random(options.seed)
    limit = int(_MAX_SHIFT_SECONDS * runner.model.sample_rate)
    offsets = [draw.randint(0, limit) for _ in range(options.shifts)]

    def delayed(copy: Iterable[Tensor], offset: int) -> Iterator[Tensor]:
        silence = torch.zeros(groups, runner.model.channels, offset)
        shifted = itertools.chain([silence] if offset else [], copy)
        run = _segmented(shifted, runner, grid, lambda a, b: needed(a - offset, b - offset), groups)
        return _fixed_blocks(_without_start(run, offset))

    runs = [delayed(copy, offset) for copy, offset in zip(itertools.tee(blocks, len(offsets)), offsets, strict=True)]
    for parts in zip(*runs, strict=True):
        yield torch.stack(parts).mean(dim=0)


def _normalized(
    blocks: Iterable[Tensor], statistics: tuple[Tensor, Tensor], run: Callable[[Iterable[Tensor]], Iterator[Tensor]]
) -> Iterator[Tensor]:
    mean, scale = statistics
    for estimate in run((block - mean) / scale for block in blocks):
        yield estimate * scale.unsqueeze(1) + mean.unsqueeze(1)


def deliver(
    flat: Iterable[Block],
    source: Source,
    plan: StemPlan,
    originals: Backlog,
    region: Region,
    report: Report,
    on_progress: ProgressCallback,
) -> Iterator[dict[str, Block]]:
    """Estimates [S * channels, T] at the input's rate, mixed to outputs, cut to the region and the input's length."""
    stems, channels = len(plan.compute), source.channels
    position = 0  # in the input
    total = source.duration
    if region.stop is not None:
        total = min(region.stop / source.sample_rate, math.inf if total is None else total)
    waiting = Backlog()

    def outputs(length: int) -> Iterator[dict[str, Block]]:
        nonlocal position
        first, last = position, position + length
        mixture, estimates = originals.take(length), waiting.take(length)
        position = last
        begin = max(region.start, first)
        end = last if region.stop is None else min(region.stop, last)
        if begin >= end:
            return
        mixture = mixture[:, begin - first : end - first]
        estimates = estimates[:, begin - first : end - first].reshape(stems, channels, end - begin)
        _measure(report, mixture, estimates if plan.complete else None)
        report.written += end - begin
        yield plan.mix(mixture, estimates)
        on_progress(Progress("separate", source.name, end / source.sample_rate, total))

    for block in flat:
        waiting.add(block)
        ready = min(waiting.held, originals.held)
        if ready:
            yield from outputs(ready)
        if region.stop is not None and position >= region.stop:
            report.frames = position
            return
    # The way there and back may end a sample early or late: the input's own length counts.
    missing = originals.held - waiting.held
    if missing > 0:
        waiting.add(np.zeros((stems * channels, missing), np.float32))
    if originals.held:
        yield from outputs(originals.held)
    report.frames = position
    if region.start and region.start >= position:
        raise begins_too_late(source, region, position)


def begins_too_late(source: Source, region: Region, length: int) -> InputError:
    """The error for a region after the end of a source of `length` samples."""
    return InputError(
        f"{source.name}: the part asked for starts at {region.start / source.sample_rate:.2f} s, "
        f"but the audio ends at {length / source.sample_rate:.2f} s.",
        hint="choose a smaller --from.",
    )


def _measure(report: Report, mixture: Block, estimates: Block | None) -> None:
    report.mixture_energy += float(np.vdot(mixture, mixture))
    if estimates is not None:
        residual = residual_of(mixture, estimates)
        report.residual_energy = (report.residual_energy or 0.0) + float(np.vdot(residual, residual))


# ---------------------------------------------------------------- small parts


def model_grid(model: SeparationModel, options: Options) -> Grid:
    """The grid of the model's segments under the options.

    Raises:
        OptionError: a segment length that this model can't work with.
    """
    length = model.segment_length
    if options.segment is not None:
        wish = round(options.segment * model.sample_rate)
        if model.fixed_segment and wish != length:
            raise OptionError(
                f"segment is {options.segment} s, but this model works at exactly {length / model.sample_rate:.3f} s.",
                hint="leave --segment out.",
            )
        used = (wish - 2 * model.edge) // model.segment_multiple * model.segment_multiple
        if used < model.segment_multiple:
            least = (2 * model.edge + model.segment_multiple) / model.sample_rate
            raise OptionError(f"segment is {options.segment} s, this model needs at least {least:.2f} s.")
        length = used + 2 * model.edge
    return make_grid(
        length=length,
        edge=model.edge,
        overlap=model.overlap if options.overlap is None else options.overlap,
        multiple=model.segment_multiple,
        padding=model.edge_padding,
        fixed=model.fixed_segment,
        context=model.context,
    )


def track_statistics(
    source: Source, model: SeparationModel, groups: ChannelGroups, on_progress: ProgressCallback
) -> tuple[Tensor, Tensor]:
    """What each group is shifted and divided by, [G, 1, 1] each, from a pass of its own over the source: mean and
    standard deviation (unbiased, plus 1e-8) of the whole track's mono mix, or nothing and the track's level."""
    if model.normalization == "level":
        level = track_level(source, model, groups, on_progress)
        return torch.zeros_like(level), level
    count = 0
    total = torch.zeros(len(groups), dtype=torch.float64)
    squares = torch.zeros(len(groups), dtype=torch.float64)
    for block in read(source, model, groups, None):
        mono = block.mean(dim=1).double()
        count += mono.shape[-1]
        total += mono.sum(dim=-1)
        squares += mono.square().sum(dim=-1)
        on_progress(Progress("scan", source.name, count / model.sample_rate, source.duration))
    mean = total / max(count, 1)
    variance = (squares - count * mean.square()).clamp_min(0) / max(count - 1, 1)
    return mean.float()[:, None, None], (variance.sqrt() + 1e-8).float()[:, None, None]


def track_level(source: Source, model: SeparationModel, groups: ChannelGroups, on_progress: ProgressCallback) -> Tensor:
    """The largest of the levels that the model gives the segments, [G, 1, 1]; 1 where that is nothing."""
    level = torch.zeros(len(groups))
    for segment in cut(read(source, model, groups, None), model_grid(model, Options())):
        if segment.mixture is not None:
            with torch.inference_mode():
                level = torch.maximum(level, model.level(segment.mixture))
        seconds = (segment.start + segment.used) / model.sample_rate
        on_progress(Progress("scan", source.name, seconds, source.duration))
    return torch.where(level > 0, level, 1.0)[:, None, None]


def _flat_blocks(blocks: Iterable[Tensor], groups: ChannelGroups, channels: int) -> Iterator[Block]:
    """[G, S, C, T] of the model → [S * channels, T] of the input, copies."""
    for block in blocks:
        flat = from_model(block.numpy(), groups, channels).reshape(-1, block.shape[-1])
        del block  # a part of a segment's estimates: the last one would hold them all
        yield flat


def _in_small_blocks(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    for block in blocks:
        yield from block.split(BLOCK_LENGTH, dim=-1)
        del block  # a segment's estimates are large: let them go before the next ones are awaited


def _fixed_blocks(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    return reblock(_in_small_blocks(blocks), BLOCK_LENGTH)


def _without_start(blocks: Iterable[Tensor], length: int) -> Iterator[Tensor]:
    for block in blocks:
        if length < block.shape[-1]:
            yield block[..., length:]
        length = max(0, length - block.shape[-1])


def _paired(mixtures: Iterable[Tensor], estimates: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Two streams of different block lengths as one of pairs of equal length."""
    mixture_parts = iter(mixtures)
    held = torch.zeros(0)
    for estimate in estimates:
        position = 0
        while position < estimate.shape[-1]:
            if held.shape[-1] == 0:
                held = next(mixture_parts)
                continue
            length = min(held.shape[-1], estimate.shape[-1] - position)
            yield held[..., :length], estimate[..., position : position + length]
            held = held[..., length:]
            position += length
