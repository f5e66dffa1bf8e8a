"""Which models of the registry are like that: filters, and the order by published score.

Scores of different protocols are never compared: an order by score is within one protocol and for the same stems.
Quick, without torch and numpy, as the registry itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from unmixcli.cache import find_file
from unmixcli.entry import ModelEntry
from unmixcli.errors import OptionError
from unmixcli.registry import can_give

FOUR_STEMS = ("vocals", "drums", "bass", "other")
_UNITS = {"": 1e6, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


def find_entries(
    entries: Iterable[ModelEntry],
    *,
    stems: Sequence[str] = (),
    architecture: str | None = None,
    licence: str | None = None,
    commercial_ok: bool = False,
    max_bytes: float | None = None,
    installed: bool = False,
) -> list[ModelEntry]:
    """Those of `entries` that are like that, in order.

    Args:
        entries: what there is.
        stems: each can be given, sums and differences with the mixture included.
        architecture: name of it.
        licence: a part of the licence's name or its SPDX identifier; letter case is ignored.
        commercial_ok: the licence allows commercial use.
        max_bytes: of all files; a size that nobody states is taken from the number of parameters, and an entry for
            which nothing is known is left out.
        installed: all files are on this machine.
    """
    return [
        entry
        for entry in entries
        if can_give(entry.stems, stems)
        and (architecture is None or entry.architecture == architecture)
        and (licence is None or _has_licence(entry, licence))
        and (entry.licence.commercial_ok or not commercial_ok)
        and (max_bytes is None or _within(entry, max_bytes))
        and (not installed or is_installed(entry))
    ]


def is_installed(entry: ModelEntry) -> bool:
    """All of a model's files are on this machine, or it has none."""
    return all(find_file(entry, file) is not None for file in entry.files)


def _has_licence(entry: ModelEntry, text: str) -> bool:
    wanted = text.casefold()
    return any(wanted in word.casefold() for word in (entry.licence.name, entry.licence.spdx or ""))


def _within(entry: ModelEntry, most: float) -> bool:
    size = likely_size(entry)
    return size is not None and size <= most


def likely_size(entry: ModelEntry) -> int | None:
    """Bytes of all files: stated, or that of float32 parameters, or None."""
    if entry.size is not None:
        return entry.size
    return 4 * entry.parameters if entry.parameters else None


def parse_size(text: str) -> float:
    """Bytes of "500MB", "1.5 GB" or "300" (megabytes).

    Raises:
        OptionError: it is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise OptionError(f"{text!r} is no size; expected a number with MB or GB, like 500MB.")
    return float(match[1]) * _UNITS[match[2]]


def protocols(entries: Iterable[ModelEntry]) -> dict[str, int]:
    """Protocols that scores were measured under, with the number of models, the most usual first."""
    counts: dict[str, int] = {}
    for entry in entries:
        for protocol in {score.protocol for score in entry.scores}:
            counts[protocol] = counts.get(protocol, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def protocol_named(entries: Iterable[ModelEntry], text: str) -> str:
    """The one protocol with `text` in it; letter case is ignored, and the whole of one always means that one.

    Raises:
        OptionError: there is none, or there are several.
    """
    known = protocols(entries)
    found = [name for name in known if text.casefold() in name.casefold()]
    exact = [name for name in found if name.casefold() == text.casefold()]
    if len(exact or found) == 1:
        return (exact or found)[0]
    listed = "; ".join(f"{name} ({count} models)" for name, count in known.items() if not found or name in found)
    what = f"{len(found)} protocols have {text!r} in them" if found else f"no protocol has {text!r} in it"
    raise OptionError(f"{what}: {listed}." if found else f"{what}; there are: {listed}.")


def score_of(entry: ModelEntry, protocol: str, stems: Sequence[str]) -> float | None:
    """Mean score in dB of these stems under a protocol, or None if one of them has none."""
    for score in entry.scores:
        if score.protocol == protocol and all(stem in score.values for stem in stems):
            return sum(score.values[stem] for stem in stems) / len(stems)
    return None


def by_score(
    entries: Iterable[ModelEntry], protocol: str, stems: Sequence[str] = FOUR_STEMS
) -> list[tuple[ModelEntry, float]]:
    """Entries with their mean score of these stems under one protocol, best first; those without one are left out."""
    scored = [(entry, score_of(entry, protocol, stems)) for entry in entries]
    return sorted(((e, s) for e, s in scored if s is not None), key=lambda item: (-item[1], item[0].name))
