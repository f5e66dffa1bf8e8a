"""The user's own models: add weights files, take them out again.

A file that the registry knows by its sha256 goes to the cache, as if it had been downloaded. Any other becomes an
entry of the user's: `NAME.json` in the configuration folder, its tensors as safetensors in the folder `NAME` beside
it. It is recorded only after the network was built and took every tensor.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unmixcli.cache import (
    copy_atomically,
    digests_of,
    file_path,
    hash_file,
    remove_cached,
    remove_file,
    write_atomically,
    write_stamp,
)
from unmixcli.checkpoint import Checkpoint, build_model, read_checkpoint, save_tensors, stored_checkpoint
from unmixcli.entry import HASHES, ModelEntry, ModelFile
from unmixcli.errors import CheckpointError, OptionError, OutputError, RegistryError, UnknownModelError
from unmixcli.models import PACKAGE_CLASSES, architecture_class
from unmixcli.paths import user_models_folder
from unmixcli.published_config import flatten, is_published, read_yaml
from unmixcli.registry import Registry, load_registry, read_json
from unmixcli.registry_parse import check_name, parse_entry

# What a `--config` file may say beside the architecture's own settings, when it is laid out like an entry.
_ENTRY_KEYS = frozenset(
    {
        "name", "title", "architecture", "config", "stems", "sample_rate", "channels", "aliases", "licence",
        "training_data", "paper", "scores", "notes", "parameters",
        "covers_mixture",
    }
)  # fmt: skip

BAG = "demucs_bag"  # several packages that are one model

# What holds for the same weights under another name.
_TERMS = frozenset({"licence", "training_data", "paper", "scores", "notes"})


@dataclass(frozen=True)
class Added:
    """What `add_model` did.

    Attributes:
        entry: the model that can be used now.
        recognised: the files are those of a bundled entry, now in the cache.
        sha256: part -> hash of each file given.
    """

    entry: ModelEntry
    recognised: bool
    sha256: Mapping[str, str]


def add_model(
    files: Sequence[str],
    *,
    name: str | None = None,
    like: str | None = None,
    architecture: str | None = None,
    config: str | Path | None = None,
    stems: Sequence[str] = (),
    licence: str | None = None,
) -> Added:
    """Make a model of weights files.

    Args:
        files: paths, or `PART=PATH`; without PART it is read off the file name where a model has several.
        name: of the new model; None: after the first file, or the known model that the files are.
        like: an entry whose architecture and settings are taken over.
        architecture: a row of the table of architectures.
        config: JSON or YAML file: the architecture's settings, a whole entry, or the file that was published with
            the weights. None: such a file of the weights' own name beside them, if there is one.
        stems: what the model gives; None: as `like`, or the parts.
        licence: of the weights, as it shall be shown.

    Raises:
        OptionError: what was said is not enough, or contradicts itself.
        RegistryError: the name is taken or can't be used.
        CheckpointError: a file that is refused, or tensors that do not fit.
    """
    registry = load_registry()
    given = [_split(text) for text in files]
    digests = {path: _digests(path) for _, path in given}
    hashes = {path: found["sha256"] for path, found in digests.items()}
    known = _recognise(registry, list(digests.values()))
    terms: dict[str, Any] = {}
    own_settings = any((name, like, architecture, config, stems))
    if known is not None and not own_settings:
        return _fill_cache(known, digests)
    if known is not None and like is None and architecture is None and config is None:
        like = known.name
        terms = {key: value for key, value in known.as_json().items() if key in _TERMS}
    if config is None and like is None:
        config = _config_beside(given[0][1])
    template = {**terms, **_template(registry, like, architecture, config, stems)}
    loaded: dict[Path, Checkpoint] = {}
    if "architecture" not in template:
        loaded = {path: read_checkpoint(path) for path in hashes}
        template |= _described(loaded, template)
        if template["architecture"] == BAG:
            given = [(part or _part_from(path), path) for part, path in given]
    parts = _parts(given, template, registry.get(like) if like else None)
    loaded = {path: loaded.get(path) or read_checkpoint(path) for path in parts.values()}
    settings = {part: loaded[path].settings for part, path in parts.items()}
    entry = _new_entry(
        registry, name or template.get("name") or _name_from(given[0][1]), template, parts, licence, settings
    )
    if like is not None and set(entry.stems) < set(registry.get(like).stems):
        entry = replace(entry, covers_mixture=False)  # some of a model's stems leave the others over
    return _record(entry, parts, hashes, {part: loaded[path].tensors for part, path in parts.items()})


def remove_model(name: str) -> list[Path]:
    """Take a model away: a user's own with its entry and weights, a bundled one from the cache only.

    Returns:
        The files deleted.

    Raises:
        UnknownModelError: no such model.
    """
    registry = load_registry()
    removed: list[Path] = []
    folder = broken_entry(name)
    if folder is None:
        entry = registry.get(name)
        removed = remove_cached(entry, [other for other in registry.entries if other.name != entry.name])
        folder = entry.folder
    if folder is not None:
        record = folder.with_name(f"{folder.name}.json")
        removed += [record, *sorted(path for path in folder.glob("[!.]*") if path.is_file())]
        record.unlink(missing_ok=True)  # first: an entry without weights would be an error at every use
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def broken_entry(name: str) -> Path | None:
    """Folder of an entry of the user's that can't be read and so is in no registry, or None."""
    try:
        load_registry().get(check_name(name))
    except RegistryError:
        return None
    except UnknownModelError:
        folder = user_models_folder() / name
        return folder if folder.with_name(f"{name}.json").exists() else None
    return None


def _split(text: str) -> tuple[str | None, Path]:
    part, equals, rest = text.partition("=")
    if equals and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", part) and not Path(text).exists():
        return part, Path(rest)
    return None, Path(text)


def _digests(path: Path) -> dict[str, str]:
    try:
        return digests_of(path, HASHES)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}.") from error


def _recognise(registry: Registry, digests: Sequence[Mapping[str, str]]) -> ModelEntry | None:
    """The bundled entry whose files these all are, by every hash that is known of them."""
    for entry in registry.entries:
        if entry.bundled and entry.files and all(_file_of(entry, found) for found in digests):
            return entry
    return None


def _file_of(entry: ModelEntry, digests: Mapping[str, str]) -> ModelFile | None:
    return next((file for file in entry.files if file.hashes and file.matches(digests)), None)


def _fill_cache(entry: ModelEntry, digests: Mapping[Path, Mapping[str, str]]) -> Added:
    added = {}
    for path, found in digests.items():
        file = _file_of(entry, found)
        if file is not None:  # it was recognised
            stored_checkpoint(path, found["sha256"])  # refuses what can't be read, and keeps the converted copy
            _copy(path, file_path(entry, file), found)
            added[file.part] = found["sha256"]
    return Added(entry, True, added)


def _copy(path: Path, target: Path, digests: Mapping[str, str]) -> None:
    try:
        copied = copy_atomically(path, target)
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error.strerror or error}.") from error
    if copied != digests["sha256"]:
        remove_file(target)
        raise CheckpointError(f"{path} was changed while it was read.")
    write_stamp(target, digests)


# --- a new entry


def _template(
    registry: Registry, like: str | None, architecture: str | None, config: str | Path | None, stems: Sequence[str]
) -> dict[str, Any]:
    """The entry's values as far as they are known without looking at the files."""
    if like is not None:
        model = registry.get(like).as_json()
        values: dict[str, Any] = {key: model[key] for key in ("architecture", "config", "stems")}
    else:
        values = {"config": {}}
    if config is not None:
        read = _read_config(Path(config))
        if is_published(read):
            values |= _published(read, architecture, Path(config))
        elif "architecture" in read or "config" in read:
            if unknown := set(read) - _ENTRY_KEYS:
                raise RegistryError(f"{config}: unknown key {', '.join(sorted(map(str, unknown)))}.")
            values |= read
        else:
            values["config"] = {**values["config"], **read}
    if architecture is not None:
        values["architecture"] = architecture
    if stems:
        values["stems"] = list(stems)
    return values


