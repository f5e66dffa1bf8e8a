"""`unmix separate`, the default command: plan, run, tell."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmixcli.cli import _terminal
from unmixcli.cli._options import SectionCommand, separation_options, to_options
from unmixcli.options import Options

if TYPE_CHECKING:
    from unmixcli.batch import Plan, Summary
    from unmixcli.cli._progress import View
    from unmixcli.inputs import Inputs
    from unmixcli.separator import Separator

PIPE = "-"


@click.command(cls=SectionCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path())
@separation_options()
@click.option("--plot", is_flag=True, help="Draw mixture, stems and masks as spectrograms, in a picture beside the "
              "stems (needs the extra: plot).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per event on standard output.")
@_terminal.verbosity_options
def separate(inputs: tuple[str, ...], plot: bool, as_json: bool, **values: Any) -> None:
    """Separate files and folders into stems.

    INPUT is an audio or video file, a folder (with all that lies in it), or - for standard input. A second run of the
    same command does only what is missing. Written paths go to standard output, everything else to standard error.
    """
    options = to_options(values)
    to_pipe = options.output == PIPE
    check_pipes(inputs, options, as_json)
    if plot:
        _check_plot(options)
    if to_pipe and options.format in (None, "wav") and options.bit_depth is None:
        options = replace(options, bit_depth="32f")
    with contextlib.ExitStack() as stack:
        folder = Path(pipe_folder(stack) if to_pipe else options.output or "separated")
        found = find_files(stack, inputs, folder)
        if not found.files:  # no model is needed to say so
            _nothing_to_do(found, inputs)
        from unmixcli.cli._memory import prepare_memory

        prepare_memory(options.model, options.stems, options.quality)
        from unmixcli.cli._progress import choose_view
        from unmixcli.separator import Separator

        view = choose_view(as_json=as_json, to_pipe=to_pipe)
        with view:
            separator = Separator(options=options, on_progress=view.told)
            plan = _plan(found, separator, folder, to_pipe)
            summary = None if options.dry_run else _run(plan, separator, view, stack)
        if summary is None:
            from unmixcli.cli._dry_run import show_plan

            complete = show_plan(plan, separator, as_json=as_json)
        else:
            view.summary(summary)
            complete = summary.complete
            if plot:
                complete = _draw(plan, separator, as_json=as_json) and complete
            if to_pipe and complete:
                pour(next(iter(plan.jobs[0].targets.values())))
    click.get_current_context().exit(0 if complete else 1)


def check_pipes(inputs: Sequence[str], options: Options, as_json: bool) -> None:
    if PIPE in inputs and sys.stdin.isatty():
        raise click.UsageError("- reads standard input, but that is a terminal: pipe a file into unmix.")
    if options.output != PIPE:
        return
    if len(inputs) != 1 or Path(inputs[0]).is_dir():
        raise click.UsageError("-o - writes one stem of one file to standard output; give one input file.")
    if as_json:
        raise click.UsageError("-o - and --json both write to standard output; choose one.")
    if sys.stdout.isatty() and not options.dry_run:
        raise click.UsageError("-o - writes audio to standard output, but that is a terminal: pipe it or redirect it.")


def pipe_folder(stack: contextlib.ExitStack) -> str:
    folder = tempfile.mkdtemp(prefix="unmix-output-")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def find_files(stack: contextlib.ExitStack, paths: Sequence[str], folder: Path) -> Inputs:
    """The input files; standard input is copied to a temporary file, as nothing in it can be read twice."""
    _guess_command(paths)
    from unmixcli.inputs import Inputs, find_inputs, input_file

    found = Inputs()
    for path in dict.fromkeys(paths):
        if path == PIPE:
            from unmixcli.audio.decode import spool_stdin

            spooled = Path(spool_stdin(sys.stdin.buffer))
            stack.callback(spooled.unlink, missing_ok=True)
            found.files.append(input_file(spooled, name="standard input", track="stdin", timeless=True))
    files = find_inputs([path for path in paths if path != PIPE], output=folder)
    found.files += files.files
    found.problems, found.left_out = files.problems, files.left_out
    return found


def _nothing_to_do(found: Inputs, paths: Sequence[str]) -> None:
    for problem in found.problems:
        _terminal.error(str(problem.error), problem.error.hint)
    if not found.problems:
        written = f" ({found.left_out} were left out, as earlier runs wrote them)" if found.left_out else ""
        _terminal.error(f"there is no audio file in {', '.join(paths)}{written}.")
    click.get_current_context().exit(1)


def _guess_command(paths: Sequence[str]) -> None:
    """A first word that is no file but nearly a command was meant as one."""
    import difflib

    from unmixcli.cli import COMMANDS

    word = paths[0]
    if os.path.lexists(word) or not word.isalpha():
        return
    near = difflib.get_close_matches(word.lower(), COMMANDS, n=1, cutoff=0.7)
    if near:
        raise click.UsageError(f"there is no file or command {word!r}. Did you mean `unmix {near[0]}`?")


def _plan(found: Inputs, separator: Separator, folder: Path, to_pipe: bool) -> Plan:
    from unmixcli.batch import plan_batch

    plan = plan_batch(found, separator, folder)
    if to_pipe and plan.jobs and len(plan.jobs[0].targets) != 1:
        names = ", ".join(plan.jobs[0].targets)
        raise click.UsageError(
            f"-o - writes one stem, {separator.entry.name} would give {names}: choose with --stems or --minus."
        )
    return plan


def _run(plan: Plan, separator: Separator, view: View, stack: contextlib.ExitStack) -> Summary:
    from unmixcli.batch import Interrupted, run_batch
    from unmixcli.device import device_title

    entry = separator.entry
    facts = {
        "model": entry.name,
        "title": f"{entry.name} ({entry.title})",
        "licence": entry.licence.name,
        "device": device_title(separator.device),
    }
    view.run(plan, facts)
    try:
        return run_batch(plan, separator, listener=view)
    except Interrupted as stop:
        view.__exit__()
        view.summary(stop.summary)
        _terminal.error("interrupted; nothing half-written is left.", "the same command goes on where it stopped.")
        if stop.stuck:  # a device is busy with a segment, and nothing can be lost any more
            with _quietly():
                stack.close()
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(130)
        click.get_current_context().exit(130)


def _check_plot(options: Options) -> None:
    if options.output == PIPE or options.format == "stem.mp4":
        raise click.UsageError("--plot draws stems that are files of their own: not with -o - or --format stem.mp4.")
    from unmixcli.evaluation.plot import check_plot

    check_plot(Path("spectrograms.png"))


def _draw(plan: Plan, separator: Separator, *, as_json: bool) -> bool:
    """A picture for every input whose stems are complete, also those of an earlier run; False if one can't be."""
    from unmixcli.errors import UnmixError
    from unmixcli.evaluation.spectrograms import draw_files

    options, drawn = separator.options, True
    for job in plan.jobs:
        if not all(path.is_file() for path in job.targets.values()):
            continue
        folder = Path(os.path.commonpath([path.parent for path in job.targets.values()]))
        # Stems in a folder of their own need no more than that; in a common one the track's name tells them apart.
        apart = all(path.parent.name == job.source.track for path in job.targets.values())
        target = folder / ("spectrograms.png" if apart else f"{job.source.track} spectrograms.png")
        try:
            draw_files(
                target, job.source.path, job.targets, track=options.track, start=options.start or 0.0, end=options.end,
                title=f"{job.source.name} · {separator.entry.name}",
            )  # fmt: skip
        except UnmixError as error:
            _terminal.error(f"{target}: {error}", error.hint)
            drawn = False
            continue
        if not as_json:
            _terminal.result(str(target))
    return drawn


def pour(path: Path) -> None:
    """A finished file to standard output."""
    stream = sys.stdout.buffer
    with path.open("rb") as file:
        shutil.copyfileobj(file, stream, 1 << 20)
    stream.flush()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with contextlib.suppress(Exception):
        yield
