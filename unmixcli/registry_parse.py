"""Registry JSON to entries, with every value checked and the reason said where one is refused.

The same rules stand, for editors and other programs, in `registry_schema.json`; a test holds the two against
each other. Names come from files of strangers and become folder and file names, hence the strict patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmixcli.entry import Licence, ModelEntry, ModelFile, Paper, Preset, Score, Step
from unmixcli.errors import RegistryError

SCHEMA_VERSION = 1
QUALITIES = ("fast", "balanced", "best")

# \Z and not $: a name must not end in a line break.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")
_STEM = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_FILE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,126}[A-Za-z0-9])?\Z")
_PACKAGED = re.compile(r"weights/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")
_URL = re.compile(r"https?://[^\s/]+/\S*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PREFIX = re.compile(r"[0-9a-f]{8,63}\Z")
_SHA1 = re.compile(r"[0-9a-f]{40}\Z")
_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_ARCHITECTURE = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
# Device names on Windows: a file called so can't be made there.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))})


def parse_registry(data: Any, *, where: str = "registry") -> tuple[tuple[ModelEntry, ...], tuple[Preset, ...]]:
    """Entries and presets from a registry's JSON values.

    Raises:
        RegistryError: saying where it breaks the schema.
    """
    top = _Fields(data, where)
    version = top.integer("version", required=True)
    if version != SCHEMA_VERSION:
        raise RegistryError(
            f"{where}: version is {version}, expected {SCHEMA_VERSION}.", hint="this file is for another unmixcli."
        )
    entries = tuple(
        parse_entry(item, where=f"{where}: model {index + 1}") for index, item in enumerate(top.items("models"))
    )
    _check_unique([entry.name for entry in entries] + [a for e in entries for a in e.aliases], f"{where}: model names")
    presets = tuple(
        _parse_preset(item, entries, f"{where}: preset {index + 1}") for index, item in enumerate(top.items("presets"))
    )
    top.finish()
    return entries, presets


def parse_entry(data: Any, *, where: str, folder: Path | None = None) -> ModelEntry:
    """An entry from JSON values.

    Raises:
        RegistryError: saying where it breaks the schema.
    """
    fields = _Fields(data, where)
    name = fields.text("name", required=True, pattern=_NAME)
    fields.where = f"{where} ({name})"
    entry = ModelEntry(
        name=check_name(name),
        title=fields.text("title", default=name),
        architecture=fields.text("architecture", required=True, pattern=_ARCHITECTURE),
        config=fields.mapping("config"),
        stems=fields.texts("stems", _STEM),
        sample_rate=fields.integer("sample_rate", required=True, low=1, high=768_000),
        channels=fields.integer("channels", required=True, low=1, high=64),
        files=tuple(
            _parse_file(item, f"{fields.where}: file {index + 1}", folder is not None)
            for index, item in enumerate(fields.items("files"))
        ),
        aliases=fields.texts("aliases", _ALIAS),
        licence=_parse_licence(fields.take("licence", {"name": "unknown"}), f"{fields.where}: licence"),
        training_data=fields.text("training_data", default="unknown"),
        paper=_parse_paper(fields.take("paper", None), f"{fields.where}: paper"),
        scores=tuple(_parse_score(item, f"{fields.where}: scores") for item in fields.items("scores")),
        notes=fields.texts("notes"),
        parameters=fields.maybe_integer("parameters"),
        covers_mixture=fields.maybe_truth("covers_mixture"),
        folder=folder,
    )
    fields.finish()
    if not entry.stems:
        raise RegistryError(f"{fields.where}: stems is empty, expected at least one.")
    _check_unique(entry.stems, f"{fields.where}: stems")
    _check_unique(entry.parts, f"{fields.where}: parts of files")
    _check_unique([file.name for file in entry.files], f"{fields.where}: names of files")
    return entry


def check_name(name: str) -> str:
    """A name that may become a model's, or a reason why not.

    Raises:
        RegistryError: the name could leave its folder or can't be a file name everywhere.
    """
    if not _NAME.match(name) or name.partition(".")[0] in _RESERVED:
        raise RegistryError(
            f"the name {name!r} can't be used; expected 1 to 64 of a-z 0-9 . _ - with a letter or digit at both ends."
        )
    return name


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise RegistryError(f"{what}: {name!r} is there twice.")
        seen.add(name.casefold())


def _parse_file(data: Any, where: str, user: bool) -> ModelFile:
    fields = _Fields(data, where)
    file = ModelFile(
        part=fields.text("part", required=True, pattern=_STEM),
        name=fields.text("name", required=True, pattern=_FILE),
        urls=fields.texts("urls", _URL),
        size=fields.maybe_integer("size", low=1),
        sha256=fields.text("sha256", pattern=_SHA256) or None,
        sha256_prefix=fields.text("sha256_prefix", pattern=_PREFIX) or None,
        sha1=fields.text("sha1", pattern=_SHA1) or None,
        md5=fields.text("md5", pattern=_MD5) or None,
        uvr_md5=fields.text("uvr_md5", pattern=_MD5) or None,
        unverified=fields.maybe_truth("unverified"),
        package=fields.text("package", pattern=_PACKAGED) or None,
    )
    fields.finish()
    if file.name.partition(".")[0].casefold() in _RESERVED:
        raise RegistryError(f"{where}: the file name {file.name!r} can't be used on every system.")
    if bool(file.hashes) is bool(file.unverified):
        raise RegistryError(
            f"{where}: expected a hash to check the file by (sha256, sha256_prefix, sha1, md5, uvr_md5), or "
            "unverified: true where nobody publishes one."
        )
    if file.sha256 and file.sha256_prefix and not file.sha256.startswith(file.sha256_prefix):
        raise RegistryError(f"{where}: sha256 does not begin with sha256_prefix.")
    if not (file.urls or file.package or user):
        raise RegistryError(f"{where}: neither urls nor package is given.")
    return file


def _parse_licence(data: Any, where: str) -> Licence:
    fields = _Fields(data, where)
    commercial = fields.take("commercial_ok", None)
    if commercial is not None and not isinstance(commercial, bool):
        raise RegistryError(f"{where}: commercial_ok is {commercial!r}, expected true, false or null.")
    licence = Licence(
        name=fields.text("name", required=True),
        spdx=fields.text("spdx") or None,
        commercial_ok=commercial,
        source=fields.text("source"),
    )
    fields.finish()
    return licence


def _parse_paper(data: Any, where: str) -> Paper | None:
    if data is None:
        return None
    fields = _Fields(data, where)
    paper = Paper(
        title=fields.text("title", required=True),
        year=fields.integer("year", required=True, low=1900, high=2200),
        url=fields.text("url", required=True, pattern=_URL),
    )
    fields.finish()
    return paper


def _parse_score(data: Any, where: str) -> Score:
    fields = _Fields(data, where)
    values = fields.mapping("values")
    for stem, value in values.items():
        if not _STEM.match(stem) or isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RegistryError(f"{where}: {stem}: {value!r}, expected a number of dB for a stem.")
    score = Score(
        fields.text("protocol", required=True),
        fields.text("source", required=True),
        {stem: float(value) for stem, value in values.items()},
    )
    fields.finish()
    return score


def _parse_preset(data: Any, entries: Sequence[ModelEntry], where: str) -> Preset:
    fields = _Fields(data, where)
    preset = Preset(
        quality=fields.text("quality", required=True),
        stems=fields.texts("stems", _STEM),
        model=fields.text("model", required=True, pattern=_NAME),
        overrides=fields.mapping("overrides"),
        then=tuple(_parse_step(item, f"{where}: then") for item in fields.items("then")),
    )
    fields.finish()
    if preset.quality not in QUALITIES:
        raise RegistryError(f"{where}: quality is {preset.quality!r}, expected one of {', '.join(QUALITIES)}.")
    table = {entry.name: entry for entry in entries}
    for name in (preset.model, *(step.model for step in preset.then)):
        if name not in table:
            raise RegistryError(f"{where}: model is {name!r}, which is not an entry.")
    entry = table[preset.model]
    possible = _added(preset, table, where) if preset.then else set(entry.stems)
    if not preset.stems or not set(preset.stems) <= possible:
        raise RegistryError(f"{where}: stems are {list(preset.stems)}, expected some of {', '.join(sorted(possible))}.")
    if not set(preset.overrides) <= set(entry.config):
        raise RegistryError(f"{where}: overrides has a key that {entry.name}'s config has not.")
    return preset


def _parse_step(data: Any, where: str) -> Step:
    fields = _Fields(data, where)
    names = fields.mapping("names")
    if bad := [name for name in names.values() if not isinstance(name, str) or not _STEM.match(name)]:
        raise RegistryError(f"{where}: {bad[0]!r} in names, expected names of stems.")
    step = Step(
        stem=fields.text("stem", required=True, pattern=_STEM),
        model=fields.text("model", required=True, pattern=_NAME),
        names=names,
        rest=fields.text("rest", pattern=_STEM) or None,
    )
    fields.finish()
    return step


def _added(preset: Preset, table: Mapping[str, ModelEntry], where: str) -> set[str]:
    """The stems that the steps of a chain add; every step must hear one that is there, and add only new ones."""
    there = set(table[preset.model].stems)
    added: set[str] = set()
    for step in preset.then:
        own = table[step.model].stems
        if step.stem not in there:
            raise RegistryError(f"{where}: {step.model} shall hear {step.stem!r}, which nothing before it gives.")
        if unknown := set(step.names) - set(own):
            raise RegistryError(f"{where}: {step.model} has no stem {', '.join(sorted(unknown))}.")
        new = [step.names.get(stem, stem) for stem in own] + ([step.rest] if step.rest else [])
        if len(set(new)) < len(new) or there & set(new):
            raise RegistryError(f"{where}: {step.model} gives {', '.join(new)}, of which one is there twice.")
        there |= set(new)
        added |= set(new)
    return added


class _Fields:
    """Typed access to a JSON object that notices missing, wrong and left-over keys."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise RegistryError(f"{where}: expected an object, found {_kind(data)}.")
        self.where = where
        self._left: dict[str, Any] = dict(data)

    def take(self, key: str, default: Any) -> Any:
        value = self._left.pop(key, None)
        return default if value is None else value

    def _wrong(self, key: str, value: Any, expected: str) -> RegistryError:
        shown = repr(value)
        return RegistryError(f"{self.where}: {key} is {shown[:80]}, expected {expected}.")

    def text(
        self, key: str, *, required: bool = False, default: str = "", pattern: re.Pattern[str] | None = None
    ) -> str:
        value = self.take(key, None)
        if value is None:
            if required:
                raise RegistryError(f"{self.where}: {key} is missing.")
            return default
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a text that is not empty")
        if pattern and not pattern.match(value):
            raise self._wrong(key, value, f"a text of the form {pattern.pattern}")
        return value

    def texts(self, key: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        values = self.items(key)
        for value in values:
            if not isinstance(value, str) or not value or (pattern and not pattern.match(value)):
                form = f" of the form {pattern.pattern}" if pattern else ""
                raise self._wrong(key, value, f"texts{form}")
        return tuple(values)

    def integer(self, key: str, *, required: bool = False, low: int = 0, high: int = 2**53) -> int:
        value = self.take(key, None)
        if value is None and required:
            raise RegistryError(f"{self.where}: {key} is missing.")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def maybe_integer(self, key: str, *, low: int = 0) -> int | None:
        if self._left.get(key) is None:
            self._left.pop(key, None)
            return None
        return self.integer(key, low=low)

    def maybe_truth(self, key: str) -> bool | None:
        value = self.take(key, None)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.take(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.take(key, [])
        if not isinstance(value, list):
            raise self._wrong(key, value, "a list")
        return value

    def finish(self) -> None:
        """Complain about keys that nobody asked for (a typing error would otherwise pass silently)."""
        if self._left:
            raise RegistryError(f"{self.where}: unknown key {', '.join(map(repr, self._left))}.")


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
