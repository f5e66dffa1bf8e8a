"""Box plots of scores: one panel for each score, a group for each stem, a box for each system."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unmixcli.errors import OptionError
from unmixcli.evaluation.families import Family
from unmixcli.evaluation.published import Published
from unmixcli.evaluation.report import write_file
from unmixcli.evaluation.run import Evaluation

PLOT_SUFFIXES = (".png", ".pdf", ".svg")


def check_plot(path: Path) -> None:
    """Find out before hours of scoring whether a plot can be made.

    Raises:
        OptionError: matplotlib is missing, or the suffix is none of `PLOT_SUFFIXES`.
    """
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OptionError(f"the plot {path.name!r} should end in one of {', '.join(PLOT_SUFFIXES)}.")
    matplotlib_or_error()


def matplotlib_or_error() -> Any:
    """matplotlib with its figures, which need no window.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError:
        raise OptionError(
            "a plot needs matplotlib, which is not installed.", hint='pip install "unmixcli[plot]"'
        ) from None
    return matplotlib


def box_plot(path: Path, evaluation: Evaluation, published: Sequence[Published] = ()) -> None:
    """Write the box plot of the first family of scores.

    Boxes span the quartiles of the tracks, whiskers 1.5 times that, every track is a dot. Published scores are hollow
    diamonds with names and places of their own; they stand beside v4's SDR only, which is what they are.

    Raises:
        OptionError: nothing is defined that could be drawn, or as `check_plot`.
        OutputError: the file can't be written.
    """
    check_plot(path)
    family = evaluation.families[0]
    figure = matplotlib_or_error().figure.Figure(
        figsize=(
            max(6.0, 1.2 + 0.45 * len(evaluation.stems) * (len(evaluation.systems) + 1)),
            3.2 * len(family.columns),
        ),
        layout="constrained",
    )
    axes = figure.subplots(len(family.columns), 1, squeeze=False)[:, 0]
    drawn = 0
    for axis, column in zip(axes, family.columns, strict=True):
        shown = published if (family.name, column) == ("v4", "SDR") else ()
        drawn += _panel(axis, evaluation, family, column, shown)
    if not drawn:
        raise OptionError("no score is defined, so there is nothing to plot.")
    figure.suptitle(family.title, fontsize=10)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    memory = io.BytesIO()
    figure.savefig(memory, format=path.suffix[1:].lower(), dpi=130)
    write_file(path, memory.getvalue())


def _panel(axis: Any, evaluation: Evaluation, family: Family, column: str, published: Sequence[Published]) -> int:
    """Draw one score; the number of boxes."""
    count = len(evaluation.systems) + len(published)
    width = 0.8 / count
    drawn = 0
    for index, system in enumerate(evaluation.systems):
        colour = f"C{index % 10}"
        label: str | None = system
        for group, stem in enumerate(evaluation.stems):
            values = _values(evaluation, family, column, system, stem)
            if not values.size:
                continue
            place = group + (index + 0.5) * width - 0.4
            boxes = axis.boxplot(
                [values], positions=[place], widths=[0.8 * width], showfliers=False, patch_artist=True,
                medianprops={"color": "black"},
            )  # fmt: skip
            boxes["boxes"][0].set(facecolor=colour, alpha=0.45)
            axis.plot(np.full(values.size, place), values, ".", color=colour, markersize=3, label=label)
            label = None
            drawn += 1
    for index, item in enumerate(published):
        points = [(group, item.score.values[stem]) for group, stem in enumerate(evaluation.stems)
                  if stem in item.score.values]  # fmt: skip
        offset = (len(evaluation.systems) + index + 0.5) * width - 0.4
        label = f"{item.system}, published:\n{_wrapped(item.score.protocol)}"
        colour = f"C{(len(evaluation.systems) + index) % 10}"
        axis.plot(
            [group + offset for group, _ in points], [value for _, value in points], "D", color=colour,
            markerfacecolor="none", label=label,
        )  # fmt: skip
    axis.set_xticks(range(len(evaluation.stems)), evaluation.stems)
    axis.set_xlim(-0.5, len(evaluation.stems) - 0.5)
    axis.set_ylabel(f"{column} (dB)")
    axis.grid(axis="y", alpha=0.3)
    return drawn


def _values(evaluation: Evaluation, family: Family, column: str, system: str, stem: str) -> Any:
    values = np.array(
        [s.values[family.name][column] for s in evaluation.scores if s.system == system and s.stem == stem],
        dtype=np.float64,
    )
    return values[np.isfinite(values)]


def _wrapped(text: str, width: int = 38) -> str:
    import textwrap

    return textwrap.fill(text, width)
