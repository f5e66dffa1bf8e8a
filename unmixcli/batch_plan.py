"""Plan a run: where each input's results go, no two in the same place, and what has to be done. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unmixcli.errors import InputError, UnmixError
from unmixcli.inputs import InputFile, Inputs
from unmixcli.record import Record
from unmixcli.resume import Decision, decide
from unmixcli.separator import Separation, Separator

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Job:
    """One input and what is to happen to it.

    Attributes:
        targets: output name -> path of the finished file.
        decision: separate, skip or refuse, and why.
    """

    source: InputFile
    targets: Mapping[str, Path]
    decision: Decision = field(default_factory=Decision)


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Attributes:
        name: of the input, as `InputFile.name`, or the path of what could not be read.
        status: "done", "skipped" (complete from an earlier run) or "failed".
        outputs: output name -> path, complete; empty if it failed.
        message: why it failed or was skipped.
        hint: what to do about it.
        seconds: time it took.
        separation: level of the residual, gain, notes …; None unless done.
        path: of the input; None if there was none.
    """

    name: str
    status: Status
    outputs: Mapping[str, Path] = field(default_factory=dict)
    message: str = ""
    hint: str | None = None
    seconds: float = 0.0
    separation: Separation | None = None
    path: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        folder: of the results.
        jobs: in order.
        problems: results of what could not even be read.
        notes: sentences about names that had to be told apart, and files left out.
        settings: what decides the content of results, see `batch_settings`.
    """

    folder: Path
    jobs: tuple[Job, ...]
    problems: tuple[Result, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def to_do(self) -> tuple[Job, ...]:
        """Jobs that need work."""
        return tuple(job for job in self.jobs if job.decision.action == "separate")


def plan_batch(inputs: Inputs, separator: Separator, folder: Path) -> Plan:
    """Decide where results go and what has to be done. Writes nothing.

    Args:
        folder: of the results; sub-folders of the inputs are kept below it.
    """
    settings = batch_settings(separator)
    record = Record(folder)
    problems = [
        Result(str(p.path), "failed", message=str(p.error), hint=p.error.hint, path=p.path) for p in inputs.problems
    ]
    named, notes = _tell_apart(inputs.files, separator, folder, problems)
    if inputs.left_out:
        notes.append(f"left out {inputs.left_out} files that earlier runs wrote")
    originals = {os.path.realpath(file.path) for file in inputs.files}
    jobs = []
    for source, targets in named:
        onto = next((path for path in targets.values() if os.path.realpath(path) in originals), None)
        if onto is not None:
            message = f"{source.name}: the result {onto} would replace an input."
            decision = Decision("refuse", message=message, hint="choose another --output or --template.")
        else:
            decision = decide(source, targets, record, settings, separator.options)
        jobs.append(Job(source, targets, decision))
    return Plan(folder, tuple(jobs), tuple(problems), tuple(notes), settings)


def batch_settings(separator: Separator) -> dict[str, Any]:
    """What decides the content of results: the options that matter, and the model with the hashes of its weights.

    Not the device: a run that was stopped may go on elsewhere. Nor `model` and `quality` as they were typed: the
    model they led to counts. Nor where the files lie.
    """
    options = separator.options.result_fields()
    # an ensemble's entry tells of the combination and the weights
    for name in ("device", "model", "quality", "template", "combine", "weights"):
        options.pop(name, None)
    if not separator.options.shifts:
        options.pop("seed", None)
    for name in ("tta", "keep_backing"):  # what isn't done needs no mention
        if not options.get(name):
            options.pop(name, None)
    options["format"] = separator.options.format or "wav"
    entry = separator.entry
    weights = {file.part: file.expected_hash for file in entry.files}
    model = {"name": entry.name, "architecture": entry.architecture, "config": dict(entry.config), "weights": weights}
    return {"options": options, "model": model}


def _distinct_track(source: InputFile, step: int, index: int) -> str:
    """The word for {track}, at each step with more behind it, for inputs that would share a target."""
    suffix = source.path.suffix.lstrip(".") or "no suffix"
    if step == 0:
        return source.track
    if step == 1:
        return f"{source.track} ({suffix})"
    longest = f"{source.track} ({source.path.absolute().parent.name}, {suffix})"
    return longest if step == 2 else f"{longest} {index + 1}"


_LAST_STEP = 3


def _tell_apart(
    files: Sequence[InputFile], separator: Separator, folder: Path, problems: list[Result]
) -> tuple[list[tuple[InputFile, dict[str, Path]]], list[str]]:
    """Targets of every file, no two of them the same, however a file system folds letter case.

    Names depend on which inputs there are, not on their order: of song.mp3 and song.wav neither stays plain "song".
    """
    level = dict.fromkeys(range(len(files)), 0)
    targets: dict[int, dict[str, Path]] = {}
    notes: dict[int, str] = {}

    def place(index: int) -> None:
        source, step = files[index], level[index]
        track = _distinct_track(source, step, index)
        try:
            targets[index] = separator.targets_for(source.path, folder / source.subfolder, track=track)
        except InputError as error:
            problems.append(Result(source.name, "failed", message=named(error, source), hint=error.hint))
            targets.pop(index, None)
        if step:
            notes[index] = f"{source.name}: named {track!r}, as another input has the same name"

    changed = list(range(len(files)))
    for _ in range(_LAST_STEP + 1):
        for index in changed:
            place(index)
        changed = _clashing(targets)
        for index in changed:
            level[index] += 1
        if not changed:
            break
    for index in changed:
        problems.append(
            Result(
                files[index].name,
                "failed",
                message=f"{files[index].name}: another input would have the same result, {_first(targets.pop(index))}.",
                hint="put {track} into the template.",
            )
        )
        notes.pop(index, None)
    return [(files[index], targets[index]) for index in sorted(targets)], [notes[index] for index in sorted(notes)]


def _clashing(targets: Mapping[int, Mapping[str, Path]]) -> list[int]:
    """Indices of inputs of which a target is another input's too."""
    users: dict[str, list[int]] = {}
    for index, paths in targets.items():
        for path in paths.values():
            users.setdefault(str(path).casefold(), []).append(index)
    return sorted({index for group in users.values() if len(group) > 1 for index in group})


def named(error: UnmixError, source: InputFile) -> str:
    """The message, with the name the user knows the input by, at its head if it isn't in it."""
    message = str(error)
    if source.mtime_ns is None:  # a temporary copy, of which the user knows nothing
        message = message.replace(str(source.path), source.name)
    return message if str(source.path) in message or source.name in message else f"{source.name}: {message}"


def _first(targets: Mapping[str, Path]) -> Path:
    return next(iter(targets.values()))
