"""Scores brought together over tracks, and written as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmixcli.errors import OutputError
from unmixcli.evaluation.families import MEDIAN, WEIGHTED, Family
from unmixcli.evaluation.metrics import median, weighted_mean
from unmixcli.evaluation.published import Published
from unmixcli.evaluation.run import Evaluation, TrackScore


@dataclass(frozen=True)
class Summary:
    """One row of a table: a system and a stem in one family of scores.

    Attributes:
        values: column -> dB over all tracks where it is defined; NaN where there is none.
        tracks: number of tracks scored.
        undefined: number of them whose scores are not defined.
    """

    family: Family
    system: str
    stem: str
    values: Mapping[str, float]
    tracks: int
    undefined: int


def summarize(evaluation: Evaluation) -> list[Summary]:
    """Rows by family, stem and system; stems and systems in their order."""
    rows = []
    for family in evaluation.families:
        for stem in evaluation.stems:
            for system in evaluation.systems:
                scores = [s for s in evaluation.scores if s.system == system and s.stem == stem]
                if scores:
                    rows.append(_summary(family, system, stem, scores))
    return rows


def _summary(family: Family, system: str, stem: str, scores: Sequence[TrackScore]) -> Summary:
    values = {
        column: over_tracks(
            family, [score.values[family.name][column] for score in scores], [score.seconds for score in scores]
        )
        for column in family.columns
    }
    first = family.columns[0]
    undefined = sum(math.isnan(score.values[family.name][first]) for score in scores)
    return Summary(family, system, stem, values, len(scores), undefined)


def over_tracks(family: Family, values: Sequence[float], seconds: Sequence[float]) -> float:
    """The family's average over tracks; NaN and infinities are left out."""
    if family.over_tracks == MEDIAN:
        return median(values)
    weights = seconds if family.over_tracks == WEIGHTED else np.ones(len(values))
    return weighted_mean(values, list(weights))


def as_csv(evaluation: Evaluation) -> str:
    """One line for each number: system, track, stem, protocol, metric, value in dB (empty: not defined) …"""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["system", "track", "stem", "protocol", "metric", "value_db", "seconds", "reason"])
    for score in evaluation.scores:
        for family in evaluation.families:
            for column, value in score.values[family.name].items():
                shown = "" if math.isnan(value) else f"{value:.4f}"
                writer.writerow(
                    [score.system, score.track, score.stem, family.name, column, shown, f"{score.seconds:.3f}",
                     score.reason]
                )  # fmt: skip
    return text.getvalue()


def as_json(evaluation: Evaluation, published: Sequence[Published] = ()) -> dict[str, Any]:
    """Everything as JSON values; null is "not defined", infinities are the words "inf" and "-inf"."""
    return {
        "protocols": {
            family.name: {
                "title": family.title,
                "over_tracks": family.over_tracks,
                "columns": list(family.columns),
            }
            for family in evaluation.families
        },
        "summary": [
            {
                "protocol": row.family.name,
                "system": row.system,
                "stem": row.stem,
                **_values(row.values),
                "tracks": row.tracks,
                "undefined": row.undefined,
            }
            for row in summarize(evaluation)
        ],
        "tracks": [
            {
                "system": score.system,
                "track": score.track,
                "stem": score.stem,
                "seconds": round(score.seconds, 3),
                "scores": {family: _values(values) for family, values in score.values.items()},
                **({"reason": score.reason} if score.reason else {}),
                **({} if score.level_db is None else {"level_db": _number(score.level_db)}),
            }
            for score in evaluation.scores
        ],
        "published": [
            {
                "system": item.system,
                "protocol": item.score.protocol,
                "source": item.score.source,
                "SDR": dict(item.score.values),
            }
            for item in published
        ],
        "problems": evaluation.problems,
        "notes": evaluation.notes,
    }


def _values(values: Mapping[str, float]) -> dict[str, float | str | None]:
    return {column: _number(value) for column, value in values.items()}


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else round(value, 4)


def json_text(evaluation: Evaluation, published: Sequence[Published] = ()) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(evaluation, published), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_file(path: Path, data: bytes) -> None:
    """Write beside the destination, then rename.

    Raises:
        OutputError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(beside).chmod(0o666 & ~_umask())
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
