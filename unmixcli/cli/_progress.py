"""How a run is shown: bars where a person looks, plain lines in a log, one JSON object per event for a program.

JSON lines on standard output, with `--json`; every object has "event":

    {"event": "run", "model", "licence", "device", "output", "inputs", "to_do"}
    {"event": "start", "input", "path", "outputs": {stem: path}}
    {"event": "progress", "input", "stage", "done", "total", "unit"}          at most four a second and input
    {"event": "warning", "subject", "message"}
    {"event": "result", "input", "path", "status": "done"|"skipped"|"failed", "outputs": {stem: path}, "message",
     "hint", "seconds", "duration", "sample_rate", "device", "residual_db", "gain_db", "notes"}
    {"event": "summary", "done", "skipped", "failed", "not_tried", "seconds"}

"input" is relative to the folder that was given. Keys are only ever added. Bytes in paths that are no text are escaped
as Python's "surrogateescape" does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmixcli.batch import Job, Listener, Plan, Result, Summary
from unmixcli.cli import _terminal
from unmixcli.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_JSON_SECONDS = 0.25
_LOG_SECONDS = 30.0


class View(Listener):
    """Shows a run as plain lines; the other views differ in the parts they override."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._total = 0
        self._count = 0
        self._spoken: dict[str, float] = {}

    def __enter__(self) -> View:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def run(self, plan: Plan, facts: Mapping[str, Any]) -> None:
        """The plan is made, work begins.

        Args:
            facts: "model", "licence", "device" and so on.
        """
        self._total = len(plan.jobs) + len(plan.problems)
        for text in plan.notes:
            _terminal.note(text)
        _terminal.note(f"model   {facts['title']}, licence: {facts['licence']}")
        _terminal.note(f"device  {facts['device']}")

    def told(self, event: Progress) -> None:
        """An event that belongs to no input: a download, a warning."""
        if event.stage == "warning":
            self.warn(event.message)
        elif event.stage == "download" and self._due(event.subject, _LOG_SECONDS / 3):
            _terminal.note(f"{event.subject}: {_percent(event)} of the download")

    def warn(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            _terminal.warn(message)

    def progress(self, job: Job, event: Progress) -> None:
        if event.stage == "warning":
            self.warn(event.message)
        elif event.done and self._due(job.source.name, _LOG_SECONDS):
            _terminal.note(f"{job.source.name}: {_percent(event)}")

    def started(self, job: Job) -> None:
        self._spoken[job.source.name] = time.monotonic()
        if job.decision.message:
            _terminal.note(f"{job.source.name}: {job.decision.message}, separated again")

    def finished(self, result: Result) -> None:
        self._count += 1
        head = f"[{self._count}/{self._total}] " if self._total > 1 else ""
        if result.status == "failed":
            _terminal.error(result.message, result.hint)
            return
        _terminal.note(f"{head}{result.name}: {_how_it_went(result)}")
        for text in result.separation.notes if result.separation else ():
            if text not in self._said:
                self._said.add(text)
                _terminal.note(f"  {text}")
        self.paths(result)

    def paths(self, result: Result) -> None:
        """The results themselves, on standard output."""
        for path in result.outputs.values():
            _terminal.result(str(path))

    def summary(self, summary: Summary) -> None:
        if self._total < 2:
            return
        parts = [f"{summary.count('done')} done"]
        parts += [f"{count} skipped (done before)"] if (count := summary.count("skipped")) else []
        parts += [f"{len(summary.failed)} failed"] if summary.failed else []
        parts += [f"{summary.not_tried} not tried"] if summary.not_tried else []
        text = f"{', '.join(parts)} in {_clock(summary.seconds)}"
        if summary.failed:
            names = [result.name for result in summary.failed]
            more = f" and {len(names) - 20} more" if len(names) > 20 else ""
            _terminal.line(f"{text}\nfailed: {', '.join(names[:20])}{more}")
        else:
            _terminal.note(text)

    def _due(self, subject: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._spoken.get(subject, 0.0) < seconds:
            return False
        self._spoken[subject] = now
        return True


class PipeView(View):
    """With the audio itself on standard output, no paths go there."""

    def paths(self, result: Result) -> None:
        pass


class JsonView(View):
    """One JSON object per event on standard output."""

    def _write(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}, default=str))

    def run(self, plan: Plan, facts: Mapping[str, Any]) -> None:
        self._total = len(plan.jobs) + len(plan.problems)
        for text in plan.notes:
            self._write("warning", subject="", message=text)
        shown = {name: facts[name] for name in ("model", "licence", "device")}
        self._write("run", **shown, output=str(plan.folder), inputs=self._total, to_do=len(plan.to_do))

    def told(self, event: Progress) -> None:
        self._event(event.subject, event)

    def warn(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._write("warning", subject="", message=message)

    def progress(self, job: Job, event: Progress) -> None:
        self._event(job.source.name, event)

    def _event(self, subject: str, event: Progress) -> None:
        if event.stage == "warning":
            self.warn(event.message)
        elif self._due(subject, _JSON_SECONDS):
            self._write(
                "progress", input=subject, stage=event.stage, done=event.done, total=event.total, unit=event.unit
            )

    def started(self, job: Job) -> None:
        self._write("start", input=job.source.name, path=str(job.source.path), outputs=_strings(job.targets))

    def finished(self, result: Result) -> None:
        values: dict[str, Any] = {
            "input": result.name,
            "path": None if result.path is None else str(result.path),
            "status": result.status,
            "outputs": _strings(result.outputs),
            "message": result.message,
            "hint": result.hint,
            "seconds": round(result.seconds, 3),
        }
        if found := result.separation:
            values |= {"duration": found.duration, "sample_rate": found.sample_rate, "device": found.device}
            values |= {"residual_db": found.residual_db, "gain_db": found.gain_db, "notes": list(found.notes)}
        self._write("result", **values)
        if result.status == "failed":
            _terminal.error(result.message, result.hint)

    def summary(self, summary: Summary) -> None:
        counts = {"done": summary.count("done"), "skipped": summary.count("skipped"), "failed": len(summary.failed)}
        self._write("summary", **counts, not_tried=summary.not_tried, seconds=round(summary.seconds, 3))


class BarView(View):
    """A bar for every input under way and one for all, with the time left."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._bars: Bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=120,  # a segment of a large network takes many seconds
        )
        self._tasks: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._sizes: dict[str, int] = {}
        self._shares: dict[str, float] = {}
        self._mutex = threading.Lock()

    def __enter__(self) -> View:
        self._bars.start()
        _terminal.through(lambda text: self._console.print(text, markup=False, highlight=False))
        return self

    def __exit__(self, *exc: object) -> None:
        _terminal.through(None)
        self._bars.stop()

    def run(self, plan: Plan, facts: Mapping[str, Any]) -> None:
        super().run(plan, facts)
        for task in self._tasks.values():  # downloads
            self._bars.remove_task(task)
        self._tasks = {}
        if len(plan.to_do) > 1:
            # By bytes: the lengths of a hundred thousand files aren't known before they are opened.
            for job in plan.to_do:
                self._sizes[job.source.name] = self._sizes.get(job.source.name, 0) + job.source.size
            self._all = self._bars.add_task(f"all {len(plan.to_do)} files", total=max(1, sum(self._sizes.values())))

    def told(self, event: Progress) -> None:
        if event.stage == "download":
            self._bar(event.subject, event)
        else:
            super().told(event)

    def progress(self, job: Job, event: Progress) -> None:
        if event.stage == "warning":
            self.warn(event.message)
        else:
            self._bar(job.source.name, event)

    def _bar(self, name: str, event: Progress) -> None:
        with self._mutex:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(_short(name), total=event.total)
            scanning = event.stage == "scan"
            text = f"{_short(name)} (first pass)" if scanning else _short(name)
            self._bars.update(self._tasks[name], completed=event.done, total=event.total, description=text)
            if event.total and not scanning:
                self._share(name, min(1.0, event.done / event.total))

    def _share(self, name: str, share: float) -> None:
        if self._all is not None:
            self._shares[name] = share
            done = sum(self._sizes.get(other, 0) * part for other, part in self._shares.items())
            self._bars.update(self._all, completed=done)

    def finished(self, result: Result) -> None:
        with self._mutex:
            if (task := self._tasks.pop(result.name, None)) is not None:
                self._bars.remove_task(task)
            if result.name in self._sizes:
                self._share(result.name, 1.0)
        super().finished(result)

    def paths(self, result: Result) -> None:
        if not sys.stdout.isatty():
            super().paths(result)
            return
        for path in result.outputs.values():  # on one terminal everything goes through the bars
            _terminal.line(str(path))


class PipeBarView(BarView):
    """Bars, with the audio itself on standard output."""

    def paths(self, result: Result) -> None:
        pass


def choose_view(*, as_json: bool, to_pipe: bool) -> View:
    """The view for this terminal and these wishes."""
    if as_json:
        return JsonView()
    if _terminal.verbosity() >= 0 and sys.stderr.isatty():
        return PipeBarView() if to_pipe else BarView()
    return PipeView() if to_pipe else View()


# ---------------------------------------------------------------- words


def _how_it_went(result: Result) -> str:
    found = result.separation
    if found is None:
        return "skipped, " + (result.message or "done before")
    speed = f" ({found.duration / result.seconds:.1f} times real time)" if result.seconds > 0 else ""
    parts = [f"{', '.join(result.outputs)} in {_clock(result.seconds)}{speed}"]
    if found.residual_db is not None:
        parts.append(f"residual {found.residual_db:.1f} dB")
    if found.gain_db:
        parts.append(f"gain {found.gain_db:.2f} dB")
    return "; ".join(parts)


def _percent(event: Progress) -> str:
    if event.total:
        return f"{100 * min(1.0, event.done / event.total):.0f} %"
    return _clock(event.done) if event.unit == "seconds" else f"{event.done / 1e6:.1f} MB"


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _short(name: str, width: int = 40) -> str:
    text = _terminal.plain(name)
    return text if len(text) <= width else f"…{text[1 - width :]}"


def _strings(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}
