"""What is to happen to an input, by its outputs that exist and the record of finished work (`record.py`).

    none of the outputs exists                                      separate
    all exist, recorded for this input, settings and model          skip (with resume)
    some are missing, the others as this program wrote them         separate again (with resume)
    anything else exists: other settings, another or a changed
    input, edited or unknown files                                  refuse, or replace (with overwrite)

So nothing that exists is ever replaced silently, and nothing is skipped that isn't known to be complete. An input
counts as unchanged if its size and time of change are as recorded, or, where only the time differs, its sha256.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmixcli.inputs import InputFile
from unmixcli.options import Options
from unmixcli.record import Entry, Record, file_sha256, settings_key

Action = Literal["separate", "skip", "refuse"]


@dataclass(frozen=True)
class Decision:
    """What is to happen to an input.

    Attributes:
        action: "separate", "skip" or "refuse".
        overwrite: with "separate", targets that exist may be replaced.
        message: why it is skipped, refused or done again; else "".
        hint: what to do about it.
    """

    action: Action = "separate"
    overwrite: bool = False
    message: str = ""
    hint: str | None = None


def decide(
    source: InputFile, targets: Mapping[str, Path], record: Record, settings: Mapping[str, Any], options: Options
) -> Decision:
    """Look at what exists.

    Args:
        source: the input.
        targets: output name -> path.
        record: of the output folder.
        settings: "options" and "model", what decides the content of results.
        options: for `resume` and `overwrite`.
    """
    existing = [path for path in targets.values() if os.path.lexists(path)]
    if not existing:
        return Decision()
    owners = {path: record.owner(path) for path in existing}
    sizes = {path: path.stat().st_size if path.is_file() else 0 for path in existing}
    recorded = {path: _recorded_size(owners[path], path, record) for path in existing}
    stranger = next(filter(None, (_stranger(path, owners[path], source, settings, record) for path in existing)), None)
    whole = len(existing) == len(targets) and all(sizes.values())
    finished = whole and stranger is None and all(owner is not None and owner.done for owner in owners.values())
    if finished and options.resume and (sizes == recorded or not options.overwrite):
        return Decision("skip", message="done before")
    folder = next((path for path in existing if path.is_dir()), None)
    if folder is not None:
        return Decision("refuse", message=f"{source.name}: {folder} is a folder.", hint="choose another --output.")
    if options.overwrite:
        return Decision(overwrite=True, message="replaces earlier results")
    edited = next((path for path in existing if sizes[path] not in (0, recorded[path])), None)
    if stranger is None and options.resume and edited is None:
        return Decision(overwrite=True, message="was not complete")
    if stranger is None:
        stranger = f"{edited} was changed since it was written" if options.resume else f"{existing[0]} exists"
    hint = "--overwrite replaces what is there; or choose another --output."
    return Decision("refuse", message=f"{source.name}: {stranger}.", hint=hint)


def _recorded_size(owner: Entry | None, path: Path, record: Record) -> int | None:
    return None if owner is None else owner.outputs.get(record.relative(path))


def _stranger(
    path: Path, owner: Entry | None, source: InputFile, settings: Mapping[str, Any], record: Record
) -> str | None:
    """Why an existing output isn't this input's under these settings, or None if it is."""
    if owner is None:
        return f"{path} exists, and no record says how it was made"
    if owner.source.name != source.name:
        return f"{path} exists; it was made from {owner.source.name}"
    if owner.key != settings_key(settings):
        return f"{path} exists; it was made with other settings{_differences(record.settings(owner.key), settings)}"
    if owner.source.size != source.size or (
        owner.source.mtime_ns != source.mtime_ns and owner.source.sha256 != _sha256_or_nothing(source.path)
    ):
        return f"{path} exists; it was made before {source.name} changed, or from another file of that name"
    if source.mtime_ns is None and owner.source.sha256 != _sha256_or_nothing(source.path):
        return f"{path} exists; it was made from other data"
    return None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """ " (stems: vocals → drums, model: a → b)", as far as the record tells."""
    if not before:
        return ""
    found = []
    for group in ("model", "options"):
        old, new = dict(before[group]), dict(now[group])
        for name in dict.fromkeys([*old, *new]):
            if _plain(old.get(name)) == _plain(new.get(name)):
                continue
            word = "model" if name == "name" else name
            if isinstance(new.get(name), dict):
                found.append(word)  # weights, config: long, and the name says enough
            else:
                found.append(f"{word}: {_say(old.get(name))} → {_say(new.get(name))}")
    return f" ({', '.join(found[:3])})" if found else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _say(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "all"
    return "default" if value is None else str(value)


def _sha256_or_nothing(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""  # equals no recorded hash; reading it says later what is wrong
