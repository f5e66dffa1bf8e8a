"""The options of a separation at the command line: one row each, its field of `Options` and its help.

An option that isn't typed is left to the default of `Options`, which is also what the help shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import click

from unmixcli.options import BitDepth, Clipping, Combine, Format, Options, PostFilter, Precision, Quality

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A time: 90, 1:30 or 1:02:03.5."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        parts = str(value).strip().split(":")
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        valid = (
            1 <= len(numbers) <= 3
            and all(0 <= number < 1e7 for number in numbers)  # neither NaN nor infinite
            and all(part.strip().isdigit() for part in parts[:-1])
            and all(number < 60 for number in numbers[1:])
        )
        if not valid:
            self.fail(f"{value!r} is not a time; write 90, 1:30 or 1:02:03.5.", param, ctx)
        total = 0.0
        for number in numbers:
            total = 60 * total + number
        return total


class Kilobits(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A bit rate in kbit/s: 192 or 192k."""

    name = "kbit/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().lower().removesuffix("k")
        if not text.isdigit():
            self.fail(f"{value!r} is not a bit rate; write 192 or 192k.", param, ctx)
        return int(text)


@dataclass(frozen=True)
class Row:
    """One option.

    Attributes:
        field: of `Options`.
        flags: as typed.
        section: of the help.
        help: without the default, which is added from `Options`.
        extra: further arguments of `click.Option`.
    """

    field: str
    flags: tuple[str, ...]
    section: str
    help: str
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _one_of(literal: Any) -> dict[str, Any]:
    return {"type": click.Choice(get_args(literal), case_sensitive=False)}


WHAT, WHERE, HOW, RUN = "What to separate", "Where results go", "How it is computed", "How the run goes"

ROWS: tuple[Row, ...] = (
    Row("model", ("-m", "--model"), WHAT, "Model by name or alias; auto takes the recommended one. See `unmix models "
        "list`. Several, joined with +, are combined stem by stem.", {"metavar": "NAME[+NAME...]"}),
    Row("quality", ("--quality",), WHAT, "With --model auto: what the recommendation is for.", _one_of(Quality)),
    Row("stems", ("-s", "--stems"), WHAT, "Only these stems. Also: accompaniment, no_NAME, rest, residual.",
        {"metavar": "A,B"}),
    Row("minus", ("--minus",), WHAT, "The mixture without these stems, as one result.", {"metavar": "A,B"}),
    Row("labels", ("--labels",), WHAT, "Of models that are told which instruments play: these do.", {"metavar": "A,B"}),
    Row("start", ("--from",), WHAT, "Write nothing before this time: 90, 1:30 or 1:02:03.5. An excerpt equals the same "
        "part of the full result.", {"type": Seconds()}),
    Row("end", ("--to",), WHAT, "Write nothing from this time on.", {"type": Seconds()}),
    Row("track", ("--track",), WHAT, "Audio track of files with several, such as films; 0 is the first.",
        {"type": int, "metavar": "N"}),
    Row("output", ("-o", "--output"), WHERE, "Folder for the results (default: separated), or - for standard output.",
        {"metavar": "FOLDER"}),
    Row("template", ("--template",), WHERE, "Path of each result in the folder, of {track} {stem} {model} {artist} "
        "{title} {album} {ext}.", {"metavar": "TEXT"}),
    Row("format", ("-f", "--format"), WHERE, "Format of the results (default: wav).", _one_of(Format)),
    Row("bit_depth", ("--bit-depth",), WHERE, "Of wav, flac, aiff and alac; 32f is floating point (default: as the "
        "input).", _one_of(BitDepth)),
    Row("bitrate", ("--bitrate",), WHERE, "Of mp3, m4a, ogg, opus and stem.mp4, in kbit/s.", {"type": Kilobits()}),
    Row("clipping", ("--clipping",), WHERE, "Where a result exceeds full scale and the format can't hold that: turn "
        "down all stems of the track together, or cut the peaks.", _one_of(Clipping)),
    Row("overwrite", ("--overwrite",), WHERE, "Replace results that exist and are not of this input, model and "
        "settings.", {"is_flag": True}),
    Row("residual", ("--residual",), HOW, "What to do with what no stem holds: spread it evenly, ignore it, write it "
        "to a file of its own (file), or add:STEM.", {"metavar": "spread|ignore|file|add:STEM"}),
    Row("postfilter", ("--postfilter",), HOW, "Filter the estimates of any model. logit sharpens masks; take "
        "--residual ignore with it.", _one_of(PostFilter)),
    Row("iterations", ("--iterations",), HOW, "Of the post-filter, or of the filter inside the model.",
        {"type": int, "metavar": "N"}),
    Row("residual_model", ("--residual-model",), HOW, "Give the post-filter one more source for what no stem explains.",
        {"is_flag": True}),
    Row("combine", ("--combine",), HOW, "With several models: their average or median, or in each bin of a spectrogram "
        "the quietest (min_fft), the loudest (max_fft) or the average (avg_fft).", _one_of(Combine)),
    Row("weights", ("--weights",), HOW, "With several models: how much each counts, in the order of --model; 2,1 for "
        "all stems, vocals=1,3 for one (may be repeated); one that counts 0 is not run.",
        {"multiple": True, "metavar": "[STEM=]W,W..."}),
    Row("tta", ("--tta",), HOW, "Average the model over left and right swapped and over both polarities: three times "
        "the time, a little better.", {"is_flag": True}),
    Row("shifts", ("--shifts",), HOW, "Average this many runs with random time shifts: slower, a little better.",
        {"type": int, "metavar": "N"}),
    Row("seed", ("--seed",), HOW, "Of everything random.", {"type": int, "metavar": "N"}),
    Row("segment", ("--segment",), HOW, "Seconds the model sees at once (default: the model's); less needs less "
        "memory.", {"type": float, "metavar": "SECONDS"}),
    Row("overlap", ("--overlap",), HOW, "Fraction that neighbouring segments share, 0 to below 1 (default: the "
        "model's).", {"type": float, "metavar": "FRACTION"}),
    Row("device", ("-d", "--device"), RUN, "auto, cpu, cuda, cuda:N or mps.", {"metavar": "NAME"}),
    Row("precision", ("--precision",), RUN, "Of the computation; auto is fp32.", _one_of(Precision)),
    Row("batch_size", ("--batch-size",), RUN, "Segments computed at once (default: by device).",
        {"type": int, "metavar": "N"}),
    Row("jobs", ("-j", "--jobs"), RUN, "Files worked on at the same time; the model is loaded once.",
        {"type": int, "metavar": "N"}),
    Row("resume", ("--resume/--no-resume",), RUN, "Skip files whose results are complete.", {"is_flag": True}),
    Row("offline", ("--offline",), RUN, "Use no network.", {"is_flag": True}),
    Row("dry_run", ("--dry-run",), RUN, "Show what would be done, and write nothing.", {"is_flag": True}),
)  # fmt: skip

