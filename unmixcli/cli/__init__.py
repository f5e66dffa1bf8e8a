"""The `unmix` command: a table of commands, and the one place where errors become messages and exit codes.

`unmix song.mp3` is `unmix separate song.mp3`: whatever isn't a command is an argument of `separate`. A file that is
called like a command is written `./karaoke`. Commands are imported when they are used, and heavy libraries only inside
what they do, so `unmix --help` answers at once.

Exit codes: 0 all done · 1 something failed, the rest was still tried · 2 wrong usage · 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from unmixcli.cli import _terminal
from unmixcli.errors import UnmixError

DEFAULT = "separate"

# name -> (where it stands, its line in `unmix --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "separate": ("unmixcli.cli.separate:separate", "Separate songs into stems (the default command)."),
    "karaoke": ("unmixcli.cli.karaoke:karaoke", "Make finished karaoke tracks, from songs and videos."),
    "models": ("unmixcli.cli.models:models", "List, fetch, check, add and remove models."),
    "evaluate": ("unmixcli.cli.evaluate:evaluate", "Score stems against the true ones."),
    "train": ("unmixcli.cli.train:train", "Train a network of your own, or this program's anew."),
    "synthesize": ("unmixcli.cli.synthesize:synthesize", "Render synthetic multitracks to train on."),
    "doctor": ("unmixcli.cli.doctor:doctor", "Prove that unmix works here: devices, formats, folders."),
}

_OWN_OPTIONS = ("-h", "--help", "--version")

_ABOUT = """Separate music into its stems: vocals, drums, bass and what else a model gives.

\b
  unmix song.mp3                         default stems, in separated/song/
  unmix song.mp3 --stems vocals,drums    just these
  unmix song.mp3 --minus vocals          everything but the vocals
  unmix album/ -o out/ --format flac     a folder; run it again to do what is missing

All options of a separation: unmix separate --help
"""

_EPILOG = """\b
Exit codes: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted.
Completion of names: eval "$(_UNMIX_COMPLETE=bash_source unmix)" (or zsh_source, fish_source).
"""


class UnmixGroup(click.Group):
    """Lazy commands, a default command, and errors as messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            if ctx.resilient_parsing:
                return super().parse_args(ctx, args)
            click.echo(ctx.get_help())
            ctx.exit(0)
        if args[0] not in COMMANDS and args[0] not in _OWN_OPTIONS:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return named or [CompletionItem(incomplete, type="file")]

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name or "unmix", complete_var, standalone_mode=False, **extra)
        sys.exit(
            _guarded(lambda: super(UnmixGroup, self).main(args, prog_name or "unmix", complete_var, False, **extra))
        )


def _guarded(run: Any) -> int:
    """Run the command line; whatever happens becomes a message on standard error and an exit code."""
    _terminal.set_verbosity(0)
    try:
        code = run()
        _flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        _terminal.error(error.format_message(), _usage_hint(error))
        return 2
    except click.ClickException as error:
        _terminal.error(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _terminal.error("interrupted.")
        return 130
    except UnmixError as error:
        if _terminal.verbosity() > 1:
            traceback.print_exc()
        _terminal.error(str(error), error.hint)
        return error.exit_code
    except BrokenPipeError:
        _let_go_of_stdout()
        return 1
    except Exception as error:
        if _terminal.verbosity() > 1:
            traceback.print_exc()
        _terminal.error(
            f"unexpected {type(error).__name__}: {error}",
            "this is a defect of unmix: please report it with what -vv and `unmix doctor` print.",
        )
        return 1
    return code if isinstance(code, int) else 0


def _usage_hint(error: click.UsageError) -> str:
    return f"`{error.ctx.command_path if error.ctx else 'unmix'} --help`"


def _flush() -> None:
    """Find out now, not while Python ends, that nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from unmixcli import __version__

        click.echo(f"unmix {__version__}")
        ctx.exit(0)


cli = UnmixGroup(
    name="unmix",
    help=_ABOUT,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version,
            help="Show the version and exit.",
        )
    ],
)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The entry point: SIGTERM is as good as Ctrl-C, and libraries' warnings are not the user's business."""
    import warnings

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold bytes that are no text, or letters the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "surrogateescape")
    cli.main()
