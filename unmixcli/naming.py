"""Paths of results: a template filled with words that may come from tags and registries, and can't leave the folder."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from unmixcli.errors import OptionError

FIELDS = ("track", "stem", "model", "artist", "title", "album", "ext")

# Characters that some file system forbids, and control characters.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# File systems allow 255 bytes for a name; this leaves room for what a template puts around a word.
_LONGEST = 120


def safe_name(text: str) -> str:
    """`text` as a part of a file name on any system: never empty, never "..", no separators, at most 120 bytes."""
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip().rstrip(". ")
    while len(name.encode("utf-8", "surrogateescape")) > _LONGEST:
        name = name[:-1]
    name = name.strip().rstrip(". ").lstrip("." if set(name) <= {"."} else "")
    if not name:
        return "untitled"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def check_template(template: str) -> None:
    """Raise OptionError for a template with unknown fields, absolute, or with ".." in it."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise OptionError(f"the template {template!r} is not valid: {error}.") from None
    unknown = [field for field in fields if field not in FIELDS]
    if unknown:
        raise OptionError(
            f"the template {template!r} has the unknown field {{{unknown[0]}}}; "
            f"known are {', '.join(f'{{{name}}}' for name in FIELDS)}."
        )
    parts = re.split(r"[/\\]", template)
    if template.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", template):
        raise OptionError(
            f"the template {template!r} leaves the output folder.", hint="choose the folder with --output."
        )
    if not template.strip("/\\ "):
        raise OptionError("the template is empty.")


def target_paths(
    folder: Path,
    template: str,
    names: Sequence[str],
    *,
    track: str,
    model: str,
    suffix: str,
    tags: Mapping[str, str],
) -> dict[str, Path]:
    """Where each output of one track goes.

    Args:
        folder: all paths lie inside.
        template: see `check_template`; without {ext} the suffix is appended.
        names: the outputs.
        track: name of the input without its suffix.
        model: registry name.
        suffix: of the files, without the dot.
        tags: artist, title, album where known.

    Raises:
        OptionError: the template gives two outputs the same path.
    """
    check_template(template)
    words = {"track": track, "model": model, "title": tags.get("title") or track}
    words |= {field: tags.get(field) or f"unknown {field}" for field in ("artist", "album")}
    paths: dict[str, Path] = {}
    for name in names:
        filled = {field: safe_name(word) for field, word in {**words, "stem": name}.items()}
        relative = template.format(**filled, ext=suffix)
        parts = [part for part in re.split(r"[/\\]", relative) if part not in ("", ".")]
        if "{ext}" not in template:
            parts[-1] += f".{suffix}"
        paths[name] = folder.joinpath(*parts)
    taken: dict[str, str] = {}
    for name, path in paths.items():
        other = taken.setdefault(str(path).casefold(), name)
        if other != name:
            raise OptionError(
                f"the template {template!r} gives {other} and {name} the same path, {path}.",
                hint="put {stem} into it.",
            )
    return paths