_DEFAULTS = {item.name: item.default for item in dataclasses.fields(Options)}


class SectionOption(click.Option):
    """An option that knows its section of the help."""

    section = RUN


def separation_options(*without: str) -> Callable[[F], F]:
    """Add the options of a separation to a command, as keyword arguments named like the fields of `Options`.

    Args:
        without: fields that the command decides itself.
    """

    def add(command: F) -> F:
        for row in reversed(ROWS):
            if row.field not in without:
                command = click.option(*row.flags, row.field, cls=_section(row), help=_help(row), **_settings(row))(
                    command
                )
        return command

    return add


def _section(row: Row) -> type[SectionOption]:
    return type("SectionOption", (SectionOption,), {"section": row.section})


def _settings(row: Row) -> dict[str, Any]:
    # None tells "not typed" from everything typed.
    return {"default": None, "show_default": False, **row.extra}


def _help(row: Row) -> str:
    default = _DEFAULTS[row.field]
    if default is None or default in ((), 0) or isinstance(default, bool):
        shown = "  [default: on]" if default is True else ""
    else:
        shown = f"  [default: {default}]"
    return row.help + shown


def to_options(values: Mapping[str, Any], **fixed: Any) -> Options:
    """The options typed (`values`, None for those that were not) and those the command fixes.

    Raises:
        OptionError: a value out of range, or a combination that can't be.
    """
    names = set(Options.names())
    typed = {name: value for name, value in values.items() if name in names and value is not None}
    return Options(**{**typed, **fixed})


class SectionCommand(click.Command):
    """A command whose help shows its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {WHAT: [], WHERE: [], HOW: [], RUN: []}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None and isinstance(parameter, click.Option):
                sections[getattr(parameter, "section", RUN)].append(row)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
