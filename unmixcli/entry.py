"""A model as data: one registry entry, its files, licence and scores. Plain frozen dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmixcli.errors import RegistryError


@dataclass(frozen=True)
class Licence:
    """Terms of the weights (not of the code).

    Attributes:
        name: as it is shown; "unknown" is a value.
        spdx: identifier, or None.
        commercial_ok: None where nobody says.
        source: who says so.
    """

    name: str
    spdx: str | None = None
    commercial_ok: bool | None = None
    source: str = ""


@dataclass(frozen=True)
class Score:
    """Published or measured scores under one protocol; values of different protocols are never comparable.

    Attributes:
        protocol: data set, metric and how it was averaged.
        source: where the values stand.
        values: stem -> dB.
    """

    protocol: str
    source: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Paper:
    """What to cite."""

    title: str
    year: int
    url: str


# Hashes a file can be checked by, strongest first: the field of `ModelFile` and the algorithm. UVR knows its files by
# the MD5 of their end.
HASHES = ("sha256", "sha1", "md5", "uvr_md5")
UVR_TAIL = 10_000 * 1024  # bytes at the end of a file that "uvr_md5" is of; of a shorter one all


@dataclass(frozen=True)
class ModelFile:
    """One weights file. Every hash that is known is checked.

    Attributes:
        part: which piece of the model it is ("vocals", "checkpoint").
        name: file name in the cache.
        urls: mirrors, in the order they are tried.
        size: bytes, where it is known.
        sha256: 64 hex digits, where it is known.
        sha256_prefix: the first digits of it that upstream publishes (8 or more).
        sha1: 40 hex digits.
        md5: 32 hex digits.
        uvr_md5: 32 hex digits: MD5 of the last `UVR_TAIL` bytes.
        unverified: True if nobody publishes a hash, so that what arrives can't be checked.
        package: path inside this package for weights that ship with it.
    """

    part: str
    name: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    sha1: str | None = None
    md5: str | None = None
    uvr_md5: str | None = None
    unverified: bool | None = None
    package: str | None = None

    @property
    def hashes(self) -> dict[str, str]:
        """What is known: name of the hash -> its hex digits, or those of a sha256 that are published."""
        known = {kind: getattr(self, kind) for kind in HASHES}
        known["sha256"] = self.sha256 or self.sha256_prefix
        return {kind: value for kind, value in known.items() if value}

    @property
    def expected_hash(self) -> str:
        """The strongest hash that is known, or ""."""
        return next(iter(self.hashes.values()), "")

    @property
    def doubt(self) -> str:
        """Why a file that matches may not be the published one after all, as the end of a sentence, or ""."""
        known = self.hashes
        if self.sha256 or "sha1" in known or "md5" in known:
            return ""
        if "uvr_md5" in known:
            return f"checked by the MD5 of its last {UVR_TAIL} bytes, which is all that is published"
        if "sha256" in known:
            return f"checked by the first {len(known['sha256'])} digits of the sha256, which is all that is published"
        return "not checked, as no hash of it is published"

    def matches(self, digests: Mapping[str, str]) -> bool:
        """A file with these hashes (hex; at least those in `hashes`) is this one, as far as is published."""
        return (bool(self.hashes) or bool(self.unverified)) and not self.difference(digests)

    def difference(self, digests: Mapping[str, str]) -> str:
        """The hash that is another than the registry's, as a sentence without its end, or ""."""
        for kind, value in self.hashes.items():
            if not digests.get(kind, "").startswith(value):
                return f"{kind} is {digests.get(kind, 'unknown')[:8]}…, the registry says {value[:8]}…"
        return ""


@dataclass(frozen=True)
class ModelEntry:
    """One model, completely described; see `registry_schema.json` for each field.

    Attributes:
        sample_rate: Hz the model works at.
        channels: channels it takes.
        covers_mixture: the stems together are meant to add up to the mixture; None: as the architecture says, for
            more than one stem.
        folder: for a user's entry the folder of its own weights; None for a bundled one.
    """

    name: str
    title: str
    architecture: str
    config: Mapping[str, Any]
    stems: tuple[str, ...]
    sample_rate: int
    channels: int
    files: tuple[ModelFile, ...] = ()
    aliases: tuple[str, ...] = ()
    licence: Licence = field(default_factory=lambda: Licence("unknown"))
    training_data: str = "unknown"
    paper: Paper | None = None
    scores: tuple[Score, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: int | None = None
    covers_mixture: bool | None = None
    folder: Path | None = None

    @property
    def bundled(self) -> bool:
        """In the program's own registry, not the user's."""
        return self.folder is None

    @property
    def parts(self) -> tuple[str, ...]:
        """Part names of the files, in order."""
        return tuple(file.part for file in self.files)

    @property
    def size(self) -> int | None:
        """Bytes of all files together; None if one is not known; 0 without files."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def file(self, part: str) -> ModelFile:
        """The file of a part.

        Raises:
            RegistryError: there is none.
        """
        for file in self.files:
            if file.part == part:
                return file
        raise RegistryError(f"{self.name} has no file for {part!r}; it has {', '.join(self.parts) or 'none'}.")

    def as_json(self) -> dict[str, Any]:
        """The entry as JSON values, the shape `parse_entry` reads; what is not known is left out."""
        values = asdict(self)
        del values["folder"]
        for part in (values, values["licence"], *values["files"]):
            for key in [key for key, value in part.items() if value is None or value == ""]:
                del part[key]
        plain: dict[str, Any] = json.loads(json.dumps(values))  # tuples become lists
        return plain


@dataclass(frozen=True)
class Step:
    """A model that hears a stem of the models before it, in a chain.

    Attributes:
        stem: what it hears.
        model: name of an entry.
        names: its stems -> what they are called in the chain, where that differs.
        rest: what is called what it leaves over of its input; None for a model whose stems cover that.
    """

    stem: str
    model: str
    names: Mapping[str, str] = field(default_factory=dict)
    rest: str | None = None


@dataclass(frozen=True)
class Preset:
    """What "auto" means for a quality and some stems.

    Attributes:
        quality: "fast", "balanced" or "best".
        stems: it is for questions that these can answer; of a chain those that its steps add.
        model: name of an entry.
        overrides: values of the entry's config that differ.
        then: the further models of a chain.
    """

    quality: str
    stems: tuple[str, ...]
    model: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[Step, ...] = ()
