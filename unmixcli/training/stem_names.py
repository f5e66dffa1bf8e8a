"""Which stem a name means: of a file ("Lead Vox 2"), of a track in a Stems file, or of MedleyDB's instruments."""

from __future__ import annotations

import re
from typing import Any

from unmixcli.training.tracks import ACCOMPANIMENT, STEMS

# Names of files that are no stem but the song itself.
MIXTURES = frozenset({"mixture", "mix", "linear_mixture", "master", "original", "song", "full", "full_mix"})

_ACCOMPANIMENT = {"accompaniment", "instrumental", "instrumentals", "karaoke", "no_vocals", "backing_track", "inst"}
_VOCALS = {
    "vocals", "vocal", "vox", "voice", "voices", "singer", "singers", "singing", "rapper", "speaker", "choir",
    "vocalist", "vocalists", "beatboxing",
}  # fmt: skip
_DRUMS = {
    "drums", "drum", "percussion", "perc", "kick", "snare", "tom", "toms", "hihat", "hat", "cymbal", "cymbals",
    "tambourine", "shaker", "cowbell", "cabasa", "gong", "guiro", "gu", "castanet", "claps", "clap", "rattle",
    "maracas", "triangle", "bongo", "conga", "congas", "darbuka", "doumbek", "tabla", "timpani", "overheads",
}  # fmt: skip
_BASS = {"bass", "contrabass"}
# Instruments with "bass" in their name that aren't one.
_NOT_BASS = {"clarinet", "trombone", "flute", "saxophone", "sax", "singer", "voice", "vocal", "vocals", "drum"}


def stem_name(name: str) -> str:
    """The stem that a name means; a name that means none of the usual ones stays as it is, in lower case."""
    lower = name.strip().lower()
    whole = re.sub(r"[\s\-.]+", "_", lower)
    if whole in STEMS or whole == ACCOMPANIMENT:
        return whole
    if whole == "others":
        return "other"
    if whole in _ACCOMPANIMENT:
        return ACCOMPANIMENT
    words = set(re.findall(r"[a-z]+", lower))
    if words & _VOCALS:
        return "vocals"
    if words & _DRUMS or {"high", "hat"} <= words or {"sleigh", "bells"} <= words:
        return "drums"
    if words & _BASS and not words & _NOT_BASS:
        return "bass"
    if words <= {"other", "others"} and words:
        return "other"  # other_1, other_2 …
    return whole or "other"


def instrument_stem(instrument: Any, component: str) -> str:
    """The stem, of the four, of an instrument of MedleyDB.

    Args:
        instrument: its name, or a list of names where a stem holds several: then all must mean the same, else `other`.
        component: MedleyDB's "melody", "bass" or "".
    """
    names = instrument if isinstance(instrument, list) else [instrument]
    stems = {stem_name(str(name)) for name in names}
    stem = stems.pop() if len(stems) == 1 else "other"
    if component == "bass" and stem not in ("vocals", "drums"):
        return "bass"
    return stem if stem in ("vocals", "drums", "bass") else "other"