def _described(loaded: Mapping[Path, Checkpoint], template: Mapping[str, Any]) -> dict[str, Any]:
    """What files that name their class say themselves: architecture (of several files: a bag), and stems unless the
    user named them.

    Raises:
        OptionError: they say nothing, or not the same.
    """
    kinds = [PACKAGE_CLASSES.get(str(checkpoint.settings.get("class"))) for checkpoint in loaded.values()]
    architectures = [kind for kind in kinds if kind is not None]
    if len(architectures) < len(kinds):
        raise OptionError(
            "these weights are none that the registry knows, so it must be said what they are of.",
            hint="give --like MODEL, or --architecture NAME with --config FILE.",
        )
    values: dict[str, Any] = {"architecture": architectures[0] if len(architectures) == 1 else BAG}
    if not template.get("stems"):
        outputs = []
        for kind, checkpoint in zip(architectures, loaded.values(), strict=True):
            sources = architecture_class(kind).complete_config({}, {"": checkpoint.settings}).get("sources")
            outputs.append(sources if isinstance(sources, list) and all(isinstance(s, str) for s in sources) else [])
        if any(sources != outputs[0] for sources in outputs):
            raise OptionError(
                "these packages don't give the same stems, so they are no bag.", hint="add each of them by itself."
            )
        values["stems"] = outputs[0]
    return values


