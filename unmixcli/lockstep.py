"""Several models over one input at the same time, their estimates combined as they come.

                 ┌─ model a at its rate → back to the input's rate ─┐
    blocks ──────┤                                                  ├─ combine → post-filter → outputs
                 └─ model b at its rate → back to the input's rate ─┘

The input is decoded once. Whichever model lags behind is asked for its next segment, one model computing at a time, so
what waits is at most about one segment of each: memory does not grow with the track. Segments, overlaps, sample rates
and normalizations stay each model's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unmixcli.audio.channels import channel_groups, from_model, to_model
from unmixcli.ensemble import Combination, combine_blocks
from unmixcli.options import Options
from unmixcli.pipeline import (
    BLOCK_LENGTH,
    Backlog,
    Block,
    Region,
    Report,
    Source,
    as_model_wants,
    deliver,
    estimate,
    kept_blocks,
    to_input,
)
from unmixcli.progress import ProgressCallback, ignore_progress
from unmixcli.runner import Runner
from unmixcli.stems import StemPlan
from unmixcli.streams import prefetch_if

# Seconds beyond a region that a frame of the combination sees.
_COMBINATION_REACH = 0.5
# Far enough apart that no two members' random shifts meet for neighbouring seeds.
_SEED_STEP = 1_000_003


def separate_together(
    source: Source,
    runners: Sequence[Runner],
    combination: Combination,
    plan: StemPlan,
    options: Options,
    *,
    report: Report | None = None,
    on_progress: ProgressCallback = ignore_progress,
    read_ahead: bool = True,
    compute_ahead: bool = True,
) -> Generator[dict[str, Block], None, None]:
    """Separate a source with several models: `pipeline.separate_blocks` for an ensemble.

    Args:
        source: what to separate; read once, and once more for each model that asks for a track's statistics.
        runners: the members that are run.
        combination: how their estimates become the stems of `plan.compute`.
        plan: the outputs.
        options: those of each member; the post-filter comes after the combination.
        report: filled while blocks are delivered.
        on_progress: told of every block delivered.
        read_ahead, compute_ahead: as in `separate_blocks`.

    Yields, raises: as `separate_blocks`.
    """
    report = report if report is not None else Report()
    region = Region.of(options, source.sample_rate)
    originals = Backlog()
    filtering = options.postfilter != "none"
    read = prefetch_if(read_ahead, kept_blocks(source, originals), depth=4)
    *copies, mixture = itertools.tee(read, len(runners) + 1) if filtering else (*itertools.tee(read, len(runners)), ())
    margin = _COMBINATION_REACH + (_filter_seconds() if filtering else 0.0)
    members = [
        _member(copy, source, runner, _own(options, number), region, margin, on_progress)
        for number, (copy, runner) in enumerate(zip(copies, runners, strict=True))
    ]
    counts = [len(runner.model.stems) for runner in runners]
    combined = combine_blocks(_side_by_side(members, counts, source.channels), combination)
    if filtering:
        combined = _filtered(combined, mixture, source, options, region)
    with closing(read), closing(prefetch_if(compute_ahead, _flat(combined), depth=8)) as stream:
        yield from deliver(stream, source, plan, originals, region, report, on_progress)


def _own(options: Options, number: int) -> Options:
    """The options of one member: shifts of its own, and no post-filter."""
    return replace(
        options, postfilter="none", iterations=None, residual_model=False, seed=options.seed + number * _SEED_STEP
    )


def _member(
    blocks: Iterable[Block],
    source: Source,
    runner: Runner,
    options: Options,
    region: Region,
    margin: float,
    on_progress: ProgressCallback,
) -> Iterator[Block]:
    """One model's estimates at the input's rate, [S * channels, T]."""
    model = runner.model
    groups = channel_groups(source.channels, source.channel_layout, model_channels=model.channels)
    wanted = as_model_wants(blocks, source, model, groups)
    estimates = estimate(wanted, source, runner, options, region, on_progress, margin=margin)
    return to_input(estimates, source, model, groups)


def _side_by_side(members: Sequence[Iterator[Block]], counts: Sequence[int], channels: int) -> Iterator[list[Block]]:
    """Streams [S_m * channels, T] of any block lengths as steps of equal length, [S_m, channels, T] each.

    The way to another rate and back may end a sample early: the longest stream says how long the others are.
    """
    waiting = [Backlog() for _ in members]
    going = set(range(len(members)))
    while going:
        last = min(going, key=lambda number: waiting[number].added)
        block = next(members[last], None)
        if block is None:
            going.remove(last)
        else:
            waiting[last].add(block)
        del block
        if going:
            # one that has ended may be short of what the others still give: it waits for the end
            ready = min(backlog.held for backlog in waiting)
            if ready:
                yield _taken(waiting, counts, channels, ready)
    longest = max(backlog.held for backlog in waiting)
    for backlog, count in zip(waiting, counts, strict=True):
        if backlog.held < longest:
            backlog.add(np.zeros((count * channels, longest - backlog.held), np.float32))
    if longest:
        yield _taken(waiting, counts, channels, longest)


def _taken(waiting: Sequence[Backlog], counts: Sequence[int], channels: int, length: int) -> list[Block]:
    return [
        backlog.take(length).reshape(count, channels, length) for backlog, count in zip(waiting, counts, strict=True)
    ]


def _flat(blocks: Iterable[Block]) -> Iterator[Block]:
    """[S, C, T] as [S * C, T], in small blocks."""
    for block in blocks:
        flat = block.reshape(-1, block.shape[-1])
        del block
        for start in range(0, flat.shape[-1], BLOCK_LENGTH):
            yield flat[:, start : start + BLOCK_LENGTH]
        del flat


# ---------------------------------------------------------------- post-filter


def _filter_seconds() -> float:
    from unmixcli.postfilters.windowed import WINDOW_SECONDS

    return WINDOW_SECONDS


def _filtered(
    combined: Iterable[Block], mixture: Iterable[Block], source: Source, options: Options, region: Region
) -> Iterator[Block]:
    """The post-filter over the combined estimates [S, C, T], at the input's rate, pair by pair of channels."""
    from unmixcli.postfilters.windowed import apply_windowed

    groups = channel_groups(source.channels, source.channel_layout)

    def grouped(estimates: Block) -> Tensor:
        return torch.from_numpy(np.stack([to_model(estimate, groups, 2) for estimate in estimates], axis=1))

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        heard = Backlog()
        blocks = iter(mixture)
        for estimates in combined:
            length = estimates.shape[-1]
            while heard.held < length and (block := next(blocks, None)) is not None:
                heard.add(block)
            length = min(length, heard.held)
            yield torch.from_numpy(to_model(heard.take(length), groups, 2)), grouped(estimates[..., :length])

    filtered = apply_windowed(
        pairs(),
        options.postfilter,
        sample_rate=source.sample_rate,
        iterations=1 if options.iterations is None else options.iterations,
        residual=options.residual_model,
        needed=region.needed(source.sample_rate, 0),
    )
    for _, block in filtered:
        yield from_model(block.numpy(), groups, source.channels)


__all__ = ["separate_together"]
