"""`unmix karaoke`: songs without their lead vocal, as finished tracks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from unmixcli.cli import _terminal
from unmixcli.cli._options import HOW, WHAT, WHERE, SectionCommand, SectionOption, separation_options
from unmixcli.cli.separate import PIPE, check_pipes, find_files, pipe_folder, pour
from unmixcli.options import Format

if TYPE_CHECKING:
    from unmixcli.batch import Plan, Summary
    from unmixcli.cli._progress import View
    from unmixcli.inputs import InputFile, Inputs
    from unmixcli.karaoke import KaraokeOptions, KaraokeSeparator

_FORMATS = [name for name in get_args(Format) if name != "stem.mp4"]


class _Guide(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A level in dB: -18dB, or off."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        from unmixcli.karaoke import parse_guide

        return parse_guide(value) if isinstance(value, str) else value


class _Tempo(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A factor: 0.9 or 90%."""

    name = "factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from unmixcli.karaoke import parse_tempo

        return parse_tempo(value) if isinstance(value, str) else float(value)


class _Section(SectionOption):
    def __init__(self, *args: Any, section: str, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.section = section


@click.command(cls=SectionCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@click.option(
    "--keep-backing",
    cls=_Section,
    section=WHAT,
    is_flag=True,
    default=None,
    help="Leave the backing vocals in and take out the lead alone; needs models that tell them apart.",
)
@click.option(
    "--guide",
    cls=_Section,
    section=WHAT,
    type=_Guide(),
    metavar="LEVEL",
    help="Leave the lead vocal in at this level, as a guide for the singer: -18dB; 0 is as it was.",
)
@click.option(
    "--key",
    cls=_Section,
    section=HOW,
    type=float,
    metavar="SEMITONES",
    help="Another key: +2 is a whole tone up, -3 a minor third down; fractions are fine.",
)
@click.option(
    "--tempo",
    cls=_Section,
    section=HOW,
    type=_Tempo(),
    metavar="FACTOR",
    help="Another tempo: 0.9 or 90% is a tenth slower. The picture of a video goes along.",
)
@click.option(
    "-o",
    "--output",
    cls=_Section,
    section=WHERE,
    metavar="PLACE",
    help="Folder for the results, the name of the result, or - for standard output (default: beside the input).",
)
@click.option(
    "-f",
    "--format",
    "format",
    cls=_Section,
    section=WHERE,
    type=click.Choice(_FORMATS, case_sensitive=False),
    help="Format of the results (default: as the input). For a video: the sound alone.",
)
@separation_options("stems", "minus", "labels", "template", "output", "format")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event on standard output.")
@_terminal.verbosity_options
def karaoke(inputs: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Make karaoke tracks: songs and videos without their lead vocal.

    The result is called "NAME (karaoke)" and is as the input: format, rate, channels, tags, cover, pictures. INPUT is a
    file, a folder (with all that lies in it), or - for standard input. Run it again to do only what is missing.

    \b
      unmix karaoke song.mp3
      unmix karaoke song.mp3 --guide -18dB --key +2 --tempo 90%
      unmix karaoke video.mp4
    """  # fmt: skip
    from unmixcli.cli._memory import prepare_memory

    prepare_memory(values.get("model") or "auto", ("vocals",), values.get("quality") or "balanced")
    from unmixcli.karaoke import KaraokeOptions

    options = KaraokeOptions(**{name: value for name, value in values.items() if value is not None})
    to_pipe = options.output == PIPE
    check_pipes(inputs, options, as_json)
    with contextlib.ExitStack() as stack:
        from unmixcli.cli._progress import choose_view

        place = Path(pipe_folder(stack)) if to_pipe else None if options.output is None else Path(options.output)
        target = None if to_pipe or place is None else _named_file(inputs, place)
        if target is not None:
            options = _with_format_of(target, options)
        groups = _groups(stack, inputs, target.parent if target else place)
        if not any(found.files or found.problems for found in groups.values()):
            raise click.UsageError(f"there is no audio file in {', '.join(inputs)} that isn't a karaoke track already.")
        view = choose_view(as_json=as_json, to_pipe=to_pipe)
        with view:
            complete = _work(groups, options, target, view, stack, as_json, to_pipe)
    click.get_current_context().exit(0 if complete else 1)


def _work(
    groups: dict[Path, Inputs],
    options: KaraokeOptions,
    target: Path | None,
    view: View,
    stack: contextlib.ExitStack,
    as_json: bool,
    to_pipe: bool,
) -> bool:
    """Plan and run; True if all that was asked for is there."""
    from unmixcli.batch import plan_batch
    from unmixcli.karaoke import KaraokeSeparator

    separator = KaraokeSeparator(options=options, target=target, on_progress=view.told)
    plans = [plan_batch(found, separator, folder) for folder, found in groups.items()]
    if options.dry_run:
        from unmixcli.cli._dry_run import show_plan

        return show_plan(_together(plans), separator, as_json=as_json)
    summary = _run(plans, separator, view, stack)
    view.summary(summary)
    if to_pipe and summary.complete:
        pour(next(iter(plans[0].jobs[0].targets.values())))
    return summary.complete


def _named_file(inputs: Sequence[str], place: Path) -> Path | None:
    """The result's own name, where -o is one; None where it is a folder."""
    from unmixcli.audio.decode import AUDIO_SUFFIXES

    if place.suffix.lower() not in AUDIO_SUFFIXES or place.is_dir():
        return None
    if len(inputs) != 1 or Path(inputs[0]).is_dir():
        raise click.UsageError(f"-o {place} names one file, but there are several inputs; name a folder.")
    return place


def _with_format_of(target: Path, options: KaraokeOptions) -> KaraokeOptions:
    from unmixcli.karaoke import format_for

    return options if options.format is not None else replace(options, format=format_for(target))


def _groups(stack: contextlib.ExitStack, inputs: Sequence[str], place: Path | None) -> dict[Path, Inputs]:
    """Folder for results -> its inputs. Without a place that is each input's own folder."""
    groups: dict[Path, list[str]] = {}
    for given in dict.fromkeys(inputs):
        path = Path(given)
        own = Path() if given == PIPE else path if path.is_dir() else path.parent
        groups.setdefault(place or own, []).append(given)
    folders = [Path(given) for given in inputs if given != PIPE and Path(given).is_dir()]
    found = {folder: find_files(stack, paths, folder) for folder, paths in groups.items()}
    for each in found.values():
        each.files = [file for file in each.files if not _made_before(file, folders, inputs)]
    return found


def _made_before(file: InputFile, folders: Sequence[Path], inputs: Sequence[str]) -> bool:
    """A karaoke track that a scan of a folder came across."""
    return file.track.lower().endswith("(karaoke)") and bool(folders) and str(file.path) not in inputs


def _together(plans: Sequence[Plan]) -> Plan:
    """Several plans as one, to be shown."""
    jobs = tuple(job for plan in plans for job in plan.jobs)
    problems = tuple(problem for plan in plans for problem in plan.problems)
    notes = tuple(note for plan in plans for note in plan.notes)
    return replace(plans[0], jobs=jobs, problems=problems, notes=notes)


def _run(plans: Sequence[Plan], separator: KaraokeSeparator, view: View, stack: contextlib.ExitStack) -> Summary:
    from unmixcli.batch import Interrupted, run_batch
    from unmixcli.device import device_title

    entry = separator.entry
    facts = {
        "model": entry.name,
        "title": f"{entry.name} ({entry.title})",
        "licence": entry.licence.name,
        "device": device_title(separator.device),
    }
    view.run(_together(plans), facts)
    summaries: list[Summary] = []  # grows plan by plan: after an interruption it tells how far the run came
    try:
        summaries.extend(run_batch(plan, separator, listener=view) for plan in plans)
    except Interrupted as stop:
        later = sum(len(plan.jobs) + len(plan.problems) for plan in plans[len(summaries) + 1 :])
        view.__exit__()
        view.summary(_sum([*summaries, stop.summary], later))
        _terminal.error("interrupted; nothing half-written is left.", "the same command goes on where it stopped.")
        if stop.stuck:  # a device is busy with a segment, and nothing can be lost any more
            with contextlib.suppress(Exception):
                stack.close()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(130)
        click.get_current_context().exit(130)
    return _sum(summaries, 0)


def _sum(summaries: Sequence[Summary], later: int) -> Summary:
    from unmixcli.batch import Summary

    results = tuple(result for summary in summaries for result in summary.results)
    seconds = sum(summary.seconds for summary in summaries)
    return Summary(results, later + sum(summary.not_tried for summary in summaries), seconds)
