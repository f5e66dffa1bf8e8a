"""Shows "download" progress and warnings on standard error while the library works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from unmixcli.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def download_bar() -> Iterator[ProgressCallback]:
    """A callback that draws one bar per file and prints warnings; bars only where a person is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def show(event: Progress) -> None:
            if event.stage == "warning":
                click.echo(f"warning: {event.message}", err=True)
            elif event.stage == "download":
                if event.subject not in tasks:
                    tasks[event.subject] = bars.add_task(event.subject, total=event.total)
                bars.update(tasks[event.subject], completed=event.done, total=event.total)

        yield show
