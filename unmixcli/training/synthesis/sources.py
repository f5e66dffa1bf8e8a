"""The material: which recordings, MIDI files and voices a data folder holds, under which licence, and for which split.

Layout (all parts are optional; what is missing is played by the synthesizer, or left out):

    sources/{bass,drums,other,vocals}/<name>/…   recordings, each folder with its LICENCE.txt
    sources/midi/groove/*.mid                    drum performances, d<drummer>_…
    midi/<collection>/**/*.mid                   songs
    samples/<pack>/drums/…                       one-shots and loops
    train/<song>/vocals.ogg                      sung vocals apart; train/vocadito/*: solo voices

Validation gets whole units (speakers, kits, songs, drummers) that no training track uses. The choice follows from the
names, so it stays when files are added elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from unmixcli.errors import InputError
from unmixcli.training.synthesis.drums import Kit, find_kit
from unmixcli.training.synthesis.sampler import Instrument, find_articulations

T = TypeVar("T")
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
_AUDIO = (".ogg", ".flac", ".wav", ".mp3")
# Words in folder names -> the role an instrument can play.
_ROLES = (
    ("organ", "organ"), ("archtop", "acoustic"), ("electric", "guitar"), ("banjo", "banjo"),
    ("epiano", "epiano"), ("wurlitzer", "epiano"), ("piano", "piano"), ("sax", "reed"), ("tuba", "brass"),
)  # fmt: skip
_HOLD_OUT_FROM = 3  # a role with fewer instruments gives none to validation: training needs them more
# Arrangements of other people's themes in a collection whose licence can't cover those.
_NOT_OWN = re.compile(r"arrangement|remix of|carol of the bells|'s theme|anthem", re.IGNORECASE)
_NOT_DRUMS = re.compile(r"drone|weirdo|3d_printer|robot|phone|blip|bleep|beep|glitch")


@dataclass(frozen=True)
class Voice:
    """One singer or speaker.

    Attributes:
        name: folder and speaker.
        kind: "speech", "syllables" (one per file), "shout" or "song" (vocals of a whole song, with their effects).
        files: recordings.
    """

    name: str
    kind: Literal["speech", "syllables", "shout", "song"]
    files: tuple[Path, ...]


@dataclass
class Shelf:
    """What the tracks of one split are made of."""

    instruments: list[Instrument] = field(default_factory=list)
    kits: list[Kit] = field(default_factory=list)
    machines: list[Kit] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    songs: list[Path] = field(default_factory=list)
    grooves: list[Path] = field(default_factory=list)
    voices: list[Voice] = field(default_factory=list)

    def players(self, role: str) -> list[Instrument]:
        """Instruments for a role."""
        return [instrument for instrument in self.instruments if instrument.role == role]

    def is_empty(self) -> bool:
        """Whether there is neither music nor voice."""
        return not (self.songs or self.grooves or self.voices or self.instruments)


@dataclass
class Library:
    """All material, by split, and where it comes from.

    Attributes:
        root: the data folder.
        shelves: material by split.
    """

    root: Path
    shelves: dict[Split, Shelf]

    def credit(self, path: Path) -> dict[str, str]:
        """Name, licence and credit line of the collection a file belongs to."""
        try:
            parts = path.relative_to(self.root).parts
        except ValueError:
            return {"name": path.name, "licence": "unknown"}
        depth = 3 if parts[0] == "sources" else 2
        folder = self.root.joinpath(*parts[: min(depth, len(parts) - 1)])
        return {"name": folder.relative_to(self.root).as_posix(), **_licence(folder, parts)}


def open_library(root: Path, validation_share: float) -> Library:
    """Look through a data folder.

    Args:
        root: the folder.
        validation_share: about this part of the units is kept for validation, 0 … 0.5.

    Raises:
        InputError: there is nothing to make music of.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder.", hint="--data wants a folder with sources/, midi/ … in it."
        )
    shelves = {split: Shelf() for split in SPLITS}
    _add_instruments(root, shelves, validation_share)
    _add_drums(root, shelves, validation_share)
    _add_scores(root, shelves, validation_share)
    _add_voices(root, shelves, validation_share)
    if shelves["train"].is_empty():
        raise InputError(
            f"{root}: no instruments, MIDI files or voices found.",
            hint="expected are sources/{bass,drums,other,vocals}/NAME, midi/, samples/, train/ (see the how-to).",
        )
    return Library(root, shelves)


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The names kept for validation: about `share` of them, at least one of two, none where share is 0."""
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if share <= 0.0 or len(ordered) < 2:
        return set()
    return set(ordered[: max(1, round(share * len(ordered)))])


def _audio(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _AUDIO) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _add_instruments(root: Path, shelves: dict[Split, Shelf], share: float) -> None:
    by_role: dict[str, list[Path]] = defaultdict(list)
    for folder in _folders(root / "sources" / "bass"):
        by_role["bass"].append(folder)
    for folder in _folders(root / "sources" / "other"):
        role = next((role for word, role in _ROLES if word in folder.name), None)
        if role is not None:
            by_role[role].append(folder)
    for role, folders in by_role.items():
        kept = held_out([folder.name for folder in folders], share) if len(folders) >= _HOLD_OUT_FROM else set()
        for folder in folders:
            split: Split = "validation" if folder.name in kept else "train"
            shelves[split].instruments += find_articulations(_audio(folder), folder.name, role)


def _add_drums(root: Path, shelves: dict[Split, Shelf], share: float) -> None:
    kits = [find_kit(_audio(folder), folder.name) for folder in _folders(root / "sources" / "drums")]
    kits = [kit for kit in kits if kit.pieces]
    # the kits with the fewest pieces are kept: a kit without cymbals serves validation as well, training less
    kits.sort(key=lambda kit: -len(kit.pieces))
    kept = (
        {kit.name for kit in kits[len(kits) - max(1, round(share * len(kits))) :]}
        if share > 0 and len(kits) > 1
        else set()
    )
    for kit in kits:
        shelves["validation" if kit.name in kept else "train"].kits.append(kit)
    for pack in _folders(root / "samples"):
        hits = [path for path in _audio(pack / "drums" / "one-shots") if not _NOT_DRUMS.search(path.stem)]
        loops = [path for path in _audio(pack / "drums" / "loops") if not _NOT_DRUMS.search(path.stem)]
        # within each piece, so that both splits have a kick, a snare and cymbals
        kept = {
            name
            for _, group in _grouped(hits, lambda p: p.parent.name)
            for name in held_out([p.stem for p in group], share)
        }
        for split, chosen in _split(hits, kept, lambda path: path.stem):
            machine = find_kit(chosen, f"{pack.name}/one-shots")
            if machine.pieces:
                shelves[split].machines.append(machine)
        for split, chosen in _split(loops, held_out([path.stem for path in loops], share), lambda path: path.stem):
            shelves[split].loops += chosen


def _add_scores(root: Path, shelves: dict[Split, Shelf], share: float) -> None:
    songs = sorted((root / "midi").rglob("*.mid")) if (root / "midi").is_dir() else []
    songs = [path for path in songs if not _NOT_OWN.search(path.stem)]
    for split, chosen in _split(songs, held_out(map(_song, songs), share), _song):
        shelves[split].songs += chosen
    grooves = sorted((root / "sources" / "midi").rglob("*.mid")) if (root / "sources" / "midi").is_dir() else []
    for split, chosen in _split(grooves, held_out(map(_drummer, grooves), share), _drummer):
        shelves[split].grooves += chosen


def _add_voices(root: Path, shelves: dict[Split, Shelf], share: float) -> None:
    voices: list[Voice] = []
    for folder in _folders(root / "sources" / "vocals"):
        if "utau" in folder.name:
            voices.append(Voice(folder.name, "syllables", tuple(_audio(folder))))
        elif "metal" in folder.name or "shout" in folder.name:
            voices.append(Voice(folder.name, "shout", tuple(_audio(folder))))
        else:
            for speaker, files in _grouped(_audio(folder), _speaker):
                voices.append(Voice(f"{folder.name}/{speaker}", "speech", tuple(files)))
    for folder in _folders(root / "train"):
        vocals = [path for path in _audio(folder) if path.stem == "vocals"]
        alone = [] if vocals else [path for path in _audio(folder) if path.stem.startswith(folder.name)]
        voices += [Voice(f"{folder.name}/{path.stem}", "song", (path,)) for path in vocals + alone]
    for kind in ("speech", "song"):
        same = [voice for voice in voices if voice.kind == kind]
        for split, chosen in _split(same, held_out([voice.name for voice in same], share), lambda voice: voice.name):
            shelves[split].voices += chosen
    shelves["train"].voices += [voice for voice in voices if voice.kind in ("syllables", "shout")]


def _split(items: Sequence[T], kept: set[str], unit: Callable[[T], str]) -> list[tuple[Split, list[T]]]:
    return [
        ("train", [item for item in items if unit(item) not in kept]),
        ("validation", [item for item in items if unit(item) in kept]),
    ]


def _grouped(paths: Iterable[Path], key: Callable[[Path], str]) -> list[tuple[str, list[Path]]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return sorted(groups.items())


def _song(path: Path) -> str:
    """A song with all its remixes."""
    return path.stem.split(" (")[0]


def _drummer(path: Path) -> str:
    return path.stem.split("_")[0]


def _speaker(path: Path) -> str:
    """Who speaks, as far as the file names of the known corpora tell; unknown speakers of a corpus stay together."""
    name = path.stem
    for pattern in (r"(cmu_arctic_us_[a-z]+)", r"(?:^|_)(p\d{3})(?:_|$)", r"^(LJ)\d", r"^(\d{3,5})$"):
        match = re.search(pattern, name)
        if match:
            return match[1]
    return "various"


def _licence(folder: Path, parts: tuple[str, ...]) -> dict[str, str]:
    """Licence (and credit line) as the folder's own licence file says; what has none is named by the how-to page."""
    for file in sorted(folder.glob("LICENCE*")) + sorted(folder.glob("LICENSE*")) + sorted(folder.glob("COPYING*")):
        text = file.read_text(encoding="utf-8", errors="replace")
        licence = re.search(r"^Licence: (.+)$", text, re.MULTILINE)
        credit = re.search(r"^CREDIT LINE[^:]*: (.+)$", text, re.MULTILINE)
        known = licence[1].strip() if licence else _KNOWN.get(folder.name, f"see {file.name}")
        out = {"licence": known}
        if credit or folder.name in _CREDITS:
            out["credit"] = credit[1].strip() if credit else _CREDITS[folder.name]
        return out
    out = {"licence": _KNOWN.get(folder.name, "CC0-1.0" if parts[0] in ("train", "samples") else "unknown")}
    if folder.name in _CREDITS:
        out["credit"] = _CREDITS[folder.name]
    return out


_KNOWN = {"freedoom": "BSD-3-Clause", "tannerhelland": "CC-BY-4.0", "vocadito": "CC-BY-4.0"}
_CREDITS = {
    "freedoom": "Freedoom, contributors to the Freedoom project.",
    "tannerhelland": "Music by Tanner Helland, CC BY 4.0.",
    "vocadito": "vocadito, Rachel Bittner et al. 2021, CC BY 4.0.",
}
