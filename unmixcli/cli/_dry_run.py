"""`--dry-run`: what a run would do, and what it would need, without writing anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from unmixcli.audio.decode import AudioInfo, probe
from unmixcli.audio.encode import LOSSLESS, default_bitrate, plan_sample_type
from unmixcli.batch import Job, Plan
from unmixcli.cache import is_cached
from unmixcli.cli import _terminal
from unmixcli.device import device_title
from unmixcli.errors import UnmixError
from unmixcli.options import Options
from unmixcli.separator import Separator
from unmixcli.sinks import Encoding

_BYTES = {"u8": 1, "s8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}


@dataclass(frozen=True)
class Forecast:
    """What one input would need.

    Attributes:
        action: "separate", "skip", "refuse", or "fail" for what can't be read.
        seconds: of audio in each result; None where the file doesn't say.
        result_bytes: of all results, at most; None where the length is not known.
        spool_bytes: of temporary files beside them while it is worked on.
    """

    job: Job
    action: str
    message: str = ""
    hint: str | None = None
    seconds: float | None = None
    result_bytes: int | None = None
    spool_bytes: int | None = None


def show_plan(plan: Plan, separator: Separator, *, as_json: bool) -> bool:
    """Print the plan on standard output. Returns False if something in it would fail."""
    forecasts = [_forecast(job, separator) for job in plan.jobs]
    facts = _facts(plan, separator, forecasts)
    failing = [forecast for forecast in forecasts if forecast.action in ("refuse", "fail")]
    if as_json:
        _as_json(plan, forecasts, facts)
    else:
        _as_text(plan, forecasts, facts)
    for problem in plan.problems:
        _terminal.error(problem.message, problem.hint)
    for forecast in failing:
        _terminal.error(forecast.message, forecast.hint)
    return not failing and not plan.problems


def _forecast(job: Job, separator: Separator) -> Forecast:
    decision = job.decision
    if decision.action != "separate":
        return Forecast(job, decision.action, decision.message, decision.hint)
    try:
        info = probe(job.source.path, track=separator.options.track)
    except UnmixError as error:
        return Forecast(job, "fail", str(error), error.hint)
    seconds = _seconds(info, separator.options)
    if seconds is None:
        return Forecast(job, "separate", decision.message)
    count = len(separator.plan.names)
    result, spool = _bytes_per_second(info, separator.encoding(info))
    return Forecast(
        job,
        "separate",
        decision.message,
        seconds=seconds,
        result_bytes=round(seconds * count * result),
        spool_bytes=round(seconds * count * spool),
    )


def _seconds(info: AudioInfo, options: Options) -> float | None:
    if info.duration is None:
        return None
    end = info.duration if options.end is None else min(options.end, info.duration)
    return max(0.0, end - (options.start or 0.0))


def _bytes_per_second(info: AudioInfo, encoding: Encoding) -> tuple[float, float]:
    """Of one result and of its spool: an upper limit, as nobody knows how far FLAC and ALAC will come down."""
    samples = info.sample_rate * info.channels
    spool = 0 if encoding.holds_any_level or encoding.clipping == "clamp" else samples * 4
    if encoding.format in LOSSLESS:
        stored, _ = plan_sample_type(encoding.format, encoding.sample_type)
        return samples * _BYTES[stored], spool
    bitrate = encoding.bitrate or default_bitrate(encoding.format, info.channels) or 0
    return bitrate * 125.0, spool


def _facts(plan: Plan, separator: Separator, forecasts: Sequence[Forecast]) -> dict[str, Any]:
    entry, options = separator.entry, separator.options
    to_do = [forecast for forecast in forecasts if forecast.action == "separate"]
    missing = [
        member.entry.file(part)
        for member in separator.members
        for part in member.parts
        if not is_cached(member.entry, [part])
    ]
    sizes = [file.size for file in missing]
    spools = sorted((forecast.spool_bytes or 0 for forecast in to_do), reverse=True)
    disk = sum(forecast.result_bytes or 0 for forecast in to_do) + sum(spools[: options.jobs])
    return {
        "model": entry.name,
        "title": entry.title,
        "licence": entry.licence.name,
        "device": device_title(separator.device),
        "stems": list(separator.plan.names),
        "output": str(plan.folder),
        "inputs": len(forecasts) + len(plan.problems),
        "to_do": len(to_do),
        "skipped": sum(forecast.action == "skip" for forecast in forecasts),
        "seconds": sum(forecast.seconds or 0.0 for forecast in to_do),
        "unknown_lengths": sum(forecast.seconds is None for forecast in to_do),
        "disk_bytes": disk,
        "free_bytes": _free(plan.folder),
        "download_files": [file.name for file in missing],
        "download_bytes": None if None in sizes else sum(size for size in sizes if size is not None),
    }


def _free(folder: Path) -> int | None:
    """Bytes free where the folder is or would be."""
    for place in [folder.absolute(), *folder.absolute().parents]:
        if os.path.lexists(place):
            try:
                return shutil.disk_usage(place).free
            except OSError:
                return None
    return None


def _as_json(plan: Plan, forecasts: Sequence[Forecast], facts: dict[str, Any]) -> None:
    for forecast in forecasts:
        values = {
            "event": "planned",
            "input": forecast.job.source.name,
            "action": forecast.action,
            "outputs": {name: str(path) for name, path in forecast.job.targets.items()},
            "message": forecast.message,
            "hint": forecast.hint,
            "seconds": forecast.seconds,
            "result_bytes": forecast.result_bytes,
        }
        click.echo(json.dumps(values))
    click.echo(json.dumps({"event": "plan", **facts, "notes": list(plan.notes)}))


def _as_text(plan: Plan, forecasts: Sequence[Forecast], facts: dict[str, Any]) -> None:
    for forecast in forecasts:
        length = "" if forecast.seconds is None else f" ({_minutes(forecast.seconds)})"
        because = f": {forecast.message}" if forecast.action == "skip" or forecast.message else ""
        if forecast.action in ("refuse", "fail"):
            because = " (see below)"
        _terminal.result(f"{forecast.action:8} {_terminal.plain(forecast.job.source.name)}{length}{because}")
        if forecast.action == "separate":
            for path in forecast.job.targets.values():
                _terminal.result(f"         → {_terminal.plain(str(path))}")
    for text in plan.notes:
        _terminal.result(f"note     {_terminal.plain(text)}")
    unknown = f", and {facts['unknown_lengths']} of unknown length" if facts["unknown_lengths"] else ""
    _terminal.result(f"inputs   {facts['inputs']}: {facts['to_do']} to do, {facts['skipped']} done before")
    _terminal.result(f"audio    {_minutes(facts['seconds'])} to separate{unknown}")
    free = "" if facts["free_bytes"] is None else f"; {_megabytes(facts['free_bytes'])} are free"
    _terminal.result(f"disk     at most {_megabytes(facts['disk_bytes'])}, temporary files included{free}")
    _terminal.result(f"model    {facts['model']} ({facts['title']}), licence: {facts['licence']}")
    if facts["download_files"]:
        size = "size unknown" if facts["download_bytes"] is None else _megabytes(facts["download_bytes"])
        _terminal.result(f"download {len(facts['download_files'])} files, {size}")
    _terminal.result(f"device   {facts['device']}")


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d} min"


def _megabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
