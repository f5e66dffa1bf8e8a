"""What models there are: the bundled `models_registry.json` and the user's own entries.

Importing and loading this is quick (no torch, no numpy), so that `unmix models list` answers at once.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unmixcli.entry import Licence, ModelEntry, ModelFile, Paper, Preset, Score, Step
from unmixcli.errors import OptionError, RegistryError, UnknownModelError
from unmixcli.paths import user_models_folder
from unmixcli.registry_parse import parse_entry, parse_registry

__all__ = [
    "Licence",
    "ModelEntry",
    "ModelFile",
    "Paper",
    "Preset",
    "Registry",
    "Score",
    "Step",
    "can_give",
    "load_registry",
    "named_entries",
]

logger = logging.getLogger(__name__)

JOINT = "+"  # between the models of an ensemble


@dataclass(frozen=True)
class Registry:
    """All entries, in the order of the files, bundled before the user's."""

    entries: tuple[ModelEntry, ...]
    presets: tuple[Preset, ...] = ()

    def get(self, name: str) -> ModelEntry:
        """The entry of a name or an alias (letter case is ignored).

        Raises:
            UnknownModelError: with the names that are near.
        """
        table = self._table()
        found = table.get(name.casefold())
        if found is not None:
            return found
        near = difflib.get_close_matches(name.casefold(), table, n=3, cutoff=0.5)
        names = list(dict.fromkeys(table[word].name for word in near))
        guess = f"Did you mean {' or '.join(names)}? " if names else ""
        raise UnknownModelError(
            f"there is no model {name!r}.",
            hint=guess + "`unmix models list` shows all; a weights file of your own "
            "becomes a model with `unmix models add FILE`.",
        )

    def _table(self) -> dict[str, ModelEntry]:
        table: dict[str, ModelEntry] = {}
        for entry in self.entries:  # names win over aliases
            table.setdefault(entry.name.casefold(), entry)
        for entry in self.entries:
            for alias in entry.aliases:
                table.setdefault(alias.casefold(), entry)
        return table

    def presets_for(self, stems: Sequence[str], quality: str) -> Iterator[Preset]:
        """The presets of one model and this quality that can answer for all of `stems` (every one can for none), best
        first."""
        return (p for p in self.presets if p.quality == quality and not p.then and can_give(p.stems, stems))

    def chains_for(self, stems: Sequence[str], quality: str) -> Iterator[Preset]:
        """The chains of this quality that can answer for all of `stems`, best first."""
        for preset in self.presets:
            possible = (*self.get(preset.model).stems, *preset.stems)
            if preset.quality == quality and preset.then and can_give(possible, stems):
                yield preset

    def preset(self, stems: Sequence[str], quality: str) -> Preset | None:
        """The best of `presets_for`."""
        return next(self.presets_for(stems, quality), None)

    def recommended(self, stems: Sequence[str] = (), quality: str = "balanced") -> str | None:
        """Name of the model that "auto" means, or None if no preset gives these stems."""
        preset = self.preset(stems, quality)
        return preset.model if preset else None


def named_entries(text: str, registry: Registry) -> list[ModelEntry]:
    """The entries of "a" or "a+b".

    Raises:
        UnknownModelError, OptionError: one isn't there, or is there twice.
    """
    return [registry.get(name) for name in _names(text, registry)]


def _names(text: str, registry: Registry) -> list[str]:
    """The names in "a+b". An alias may have a "+" of its own."""
    if JOINT not in text:
        return [text]
    try:
        return [registry.get(text).name]
    except UnknownModelError:
        names = [name.strip() for name in text.split(JOINT)]
    if "auto" in names or "" in names:
        raise OptionError(
            f"model is {text!r}, expected names of models between each +.", hint="`unmix models list` shows all."
        )
    found = [registry.get(name).name for name in names]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise OptionError(f"model is {text!r}, with {twice} twice.", hint="--weights says how much each counts.")
    return found


def can_give(model_stems: Sequence[str], asked: Sequence[str]) -> bool:
    """Whether a model with these stems can give what is asked, sums and differences with the mixture included.

    "rest" counts only where a model has it by name: what it means depends on the model.
    """
    if all(name in model_stems for name in asked):
        return True
    if "rest" in asked and "rest" not in model_stems:
        return False
    from unmixcli.stems import plan_stems  # numpy: not for the quick commands

    try:
        plan_stems(model_stems, covers_mixture=True, stems=asked)
    except OptionError:
        return False
    return True


def registry_path() -> Path:
    """The bundled registry: inside an installed package, at the top of a checkout."""
    inside = Path(__file__).with_name("models_registry.json")
    return inside if inside.is_file() else Path(__file__).parents[1] / "models_registry.json"


def load_registry(user: bool = True) -> Registry:
    """Read the bundled registry and, with `user`, the user's entries.

    A user's file that is broken or takes a bundled name is skipped with a logged warning that names it.

    Raises:
        RegistryError: the bundled file is broken.
    """
    path = registry_path()
    bundled = Registry(*parse_registry(read_json(path), where=path.name))
    if not user:
        return bundled
    taken = {name.casefold() for entry in bundled.entries for name in (entry.name, *entry.aliases)}
    entries = list(bundled.entries)
    for path in _user_files():
        try:
            entry = parse_entry(read_json(path), where=path.name, folder=path.with_suffix(""))
            if entry.name != path.stem:
                raise RegistryError(f"{path.name}: the name in it is {entry.name!r}, expected {path.stem!r}.")
            if entry.name.casefold() in taken:
                raise RegistryError(f"{path.name}: the name {entry.name!r} is taken by another model.")
        except RegistryError as error:
            logger.warning("%s is skipped: %s", path, error)
            continue
        taken.add(entry.name.casefold())
        entries.append(replace(entry, aliases=tuple(a for a in entry.aliases if a.casefold() not in taken)))
        taken.update(alias.casefold() for alias in entry.aliases)
    return replace(bundled, entries=tuple(entries))


def _user_files() -> list[Path]:
    try:
        return sorted(user_models_folder().glob("*.json"))
    except OSError as error:
        logger.warning("your models can't be listed: %s", error)
        return []


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        RegistryError: it can't be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegistryError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{path} is not JSON: {error}.") from error
