"""Many inputs, one model: go on past a bad file, skip what is done, stop cleanly.

    inputs = find_inputs(["album/"], output=folder)
    plan = plan_batch(inputs, separator, folder)
    summary = run_batch(plan, separator)

Whether an input is separated, skipped or refused is decided in `resume.py`, by its outputs and the record of finished
work. Each job gives its outputs their names when all are complete, with the record written around that.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmixcli import __version__
from unmixcli.batch_plan import Job, Plan, Result, Status, batch_settings, named, plan_batch
from unmixcli.errors import InputError, OutputError, UnmixError
from unmixcli.inputs import find_inputs
from unmixcli.options import Options
from unmixcli.progress import Progress
from unmixcli.record import Fingerprint, Record, file_sha256, settings_key
from unmixcli.resume import decide
from unmixcli.separator import Separator
from unmixcli.sinks import FileSink, remove_leftovers

__all__ = [
    "Interrupted",
    "Job",
    "Listener",
    "Plan",
    "Result",
    "Summary",
    "batch_settings",
    "plan_batch",
    "run_batch",
    "separate_all",
]

logger = logging.getLogger(__name__)

# How long an interrupted run waits for its jobs to stop at the next block. Seconds.
GRACE = 3.0


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        results: one for every input that was dealt with, in the order they ended.
        not_tried: number of inputs that were never started because the run was stopped.
        seconds: time it took.
    """

    results: tuple[Result, ...]
    not_tried: int = 0
    seconds: float = 0.0

    def count(self, status: Status) -> int:
        """Number of inputs that ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def failed(self) -> tuple[Result, ...]:
        """Those that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def complete(self) -> bool:
        """Everything asked for is there."""
        return not self.failed and not self.not_tried


class Listener:
    """Told what goes on. Calls come one at a time, from any thread; override what is of interest."""

    def started(self, job: Job) -> None:
        """Work on an input begins."""

    def progress(self, job: Job, event: Progress) -> None:
        """An event about an input under way."""

    def finished(self, result: Result) -> None:
        """An input is done, skipped or failed."""


class Interrupted(KeyboardInterrupt):
    """The run was interrupted.

    Attributes:
        summary: what was done before.
        stuck: a job did not stop within `GRACE` seconds (its device is still busy); its temporary files are removed,
            and the process should end with `os._exit`.
    """

    def __init__(self, summary: Summary, stuck: bool) -> None:
        super().__init__()
        self.summary = summary
        self.stuck = stuck


def separate_all(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    options: Options | None = None,
    listener: Listener | None = None,
    **fields: Any,
) -> Summary:
    """Separate files and folders into files, as `unmix PATH… -o OUTPUT` does.

    Args:
        paths: files and folders.
        output: folder for the results; None: `separated` in the current folder.
        options: all knobs at once; `fields` are laid over them.
        listener: told what goes on.

    Returns:
        What became of each input; a bad one raises nothing.

    Raises:
        UnmixError: nothing could be started (options, model, device).
    """
    separator = Separator(options=options, **fields)
    folder = Path(output if output is not None else separator.options.output or "separated")
    plan = plan_batch(find_inputs(paths, output=folder), separator, folder)
    return run_batch(plan, separator, listener=listener)


# ---------------------------------------------------------------- running


class _StoppedError(Exception):
    """Raised inside a job that shall end."""


def run_batch(
    plan: Plan,
    separator: Separator,
    *,
    listener: Listener | None = None,
    cancel: threading.Event | None = None,
) -> Summary:
    """Do what a plan says, `options.jobs` inputs at a time, all with the one model of the separator.

    Args:
        listener: told of starts, progress and results.
        cancel: set from anywhere to stop all jobs; what they had written is removed.

    Raises:
        UnmixError: the model can't be loaded; nothing was tried.
        Interrupted: Ctrl-C; all jobs are stopped.
    """
    return _Run(plan, separator, listener or Listener(), cancel or threading.Event()).run()


