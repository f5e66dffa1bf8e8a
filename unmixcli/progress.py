"""Progress as data: what a callback is told while work goes on. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One event.

    Attributes:
        stage: "download", "scan" (a first pass over the input), "separate", "encode" or "warning"; "evaluate"; of
            training "train", "validate" and "validated".
        subject: what it is about: a file name, a model name.
        done: amount done so far, in `unit`.
        total: amount in all, or None where it isn't known beforehand.
        unit: "bytes", "seconds" (of audio), "tracks", "passages" or "steps".
        message: one plain sentence, for "warning" events and changes of plan.
    """

    stage: str
    subject: str = ""
    done: float = 0.0
    total: float | None = None
    unit: str = "seconds"
    message: str = ""


ProgressCallback = Callable[[Progress], None]


def ignore_progress(event: Progress) -> None:
    """The callback that listens to nothing."""
