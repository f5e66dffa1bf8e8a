"""Run a chain: each stage hears a track of the one before it as a stream.

    source ─ stage 0 ─┬─ the track that goes on ─ stage 1 ─┬─ …
                      └─ tracks that are kept ── wait ─────┘      outputs = plan.mix(mixture, tracks)

All stages compute in one thread, one after the other, so that two models never fight over the processor, and what is
kept waits only as long as the next stage looks ahead: memory does not grow with the track. A model that wants the level
of a whole track before it starts (`normalization`) can't hear a stream: what the stages before it give is then written
to a temporary file first, 4 bytes for each sample, channel and track.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

import numpy as np

from unmixcli.chain import Stage
from unmixcli.errors import InputError, OutputError
from unmixcli.lockstep import separate_together
from unmixcli.options import Options
from unmixcli.pipeline import (
    BLOCK_LENGTH,
    Backlog,
    Block,
    Region,
    Report,
    Source,
    begins_too_late,
    separate_blocks,
)
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.runner import Runner
from unmixcli.stems import MIXTURE, Output, StemPlan
from unmixcli.streams import prefetch

# Seconds: random shifts, frames of a combination, resamplers.
_REACH = 2.0
# A post-filter's window on each side of what it is asked for, and one more before that is right.
_FILTER_REACH = 25.0


@dataclass(frozen=True)
class Cast:
    """A stage with its models loaded."""

    stage: Stage
    runners: Sequence[Runner]

    def run(
        self,
        source: Source,
        plan: StemPlan,
        options: Options,
        *,
        report: Report | None = None,
        on_progress: ProgressCallback = ignore_progress,
        read_ahead: bool = True,
        compute_ahead: bool = True,
    ) -> Generator[dict[str, Block], None, None]:
        """`separate_blocks`, or `separate_together` for an ensemble."""
        combination = self.stage.lineup.combination
        if combination is None:
            return separate_blocks(
                source,
                self.runners[0],
                plan,
                options,
                report=report,
                on_progress=on_progress,
                read_ahead=read_ahead,
                compute_ahead=compute_ahead,
            )
        return separate_together(
            source,
            self.runners,
            combination,
            plan,
            options,
            report=report,
            on_progress=on_progress,
            read_ahead=read_ahead,
            compute_ahead=compute_ahead,
        )

    @property
    def wants_whole_track(self) -> bool:
        """A model of it reads its input twice."""
        return any(runner.model.normalization == "track" for runner in self.runners)

    def reach(self, options: Options) -> float:
        """Seconds around a region that must be right in what it hears."""
        segments = [runner.model.segment_length / runner.model.sample_rate for runner in self.runners]
        longest = max(*segments, options.segment or 0.0)
        return 2 * longest + _REACH + (_FILTER_REACH if options.postfilter != "none" else 0.0)


def separate_chain(
    source: Source,
    casts: Sequence[Cast],
    plan: StemPlan,
    options: Options,
    *,
    report: Report | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> Iterator[dict[str, Block]]:
    """Separate a source with a chain: `pipeline.separate_blocks` for several stages.

    Args:
        source: what to separate.
        casts: the stages, two or more.
        plan: outputs made of the chain's tracks.
        options: of every stage.
        report: filled while blocks are delivered; its levels are those of the first stage.
        on_progress: told of every block delivered.

    Yields, raises: as `separate_blocks`.
    """
    report = report if report is not None else Report()
    run = _Run(source, options, on_progress)
    region = Region.of(options, source.sample_rate)
    wanted = _with_mixture(casts) if MIXTURE in plan.sources else casts
    try:
        with contextlib.closing(prefetch(run.tracks(wanted, region, on_progress), depth=4)) as stream:
            for block in stream:
                some = next(iter(block.values()))
                estimates = [block[name] for name in plan.compute]
                report.written += some.shape[-1]
                run.levels_to(report)
                yield plan.mix(block.get(MIXTURE, some), np.stack(estimates) if estimates else some[None, :0])
    except InputError as error:
        # A stage was asked for more than the region: its message would tell of another start.
        if region.start and run.first.frames and region.start >= run.first.frames:
            raise begins_too_late(source, region, run.first.frames) from error
        raise
    report.frames = run.last.frames
    run.levels_to(report)


def _with_mixture(casts: Sequence[Cast]) -> list[Cast]:
    """The stages, with the mixture among the tracks that the first gives and all others keep."""
    first = casts[0].stage
    plan = first.lineup.plan
    outputs = (*plan.outputs, Output(MIXTURE, {MIXTURE: 1.0}))
    lineup = replace(first.lineup, plan=replace(plan, outputs=outputs))
    others = [replace(cast, stage=replace(cast.stage, keeps=(*cast.stage.keeps, MIXTURE))) for cast in casts[1:]]
    return [replace(casts[0], stage=replace(first, lineup=lineup)), *others]


class _Run:
    """One source on its way through a chain.

    Attributes:
        first, last: what the first and the last stage found out.
    """

    def __init__(self, source: Source, options: Options, on_progress: ProgressCallback) -> None:
        self.source = source
        self.options = options
        self.on_progress = on_progress
        self.first, self.last = Report(), Report()

    def levels_to(self, report: Report) -> None:
        report.mixture_energy = self.first.mixture_energy
        report.residual_energy = self.first.residual_energy

    def tracks(
        self, casts: Sequence[Cast], region: Region, on_progress: ProgressCallback
    ) -> Generator[dict[str, Block], None, None]:
        """The tracks of the last of these stages and those it keeps, cut to the region."""
        *before, cast = casts
        plan = cast.stage.lineup.plan
        if not before:
            yield from cast.run(
                self.source,
                plan,
                self._cut(region),
                report=self.first,
                on_progress=on_progress,
                compute_ahead=False,
            )
            return
        with contextlib.ExitStack() as stack:
            link = self._link(before, cast, region, stack)
            self.last = Report()
            own = cast.run(
                link,
                plan,
                self._cut(region),
                report=self.last,
                on_progress=on_progress,
                read_ahead=False,
                compute_ahead=False,
            )
            for block in stack.enter_context(contextlib.closing(own)):
                yield {**link.kept(region.start, block), **block}

    def _cut(self, region: Region) -> Options:
        rate = region.sample_rate
        return replace(
            self.options,
            start=region.start / rate if region.start else None,
            end=None if region.stop is None else region.stop / rate,
        )

    def _link(self, before: Sequence[Cast], cast: Cast, region: Region, stack: contextlib.ExitStack) -> _Link:
        if not cast.wants_whole_track:
            margin = math.ceil(cast.reach(self.options) * region.sample_rate)
            start = max(0, region.start - margin)
            stop = None if region.stop is None else region.stop + margin
            wide = Region(start, stop, region.sample_rate)
            blocks = stack.enter_context(contextlib.closing(self.tracks(before, wide, self._quiet)))
            return _Link(self.source, cast.stage, start, lambda: blocks)
        whole = self.tracks(before, Region(0, None, region.sample_rate), self._scanning)
        stack.enter_context(contextlib.closing(whole))
        spool = stack.enter_context(_Spool(whole, cast.stage, self.source.channels))
        return _Link(self.source, cast.stage, 0, spool.blocks, again=True)

    def _quiet(self, event: Progress) -> None:
        """Progress of a stage before the last says little: the last one's counts."""
        if event.stage != "separate":
            self.on_progress(event)

    def _scanning(self, event: Progress) -> None:
        self.on_progress(replace(event, stage="scan") if event.stage == "separate" else event)