class _Run:
    def __init__(self, plan: Plan, separator: Separator, listener: Listener, cancel: threading.Event) -> None:
        self.plan = plan
        self.separator = separator
        self.listener = listener
        self.cancel = cancel
        self.record = Record(plan.folder)
        self.results: list[Result] = []
        self.waiting = deque(plan.jobs)
        self.active: dict[int, Job] = {}
        self.mutex = threading.RLock()
        self.all_ended = threading.Event()
        self.begun = time.monotonic()
        self.full_disk = False

    def run(self) -> Summary:
        for problem in self.plan.problems:
            self._finish(problem)
        if self.plan.to_do:
            _ = self.separator.runner  # a model that can't be loaded is one error, not one per input
            _clean(self.plan)
        count = max(1, min(self.separator.options.jobs, len(self.waiting)))
        threads = [threading.Thread(target=self._work, name=f"unmix-job-{n}", daemon=True) for n in range(count)]
        self.running = len(threads)
        try:
            for thread in threads:
                thread.start()
            while not self.all_ended.wait(0.2):  # a wait without end can't be interrupted everywhere
                pass
        except KeyboardInterrupt:
            raise Interrupted(*self._interrupt()) from None
        return self._summary()

    def _interrupt(self) -> tuple[Summary, bool]:
        self.cancel.set()
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C waits no longer
            self.all_ended.wait(GRACE)
        stuck = not self.all_ended.is_set()
        if stuck:
            with self.mutex:
                for job in self.active.values():
                    _remove_own_parts(job, self.plan.folder)
        return self._summary(), stuck

    def _summary(self) -> Summary:
        with self.mutex:
            tried = len(self.results)
            total = len(self.plan.jobs) + len(self.plan.problems)
            return Summary(tuple(self.results), total - tried, time.monotonic() - self.begun)

    # ------------------------------------------------------------ in the threads of the jobs

    def _work(self) -> None:
        try:
            while not self.cancel.is_set():
                with self.mutex:
                    if not self.waiting:
                        return
                    job = self.waiting.popleft()
                    self.active[id(job)] = job
                result = self._one(job)
                with self.mutex:
                    del self.active[id(job)]
                if result is not None:
                    self._finish(replace(result, path=job.source.path))
        finally:
            with self.mutex:
                self.running -= 1
                if self.running == 0:
                    self.all_ended.set()

    def _finish(self, result: Result) -> None:
        with self.mutex:
            self.results.append(result)
            self.listener.finished(result)

    def _one(self, job: Job) -> Result | None:
        """One input from start to end; None if it was stopped."""
        name, began = job.source.name, time.monotonic()
        decision = job.decision
        if decision.action == "skip":
            return Result(name, "skipped", dict(job.targets), decision.message)
        if decision.action == "refuse":
            return Result(name, "failed", message=decision.message, hint=decision.hint)
        if self.full_disk:
            return Result(name, "failed", message=f"{name}: not tried, because the disk is full.")
        with self.mutex:
            self.listener.started(job)
        try:
            return self._separate(job, began)
        except _StoppedError:
            return None
        except UnmixError as error:
            self.full_disk = self.full_disk or _is_full_disk(error)
            message, hint = named(error, job.source), error.hint
        except MemoryError:
            message, hint = f"{name}: there is not enough memory.", "fewer --jobs, or a shorter --segment."
        except Exception as error:  # one bad file, whatever is bad about it, does not stop the rest
            if self.cancel.is_set():
                return None
            logger.debug("%s", name, exc_info=True)
            message = f"{name}: {type(error).__name__}: {error}"
            hint = "this is a defect of unmix: please report it, with the file if you can."
        return Result(name, "failed", message=message, hint=hint, seconds=time.monotonic() - began)

    def _separate(self, job: Job, began: float) -> Result:
        def told(event: Progress) -> None:
            if self.cancel.is_set():
                raise _StoppedError
            with self.mutex:
                self.listener.progress(job, event)

        source = job.source
        try:
            fingerprint = Fingerprint(source.name, source.size, source.mtime_ns, file_sha256(source.path))
        except OSError as error:
            raise InputError(f"{source.name}: {error.strerror or error}.") from error
        told(Progress("separate", source.name))
        separation, sink = self.separator.separate_to_files(
            source.path, job.targets, name=source.name, overwrite=job.decision.overwrite, commit=False, on_progress=told
        )
        try:
            outputs = self._commit(job, sink, fingerprint)
        except BaseException:
            sink.abort()
            raise
        if outputs is None:
            sink.abort()
            return Result(source.name, "skipped", dict(job.targets), "done meanwhile by another run")
        return Result(source.name, "done", outputs, seconds=time.monotonic() - began, separation=separation)

    def _commit(self, job: Job, sink: FileSink, source: Fingerprint) -> dict[str, Path] | None:
        """Name the outputs, with the record around it; None if another process was faster with the same."""
        record, settings = self.record, self.plan.settings
        with record.locked():
            if self.cancel.is_set():
                raise _StoppedError
            if not job.decision.overwrite:
                now = decide(job.source, job.targets, record, settings, self.separator.options)
                if now.action == "skip":
                    return None
                if now.action == "refuse":
                    raise OutputError(now.message, hint=now.hint)
            sizes = {sink.targets[name]: size for name, size in sink.sizes().items()}
            token = record.begin(source, settings_key(settings), settings, sizes, _versions())
            sink.commit()
            for folder in {path.parent for path in sink.targets.values()}:
                _sync_folder(folder)
            record.done(token)
        return dict(sink.targets)


# ---------------------------------------------------------------- small parts


def _is_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _clean(plan: Plan) -> None:
    """Remove temporary files that killed runs left, also beside results that are complete or refused."""
    for folder in {path.parent for job in plan.jobs for path in job.targets.values()}:
        remove_leftovers(folder)


def _remove_own_parts(job: Job, root: Path) -> None:
    """What a job that can't be stopped has written so far."""
    for folder in {path.parent for path in job.targets.values()}:
        for path in folder.glob(f".unmix-part-{os.getpid()}-*"):
            with contextlib.suppress(OSError):
                path.unlink()
        while folder != root and root in folder.parents:
            try:
                folder.rmdir()  # only an empty one goes
            except OSError:
                break
            folder = folder.parent


def _sync_folder(folder: Path) -> None:
    """Have the names on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _versions() -> dict[str, str]:
    return {"unmixcli": __version__, "torch": importlib.metadata.version("torch")}
