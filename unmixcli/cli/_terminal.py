"""What all commands print with: messages to standard error, results to standard output, nothing hostile to either."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_level = 0
# While a progress bar is on the screen, lines go through it.
_through: Callable[[str], None] | None = None


def plain(text: str) -> str:
    """Text that can't move the cursor or recolour the screen, for names that come from files."""
    return _CONTROL.sub("�", text)


def verbosity() -> int:
    """-1 with -q, else the number of -v."""
    return _level


def through(printer: Callable[[str], None] | None) -> None:
    """Send lines for standard error through this printer; None ends it."""
    global _through
    _through = printer


def line(text: str) -> None:
    """A line on standard error, whatever the verbosity."""
    if _through is not None:
        _through(plain(text))
    else:
        click.echo(plain(text), err=True)


def note(text: str) -> None:
    """A message, unless -q."""
    if _level >= 0:
        line(text)


def warn(text: str) -> None:
    """Something the user should know, unless -q."""
    note(f"warning: {text}")


def error(message: str, hint: str | None = None) -> None:
    """What went wrong and what to do."""
    line(f"error: {message}")
    if hint:
        line(f"try:   {hint}")


def result(text: str) -> None:
    """A line on standard output. A name is written as its bytes are, so that it can be piped on."""
    click.echo(text if not sys.stdout.isatty() else plain(text))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line(f"{record.levelname.lower()}: {self.format(record)}")


def _set_level(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if not value:
        return
    if _level:
        raise click.UsageError("-q and -v were both given.", ctx)
    set_verbosity(-1 if parameter.name == "quiet" else int(value))


def set_verbosity(level: int) -> None:
    """-1 says errors only, 0 the usual, 1 and 2 more and more of what the library logs."""
    global _level
    _level = level
    logger = logging.getLogger("unmixcli")
    logger.handlers = [_Handler()]
    logger.propagate = False
    logger.setLevel({-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}.get(_level, logging.DEBUG))


def verbosity_options(command: F) -> F:
    """Add -q and -v to a command; `verbosity()` knows them."""
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        is_eager=True,
        expose_value=False,
        callback=_set_level,
        help="Say more; -vv shows where an error came from.",
    )
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_level,
        help="No messages but errors; results are still written to standard output.",
    )
    return quiet(verbose(command))