class _Link:
    """The track that a stage hears, as a source; what is kept beside it waits until the stage has come as far.

    Args:
        source: what the chain separates, for everything that stays the same.
        stage: who hears.
        start: sample of the source at which the tracks begin; before it there is silence.
        read: gives the tracks from there on.
        again: they can be read any number of times.
    """

    def __init__(
        self,
        source: Source,
        stage: Stage,
        start: int,
        read: Callable[[], Iterator[dict[str, Block]]],
        *,
        again: bool = False,
    ) -> None:
        self.sample_rate, self.channels = source.sample_rate, source.channels
        self.channel_layout, self.duration, self.name = source.channel_layout, source.duration, source.name
        self._hears = stage.hears or ""
        self._start = start
        self._read = read
        self._waiting = {name: Backlog() for name in stage.keeps}
        self._beside = read() if again else None  # kept tracks by a reading of their own, not held in memory

    def blocks(self) -> Iterator[Block]:
        for begin in range(0, self._start, BLOCK_LENGTH):
            yield np.zeros((self.channels, min(BLOCK_LENGTH, self._start - begin)), np.float32)
        for tracks in self._read():
            if self._beside is None:
                self._keep(tracks)
            yield tracks[self._hears]

    def _keep(self, tracks: dict[str, Block]) -> None:
        for name, backlog in self._waiting.items():
            backlog.add(tracks[name])

    def kept(self, start: int, like: dict[str, Block]) -> dict[str, Block]:
        """What is kept, as long as these blocks; the first of them begins at `start`."""
        length = next(iter(like.values())).shape[-1]
        return {name: self._taken(backlog, start, length) for name, backlog in self._waiting.items()}

    def _taken(self, backlog: Backlog, start: int, length: int) -> Block:
        skipped = start - self._start if backlog.taken == 0 else 0
        while self._beside is not None and backlog.held < skipped + length:
            self._keep(next(self._beside))
        if skipped:
            backlog.take(skipped)
        return backlog.take(length)


class _Spool:
    """Tracks in a temporary file, so that they can be read more than once."""

    def __init__(self, tracks: Iterator[dict[str, Block]], stage: Stage, channels: int) -> None:
        self._tracks = tracks
        self._names = tuple(dict.fromkeys((stage.hears or "", *stage.keeps)))
        self._channels = channels
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def blocks(self) -> Iterator[dict[str, Block]]:
        file = self._filled()
        width = len(self._names) * self._channels
        position = 0
        while True:
            with self._lock:
                file.seek(position)
                data = file.read(BLOCK_LENGTH * width * 4)
            if not data:
                return
            position += len(data)
            samples = np.frombuffer(data, np.float32).reshape(-1, width).T
            yield {
                name: np.ascontiguousarray(samples[number * self._channels : (number + 1) * self._channels])
                for number, name in enumerate(self._names)
            }

    def _filled(self) -> IO[bytes]:
        if self._file is not None:
            return self._file
        try:
            self._file = tempfile.TemporaryFile(prefix="unmix-")  # noqa: SIM115 (closed with the spool)
            for tracks in self._tracks:
                samples = np.concatenate([tracks[name] for name in self._names])
                self._file.write(np.ascontiguousarray(samples.T, np.float32).tobytes())
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"the temporary file for {self._names[0]} can't be written: {error.strerror or error}.",
                hint=f"it lies in {tempfile.gettempdir()}; TMPDIR names another folder.",
            ) from error
        return self._file


__all__ = ["Cast", "separate_chain"]
