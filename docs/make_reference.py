"""Write the part of reference.md that the command line itself knows: every command, argument and option.

    python docs/make_reference.py          # with the package installed, as the tests are

`tests/test_docs.py` fails while the file isn't what this gives.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from unmixcli.cli import cli
from unmixcli.cli._options import HOW, RUN, WHAT, WHERE, SectionCommand

REFERENCE = Path(__file__).with_name("reference.md")
_BEGIN, _END = "<!-- commands -->\n", "<!-- end -->\n"


def walk(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, each with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path, parent=parent)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, f"{path} lists {name} and does not have it"
            yield from walk(found, f"{path} {name}", context)


def render() -> str:
    """All commands as Markdown."""
    return "\n".join(_command(path, command) for path, command in walk(cli, "unmix"))


def update(text: str) -> str:
    """The reference with its commands written anew.

    Raises:
        ValueError: the marks between which they stand are missing.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"reference.md needs the lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{begin}\n{render()}\n{end}{after}"


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    parts = [f"### {path}", "", f"    {path} {' '.join(command.collect_usage_pieces(context))}", ""]
    parts += _paragraphs(command.help or "")
    for title, options in _sections(command).items():
        parts += [f"*{title}*", ""] if title else []
        parts += [*map(_option, options), ""]
    return "\n".join(parts).strip() + "\n"


def _sections(command: click.Command) -> dict[str, list[click.Option]]:
    """The options under the titles they have in the help; under "" where the help has none."""
    options = [param for param in command.params if isinstance(param, click.Option) and not param.hidden]
    if not isinstance(command, SectionCommand):
        return {"": options} if options else {}
    sections: dict[str, list[click.Option]] = {title: [] for title in (WHAT, WHERE, HOW, RUN)}
    for option in options:
        sections[getattr(option, "section", RUN)].append(option)
    return {title: members for title, members in sections.items() if members}


def _paragraphs(text: str) -> list[str]:
    r"""Help as Markdown: what follows \b is kept as it is."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            lines += [f"    {line.strip()}" for line in paragraph.splitlines()[1:]]
        else:
            lines.append(_literal(" ".join(paragraph.split())))
        lines.append("")
    return lines


def _option(option: click.Option) -> str:
    names = [f"`{name}`" for name in option.opts]
    if option.secondary_opts:
        names.append(f"`{', '.join(option.secondary_opts)}`")
    value = "" if option.is_flag or option.count else f" {_value(option)}"
    default = f" [default: {option.default}]" if option.show_default is True else ""
    return f"- {', '.join(names)}{value}: {_literal(' '.join((option.help or '').split()))}{default}"


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "`" + "|".join(str(choice) for choice in option.type.choices) + "`"
    return f"`{option.metavar or option.type.name.upper()}`"


def _literal(text: str) -> str:
    """Help text in which Markdown finds nothing to set; what stands in `…` stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*<>])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    REFERENCE.write_text(update(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
