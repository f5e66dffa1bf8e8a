"""Settings of networks that others have published: read, checked against types and each other, and built from.

What a config says comes from a file of unknown origin: a wrong value must be an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from unmixcli.errors import CheckpointError

FOUR_STEMS = ("drums", "bass", "other", "vocals")


def read_settings(
    architecture: str,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    only: Mapping[str, Any],
    ignored: Iterable[str],
) -> dict[str, Any]:
    """A package's settings, checked, with the published defaults for those it leaves out.

    Args:
        architecture: name for messages.
        config: published names and values.
        defaults: what is used, with the published default; its type is the expected one.
        only: settings whose other values no released checkpoint has: the value that must stand.
        ignored: settings that matter to training only.

    Raises:
        CheckpointError: an unknown name, a value of a wrong type or out of range, an option that isn't there.
    """
    ignored = frozenset(ignored)
    if unknown := set(config) - set(defaults) - set(only) - ignored - {"sources"}:
        raise CheckpointError(f"{architecture} has no {', '.join(sorted(unknown))} in its config.")
    for name, value in only.items():
        if name in config and config[name] != value:
            raise CheckpointError(f"{architecture}'s {name} is {config[name]!r}; only {value!r} is supported.")
    values = dict(defaults)
    for name in defaults:
        if name in config:
            values[name] = _checked(architecture, name, config[name], defaults[name])
    return values


def _checked(architecture: str, name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        good, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        good, expected = type(value) is int and 0 <= value <= 1_000_000, "a whole number from 0 to 1000000"
    elif isinstance(default, float):
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e9
        expected = "a number from 0 to 1e9"
    elif isinstance(default, Fraction):
        return seconds(architecture, name, value)
    elif isinstance(default, tuple):
        value = () if value is None else value  # the published default
        good = isinstance(value, (list, tuple)) and all(type(item) in (int, float) and 0 < item < 1 for item in value)
        value, expected = tuple(value) if good else value, "a list of numbers between 0 and 1"
    else:
        raise TypeError(f"no rule for a {type(default).__name__}")
    if not good:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected {expected}.")
    return value


def seconds(architecture: str, name: str, value: Any) -> Fraction:
    """A number of seconds: a number, or a fraction as text ("39/5").

    Raises:
        CheckpointError: it is none, or not between 0 and an hour.
    """
    try:
        # by way of text, so that 7.8 is 39/5
        number = Fraction(str(value)) if isinstance(value, (int, float, str)) and len(str(value)) < 40 else None
    except (ValueError, ZeroDivisionError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or not 0 < number <= 3600:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected seconds, 0 to 3600.")
    return number


def read_sources(
    architecture: str, config: Mapping[str, Any], stems: Iterable[str], *, key: str = "sources"
) -> tuple[str, ...]:
    """All outputs of the network, in its order: the config's `sources` (or `key`), or else the stems asked for.

    Raises:
        CheckpointError: a stem that isn't among them.
    """
    stems = tuple(stems)
    sources = config.get(key, stems)
    if not isinstance(sources, (list, tuple)) or not sources or not all(isinstance(name, str) for name in sources):
        raise CheckpointError(f"{architecture}'s {key} are {sources!r}, expected a list of names.")
    if missing := [stem for stem in stems if stem not in sources]:
        raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(sources)}.")
    return tuple(sources)


def require(architecture: str, rules: Iterable[tuple[bool, str]]) -> None:
    """Check settings against each other.

    Raises:
        CheckpointError: with the message of the first rule that doesn't hold.
    """
    for holds, message in rules:
        if not holds:
            raise CheckpointError(f"{architecture}'s {message}.")


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """A module of zeros: drawing random numbers that the weights replace anyway takes a second for 80 million."""
    with torch.device("meta"):
        module = build()
    return module._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
