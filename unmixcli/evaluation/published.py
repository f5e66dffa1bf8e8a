"""Published scores to stand beside measured ones: those of the registry, and of systems of SiSEC 2018.

They were measured on other songs, or by other code, so they always keep a table, and a place in a plot, of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unmixcli.entry import Score
from unmixcli.errors import OptionError
from unmixcli.registry import load_registry

SISEC = "sisec"

_SISEC_PROTOCOL = "MUSDB18 test set, 50 tracks, SDR of museval v4: median over 1 s frames, then median over tracks"
_SISEC_SOURCE = "recomputed from the per-track results in github.com/sigsep/sigsep-mus-2018 at 62fb479e"

_STEMS = ("vocals", "drums", "bass", "other", "accompaniment")
_SISEC_ROWS: Mapping[str, tuple[float | None, ...]] = {
    "mixture/4": (1.12, 1.33, 0.67, 1.16, 6.32),
    "HPSS": (-0.34, None, None, None, 4.37),
    "RPCA": (0.05, None, None, None, 5.43),
    "REPET": (0.21, None, None, None, 5.57),
    "2DFT": (0.56, None, None, None, 5.84),
    "REPET-SIM": (2.30, None, None, None, 7.37),
    "Wave-U-Net": (3.25, 4.22, 3.21, 2.25, None),
    "UHL2": (5.93, 5.92, 5.03, 4.19, 12.23),
    "TAK1": (6.60, 6.43, 5.16, 4.15, 12.83),
    "IBM1": (7.67, 7.09, 5.19, 5.89, 10.03),
    "IBM2": (7.74, 7.26, 5.40, 6.01, 8.69),
    "IRM1": (8.52, 7.33, 6.18, 6.92, 14.50),
    "IRM2": (9.43, 8.45, 7.12, 7.85, 15.64),
    "MWF": (9.13, 8.09, 6.75, 7.56, 15.40),
}


@dataclass(frozen=True)
class Published:
    """Scores of one system under one protocol."""

    system: str
    score: Score


def published_scores(names: Sequence[str]) -> list[Published]:
    """Published scores.

    Args:
        names: of models in the registry; "sisec" for the systems of SiSEC 2018, "sisec:NAME" for one.

    Raises:
        OptionError: an unknown name, or a model without published scores.
    """
    found = []
    for name in dict.fromkeys(names):
        family, _, member = name.partition(":")
        if family.strip().lower() == SISEC:
            found += _sisec(member.strip())
            continue
        entry = load_registry().get(name.strip())
        if not entry.scores:
            raise OptionError(
                f"{entry.name} has no published scores in the registry.",
                hint=f"`--published {SISEC}` shows the systems of SiSEC 2018.",
            )
        found += [Published(entry.name, score) for score in entry.scores]
    return found


def _sisec(member: str) -> list[Published]:
    rows = {name: row for name, row in _SISEC_ROWS.items() if not member or name.casefold() == member.casefold()}
    if not rows:
        raise OptionError(f"SiSEC 2018 has no system {member!r} here; there are {', '.join(_SISEC_ROWS)}.")
    return [
        Published(
            name,
            Score(
                _SISEC_PROTOCOL,
                _SISEC_SOURCE,
                {stem: value for stem, value in zip(_STEMS, row, strict=True) if value is not None},
            ),
        )
        for name, row in rows.items()
    ]