def _part_from(path: Path) -> str:
    """A part's name from a file's: what is before the hash in `955717e8-8726e21a.th`."""
    return re.sub(r"[^a-z0-9_]+", "_", path.stem.lower().partition("-")[0]).strip("_")[:32] or "member"


def _config_beside(weights: Path) -> Path | None:
    """The published config file of these weights: `NAME.yaml` or `NAME.ckpt.yaml` beside `NAME.ckpt`."""
    for suffix in (".yaml", ".yml"):
        for path in (weights.with_suffix(suffix), weights.with_name(weights.name + suffix)):
            # others are of another program: Demucs describes its bags in such files
            if path.is_file() and isinstance(values := read_yaml(path), dict) and is_published(values):
                return path
    return None


def _published(values: Mapping[str, Any], architecture: str | None, path: Path) -> dict[str, Any]:
    try:
        architecture, config, stems = flatten(values, architecture)
    except RegistryError as error:
        raise RegistryError(f"{path}: {error}", hint=error.hint) from error
    return {
        "architecture": architecture,
        "config": config,
        "stems": stems,
        "notes": [f"settings: those of {path.name}"],
    }


def _read_config(path: Path) -> dict[str, Any]:
    values = read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else read_json(path)
    if not isinstance(values, dict):
        raise RegistryError(f"{path}: expected settings by name, found a {type(values).__name__}.")
    return values


def _parts(
    given: Sequence[tuple[str | None, Path]], template: Mapping[str, Any], like: ModelEntry | None
) -> dict[str, Path]:
    """Part name -> path. One file of a one-file model needs no name; else PART= or the file name says it."""
    names = list(like.parts if like else template.get("stems", ()))
    parts: dict[str, Path] = {}
    for part, path in given:
        if part is None:
            part = _part_of(path, names, alone=len(given) == 1, stems_only=like is None)
        elif like and part not in names:
            raise OptionError(f"{like.name} has no part {part!r}; it has {', '.join(names)}.")
        if part in parts:
            raise OptionError(f"{path} and {parts[part]} are both taken for the part {part!r}; write PART=PATH.")
        parts[part] = path
    return parts


