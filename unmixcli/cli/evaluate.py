"""`unmix evaluate`: score folders of estimates, show a table, write CSV, JSON and a plot."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmixcli.cli import _terminal

if TYPE_CHECKING:
    from unmixcli.evaluation.published import Published
    from unmixcli.evaluation.report import Summary
    from unmixcli.evaluation.run import Evaluation, TrackScore
    from unmixcli.progress import Progress

# Wide enough for any table where standard output is no terminal.
_WIDE = 160


def _words(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    """A,B and repeated options are the same."""
    return tuple(word.strip() for item in value for word in item.split(",") if word.strip())


@click.command()
@click.argument("references", metavar="REFERENCES", type=click.Path())
@click.argument("estimates", nargs=-1, metavar="[NAME=]ESTIMATES...", type=click.Path())
@click.option(
    "-M",
    "--metric",
    "metrics",
    multiple=True,
    callback=_words,
    metavar="A,B",
    default=("v4",),
    show_default=True,
    help="v4, v3, v3-images, v3-frames (BSS Eval), gnsdr, si-sdr, sdr.",
)
@click.option(
    "-s",
    "--stems",
    multiple=True,
    callback=_words,
    metavar="A,B",
    help="Only these stems; one that an estimate lacks is then an error.",
)
@click.option(
    "--oracle",
    "oracles",
    multiple=True,
    callback=_words,
    metavar="A,B",
    help="Also score what ideal masks would give: ibm1, ibm2, irm1, irm2, mwf; and mixture, no separation at all.",
)
@click.option(
    "--published",
    multiple=True,
    callback=_words,
    metavar="A,B",
    help="Show published scores beside: models "
    "of the registry, sisec for all systems of SiSEC 2018, sisec:NAME for one.",
)
@click.option("--tracks", "per_track", is_flag=True, help="Show every track, too.")
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), metavar="FILE", help="Write all scores, one number a line."
)
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a box plot of the first metric (png, pdf or svg; needs the extra: plot).",
)
@click.option(
    "--spectrograms",
    "pictures",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Draw mixture, stems and masks of every track, system and oracle there (needs the extra: plot).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, not the table.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Tracks worked on at the same time.",
)
@_terminal.verbosity_options
def evaluate(
    references: str, estimates: tuple[str, ...], metrics: tuple[str, ...], stems: tuple[str, ...],
    oracles: tuple[str, ...], published: tuple[str, ...], per_track: bool, csv_path: Path | None,
    plot_path: Path | None, pictures: Path | None, as_json: bool, jobs: int,
) -> None:  # fmt: skip
    """Score stems against the true ones.

    REFERENCES is a folder with a folder for each track, in it the true stems as files (vocals.wav, drums.flac …) and
    perhaps the mixture. ESTIMATES are laid out alike, as unmix writes them; several folders are several systems,
    compared in one table. Audio is rounded to 16 bit before it is scored. Exit code 1 if a track or stem that should
    have been scored was not.

    \b
        unmix evaluate musdb18hq/test separated/
        unmix evaluate songs/ umx=out1/ mine=out2/ --oracle mixture,irm2 --plot boxes.png
    """
    from unmixcli.evaluation.published import published_scores
    from unmixcli.evaluation.report import as_csv, json_text, write_file
    from unmixcli.evaluation.run import evaluate as run

    if plot_path is not None:
        from unmixcli.evaluation.plot import check_plot

        check_plot(plot_path)
    shown = published_scores(published)
    result = run(
        references, estimates, metrics=metrics, stems=stems, oracles=oracles, jobs=jobs, pictures=pictures,
        on_progress=_told,
    )  # fmt: skip
    for note in result.notes:
        _terminal.note(f"note: {note}")
    if as_json:
        click.echo(json_text(result, shown), nl=False)
    elif result.scores:
        _show(result, shown, per_track=per_track)
    if csv_path is not None:
        write_file(csv_path, as_csv(result).encode("utf-8", "surrogateescape"))
    if plot_path is not None and result.scores:
        from unmixcli.evaluation.plot import box_plot

        box_plot(plot_path, result, shown)
    for problem in result.problems:
        _terminal.error(problem)
    click.get_current_context().exit(0 if result.complete else 1)


def _told(event: Progress) -> None:
    _terminal.note(f"[{event.done:.0f}/{event.total:.0f}] {event.subject}")


def _show(result: Evaluation, published: Sequence[Published], *, per_track: bool) -> None:
    from unmixcli.evaluation.report import summarize

    summaries = summarize(result)
    for family in result.families:
        rows = [row for row in summaries if row.family is family]
        _print_table(
            family.protocol + ", dB",
            ["stem", "system", *family.columns, "tracks"],
            [_summary_row(row) for row in rows],
            groups=[row.stem for row in rows],
        )
        if per_track:
            scores = sorted(result.scores, key=lambda s: (result.stems.index(s.stem), s.track))
            _print_table(
                f"{family.title}, each track, dB",
                ["stem", "track", "system", *family.columns, ""],
                [[s.stem, s.track, s.system, *_numbers(s.values[family.name].values()), _remark(s)] for s in scores],
                groups=[s.stem for s in scores],
            )
    protocols = dict.fromkeys((item.score.protocol, item.score.source) for item in published)
    for protocol, source in protocols:
        items = [item for item in published if (item.score.protocol, item.score.source) == (protocol, source)]
        stems = list(dict.fromkeys(stem for item in items for stem in item.score.values))
        _print_table(
            f"Published, not measured here: {protocol} ({source}), dB",
            ["system", *stems],
            [[item.system, *_numbers(item.score.values.get(stem) for stem in stems)] for item in items],
        )


def _summary_row(row: Summary) -> list[str]:
    defined = row.tracks - row.undefined
    tracks = str(row.tracks) if not row.undefined else f"{defined} of {row.tracks}, {row.undefined} not defined"
    return [row.stem, row.system, *_numbers(row.values.values()), tracks]


def _remark(score: TrackScore) -> str:
    if score.level_db is not None:
        return f"{score.reason}: the estimate is at {score.level_db:.1f} dB of the mixture"
    return score.reason


def _numbers(values: Iterable[float | None]) -> list[str]:
    return ["" if value is None else "not defined" if math.isnan(value) else f"{value:.2f}" for value in values]


def _print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], groups: Sequence[str] = ()) -> None:
    """A table on standard output; a line is drawn where the group changes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    click.echo(f"\n{title}")
    table = Table()
    for word in head:
        left = word in ("stem", "system", "track", "tracks", "")
        table.add_column(Text(word), justify="left" if left else "right", no_wrap=word != "track")
    lines = len(set(groups)) < len(groups)  # not where every group is one row
    for index, row in enumerate(rows):
        last = lines and groups[index + 1 : index + 2] != [groups[index]]
        table.add_row(*(Text(_terminal.plain(cell)) for cell in row), end_section=last)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE).print(table)
