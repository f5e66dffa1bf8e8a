"""What a run leaves to look at: two CSV files always, TensorBoard and a picture where the packages are installed."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmixcli.cache import write_atomically

TRAINING, VALIDATION, CURVES = "training.csv", "validation.csv", "curves.png"


class RunLog:
    """Rows of numbers by step.

    Args:
        folder: of the run.
        step: rows after this step are dropped: a run that goes on from a checkpoint does those steps again. -1: all.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        for name in (TRAINING, VALIDATION):
            rows = [row for row in read_rows(folder / name) if float(row["step"] or 0) <= step]
            if (folder / name).exists():
                _write_rows(folder / name, rows)
        self._board = _tensorboard(folder / "tensorboard", step)

    def training(self, row: Mapping[str, float]) -> None:
        """Add a row on the training: "step" and numbers."""
        self._add(TRAINING, row)

    def validation(self, row: Mapping[str, float]) -> None:
        """Add a row on a validation."""
        self._add(VALIDATION, row)

    def _add(self, name: str, row: Mapping[str, float]) -> None:
        path = self.folder / name
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.7g}" for key, value in row.items()})
        if self._board is not None:
            group = Path(name).stem
            for key, value in row.items():
                if key != "step" and math.isfinite(value):
                    self._board.add_scalar(f"{group}/{key}", value, int(row["step"]))

    def draw(self) -> None:
        """Draw the curves anew, if matplotlib is installed."""
        with contextlib.suppress(ImportError):
            draw_curves(self.folder)

    def close(self) -> None:
        """Finish."""
        if self._board is not None:
            self._board.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that are whole; [] where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    if not text.endswith("\n"):  # a kill in the middle of a line
        text = text[: text.rfind("\n") + 1]
    return [row for row in csv.DictReader(io.StringIO(text)) if None not in row and None not in row.values()]


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    if not rows:
        path.unlink()
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode("utf-8"))


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra is not installed: the CSV files have it all
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curves(folder: Path) -> Path | None:
    """Draw loss, learning rate and validation SDR of a run over its steps.

    Returns:
        The picture, or None where nothing is logged yet.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    training, validation = read_rows(folder / TRAINING), read_rows(folder / VALIDATION)
    if not training:
        return None
    figure = Figure(figsize=(8.0, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = [float(row["step"]) for row in training]
    losses = [float(row["loss"]) for row in training]
    top.plot(steps, losses, color="C0", linewidth=0.8)
    if min(losses) > 0:
        top.set_yscale("log")
    top.set_ylabel("loss")
    rate = top.twinx()
    rate.plot(steps, [float(row["learning_rate"]) for row in training], color="0.6", linewidth=0.8)
    rate.set_ylabel("learning rate", color="0.4")
    for index, column in enumerate(key for key in (validation[0] if validation else {}) if key.startswith("sdr")):
        bottom.plot(
            [float(row["step"]) for row in validation],
            [float(row[column]) for row in validation],
            color="black" if column == "sdr" else f"C{index}",
            linewidth=2.0 if column == "sdr" else 1.0,
            marker=".",
            label="mean" if column == "sdr" else column.removeprefix("sdr_"),
        )
    bottom.set_xlabel("step")
    bottom.set_ylabel("validation SDR (dB)")
    bottom.grid(alpha=0.3)
    if validation:
        bottom.legend(fontsize=8)
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=110)
    write_atomically(folder / CURVES, memory.getvalue())
    return folder / CURVES