def _part_of(path: Path, names: Sequence[str], *, alone: bool, stems_only: bool) -> str:
    """The part that a file is; `names` are parts, or with `stems_only` just the stems the user named."""
    stem = path.name.lower()
    found = [name for name in names if re.match(rf"{re.escape(name)}(?![a-z0-9])", stem)]
    if len(found) == 1:
        return found[0]
    if alone and len(names) <= 1:
        return names[0] if names else "checkpoint"
    if alone and stems_only:
        return "checkpoint"  # one file for all stems
    raise OptionError(
        f"which part of the model {path.name} is can't be read off its name; parts are {', '.join(names)}.",
        hint=f"write PART=PATH, for example {names[0] if names else 'vocals'}={path.name}.",
    )


def _name_from(path: Path) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "_", path.stem.lower()).strip("._-")[:64].strip("._-")
    if not name:
        raise OptionError(f"no model name can be made of {path.name}; give one with --name.")
    return name


def _new_entry(
    registry: Registry,
    name: str,
    template: Mapping[str, Any],
    parts: Mapping[str, Path],
    licence: str | None,
    settings: Mapping[str, Mapping[str, Any]],
) -> ModelEntry:
    check_name(name)
    taken = {word.casefold() for entry in registry.entries for word in (entry.name, *entry.aliases)}
    if name.casefold() in taken:
        raise RegistryError(
            f"the name {name!r} is taken.", hint=f"choose another with --name, or `unmix models remove {name}` first."
        )
    folder = user_models_folder() / name
    record = folder.with_name(f"{name}.json")
    if record.exists():  # but not in the registry: it is broken, and the warning that was logged says how
        raise RegistryError(f"{record} is there already and can't be used.", hint=f"`unmix models remove {name}`.")
    known = list(template.get("stems", ()))
    stems = [stem for stem in known if stem in parts] if set(parts) <= set(known) else known or list(parts)
    config = dict(template["config"])
    if list(config.get("targets", ())) == known:
        config["targets"] = stems
    values = {"sample_rate": 44100, "channels": 2, **template, "name": name, "stems": stems, "config": config}
    if licence:
        values["licence"] = {"name": licence, "source": "stated when the model was added"}
    entry = parse_entry(values, where=name, folder=folder)
    architecture = architecture_class(entry.architecture)
    entry = replace(entry, config=architecture.complete_config(entry.config, settings))
    if not architecture.has_weights:
        raise OptionError(f"{entry.architecture} is a method without weights, there is nothing to add.")
    # The model says itself at what rate and with how many channels it works, unless the config file claims something.
    probe = architecture.from_config(entry.config, entry.stems)
    return replace(
        entry,
        sample_rate=template.get("sample_rate", probe.sample_rate),
        channels=template.get("channels", probe.channels),
    )


def _record(
    entry: ModelEntry,
    parts: Mapping[str, Path],
    hashes: Mapping[Path, str],
    states: Mapping[str, Mapping[str, Tensor]],
) -> Added:
    """Prove that the tensors fit, then write tensors and entry, the entry last."""
    model = build_model(entry, config=entry.config, stems=entry.stems, states=states)
    parameters = sum(tensor.numel() for tensor in model.parameters())
    folder = user_models_folder() / entry.name
    try:
        files = []
        for part in parts:
            target = folder / f"{part}.safetensors"
            save_tensors(states[part], target, metadata={"source_sha256": hashes[parts[part]]})
            sha256 = hash_file(target)
            write_stamp(target, sha256)
            files.append(ModelFile(part=part, name=target.name, size=target.stat().st_size, sha256=sha256))
        notes = (*entry.notes, *(f"{part}: made of {path.name}, sha256 {hashes[path]}" for part, path in parts.items()))
        entry = replace(entry, files=tuple(files), parameters=parameters, notes=notes)
        text = json.dumps(entry.as_json(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder.with_name(f"{entry.name}.json"), text.encode())
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise OutputError(f"{folder} can't be written: {error.strerror or error}.") from error
        raise
    return Added(entry, False, {part: hashes[path] for part, path in parts.items()})
