"""From a registry entry to a model that can run: choose it, have its files, read them, build it.

A published checkpoint is read once, by our own reader that runs nothing (`unpickle.py`), and its tensors are kept in
the cache as safetensors under the sha256 of the file they came from; later starts map that copy. A file's sha256 is
compared with the registry's before a byte of it is parsed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmixcli.cache import converted_path, find_file, hash_file, read_stamp, sync_folder, temporary_beside, write_stamp
from unmixcli.checkpoint_read import Checkpoint, read_checkpoint, read_package, read_state
from unmixcli.download import can_download, ensure_files, is_cached
from unmixcli.entry import Licence, ModelEntry
from unmixcli.errors import CheckpointError, OptionError, RegistryError, UnmixError
from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel
from unmixcli.progress import ProgressCallback, ignore_progress
from unmixcli.registry import Registry, can_give, load_registry

__all__ = [
    "Checkpoint",
    "build_model",
    "choose_model",
    "load_model",
    "read_checkpoint",
    "read_package",
    "read_state",
    "stored_checkpoint",
]

# The model whose weights are in the package.
FALLBACK = "unmix_small"
_SETTINGS = "settings"  # key in the metadata of a converted copy


def load_model(
    entry: ModelEntry,
    *,
    stems: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    offline: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> SeparationModel:
    """A model with its weights, in evaluation mode, float32, on the CPU. Fetches what is missing.

    Args:
        entry: which model.
        stems: those to compute (default: all of the entry's); only the files they need are fetched and read.
        overrides: values to use instead of the entry's config's.
        offline: use no network.
        on_progress: told of downloads and of what the user should know.

    Raises:
        OptionError: a stem or an override that the model doesn't have.
        DownloadError, CheckpointError, RegistryError: no files, unusable files, an entry that contradicts its model.
    """
    wanted = _ordered_stems(entry, stems)
    config = _with_overrides(entry, overrides)
    needed = _parts_needed(entry, config, wanted)
    ensure_files(entry, needed, offline=offline, on_progress=on_progress)
    loaded = {part: _verified(entry, part) for part in needed}
    config = architecture_class(entry.architecture).complete_config(
        config, {part: checkpoint.settings for part, checkpoint in loaded.items()}
    )
    states = {part: checkpoint.tensors for part, checkpoint in loaded.items()}
    return build_model(entry, config=config, stems=wanted, states=states)


def build_model(
    entry: ModelEntry, *, config: Mapping[str, Any], stems: Sequence[str], states: Mapping[str, Mapping[str, Tensor]]
) -> SeparationModel:
    """Build an entry's module and load its published tensors; they must fit to the last name.

    Raises:
        CheckpointError: they don't.
        RegistryError: the entry's sample rate, channels or stems are not the model's.
    """
    architecture = architecture_class(entry.architecture)
    model = architecture.from_config(config, stems)
    if architecture.has_weights:
        state = architecture.convert_state(config, states)
        try:
            # A module that was built without memory (on "meta") takes the tensors themselves.
            model.load_state_dict(state, strict=True, assign=any(p.is_meta for p in model.parameters()))
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise CheckpointError(
                f"the weights do not fit {entry.name} ({entry.architecture}): {' '.join(lines[1:4]).strip()[:400]}",
                hint="the config in the entry must be the one the weights were trained with.",
            ) from error
    for name, stated in (("sample_rate", entry.sample_rate), ("channels", entry.channels), ("stems", tuple(stems))):
        if getattr(model, name) != stated:
            raise RegistryError(f"{entry.name}: {name} is {stated}, but the model's is {getattr(model, name)}.")
    return model.float().requires_grad_(False).eval()


def _ordered_stems(entry: ModelEntry, stems: Sequence[str] | None) -> tuple[str, ...]:
    asked = entry.stems if stems is None else stems
    if missing := [stem for stem in asked if stem not in entry.stems]:
        raise OptionError(f"{entry.name} has no stem {', '.join(missing)}; it gives {', '.join(entry.stems)}.")
    # An output may need no stem at all (the mixture itself): a model is built for something nevertheless.
    return tuple(stem for stem in entry.stems if stem in asked) or entry.stems[:1]


def _with_overrides(entry: ModelEntry, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    unknown = [name for name in overrides or {} if name not in entry.config]
    if unknown:
        can = ", ".join(entry.config) or "nothing"
        raise OptionError(f"{entry.name} has no setting {', '.join(unknown)}; what can be set is {can}.")
    return {**entry.config, **(overrides or {})}


def _parts_needed(entry: ModelEntry, config: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
    return architecture_class(entry.architecture).parts_needed(config, entry.parts, stems) if entry.files else ()


# --- tensors


def _verified(entry: ModelEntry, part: str) -> Checkpoint:
    found = find_file(entry, entry.file(part))
    if found is None:  # it was there a moment ago
        raise CheckpointError(f"{entry.file(part).name} of {entry.name} was changed or deleted while it was loaded.")
    return stored_checkpoint(found.path, found.sha256)


def stored_checkpoint(path: Path, sha256: str) -> Checkpoint:
    """Tensors and settings of a weights file by way of its converted copy, which is made if it isn't there.

    Args:
        path: a whole file: safetensors, or one of torch.save.
        sha256: its hash, known to be right.

    Raises:
        CheckpointError: the file is refused or damaged.
    """
    copy = converted_path(sha256)
    if copy.is_file() and _stamp_holds(copy):
        with contextlib.suppress(SafetensorError, OSError, ValueError):
            return Checkpoint(load_file(copy), _stored_settings(copy))
    checkpoint = read_checkpoint(path)
    if not _is_safetensors(path):
        with contextlib.suppress(OSError):  # a cache that can't be written costs the conversion at each start
            _store(checkpoint, copy, source=sha256)
    return checkpoint


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def _stamp_holds(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return read_stamp(path) is not None
    return False


def _store(checkpoint: Checkpoint, path: Path, *, source: str) -> None:
    metadata = {"source_sha256": source, _SETTINGS: json.dumps(checkpoint.settings)}
    save_tensors(checkpoint.tensors, path, metadata=metadata)
    write_stamp(path, hash_file(path))


def _stored_settings(path: Path) -> dict[str, Any]:
    """What `_store` wrote beside the tensors."""
    with safe_open(path, framework="pt") as file:
        settings = json.loads((file.metadata() or {}).get(_SETTINGS, "{}"))
    return settings if isinstance(settings, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write safetensors so that the file is there complete or not at all.

    Raises:
        OSError: the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():  # safetensors wants each tensor to own its memory
        shared = tensor.data_ptr() in seen or tensor.untyped_storage().nbytes() != tensor.nbytes
        seen.add(tensor.data_ptr())
        separate[name] = tensor.contiguous().clone() if shared or not tensor.is_contiguous() else tensor
    handle, temporary = temporary_beside(path)
    os.close(handle)
    try:
        save_file(separate, temporary, metadata=dict(metadata or {}))
        with Path(temporary).open("rb+") as stream:
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} can't be written: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync_folder(path.parent)


# --- which model


def choose_model(
    name: str,
    stems: Sequence[str] = (),
    quality: str = "balanced",
    offline: bool = False,
    *,
    on_progress: ProgressCallback = ignore_progress,
    registry: Registry | None = None,
) -> tuple[ModelEntry, str | None]:
    """The entry to use, and a sentence for the user where "auto" did something worth knowing.

    A model named explicitly is never replaced. "auto" is the registry's model for the stems and the quality if it
    is on this machine or a mirror answers (asked for at most five seconds), else another preset's model that is on this
    machine, else the one that comes with the program.

    Args:
        name: registry name, alias, or "auto".
        stems: outputs asked for, those made of the mixture minus stems included; empty: any.
        quality: "fast", "balanced" or "best".
        offline: use no network.
        on_progress: not told of anything yet; downloads begin with `load_model`.
        registry: instead of the bundled and the user's.

    Raises:
        UnknownModelError: no such name.
        UnmixError: nothing that is here or can be fetched gives these stems.
    """
    registry = registry or load_registry()
    if name != "auto":
        return registry.get(name), None
    preset = registry.preset(stems, quality)
    if preset is None:
        raise _nothing_gives(registry, stems)
    entry = registry.get(preset.model)
    entry = replace(entry, config={**entry.config, **preset.overrides})
    parts = _parts_needed(entry, entry.config, _own_stems(entry, stems))
    if is_cached(entry, parts):
        return entry, None
    if not offline and can_download(entry, parts):
        return entry, f"{entry.name} is fetched once; licence of its weights: {licence_words(entry.licence)}."
    why = "no network may be used" if offline else "could not be reached"
    for other in registry.presets_for(stems or entry.stems, quality):
        candidate = registry.get(other.model)
        if candidate.name != entry.name and candidate.files and is_cached(candidate):
            return candidate, _instead(entry, why, candidate.name)
    return _fallback(registry, entry, stems, why)


def licence_words(licence: Licence) -> str:
    """A licence with what it means for commercial use, as a phrase."""
    commercial = {True: "commercial use allowed", False: "no commercial use", None: "commercial use unclear"}
    return f"{licence.name}, {commercial[licence.commercial_ok]}"


def _own_stems(entry: ModelEntry, asked: Sequence[str]) -> tuple[str, ...]:
    """The entry's stems that the outputs asked for are made of."""
    from unmixcli.stems import plan_stems

    return plan_stems(entry.stems, covers_mixture=True, stems=asked).compute or entry.stems[:1]


def _fallback(registry: Registry, wanted: ModelEntry, stems: Sequence[str], why: str) -> tuple[ModelEntry, str]:
    entry = registry.get(FALLBACK)
    if not can_give(entry.stems, stems):
        missing = ", ".join(stem for stem in stems if not can_give(entry.stems, [stem]))
        raise UnmixError(
            f"{wanted.name} is not on this machine and {why}, and the built-in {entry.name} gives no {missing}; "
            f"possible are {', '.join(entry.stems)} and accompaniment.",
            hint=f"`unmix models download {wanted.name}` when there is a network, or name a model with `--model`.",
        )
    return entry, _instead(wanted, why, f"the built-in {entry.name}, which is small and separates less well")


def _instead(wanted: ModelEntry, why: str, used: str) -> str:
    return (
        f"{wanted.name} is not on this machine and {why}; used instead: {used}. "
        f"To have it run `unmix models download {wanted.name}` when there is a network, or name a model with `--model`."
    )


def _nothing_gives(registry: Registry, stems: Sequence[str]) -> UnmixError:
    able = [entry.name for entry in registry.entries if can_give(entry.stems, stems)]
    if able:
        return OptionError(
            f"no model is set for {', '.join(stems)}.",
            hint=f"these give it: {', '.join(able)}; name one with `--model`.",
        )
    known = sorted({stem for entry in registry.entries for stem in entry.stems})
    return OptionError(
        f"no model gives {' together with '.join(stems)}; the stems that there are: {', '.join(known)}.",
        hint="`unmix models list --stem NAME` shows the models that give a stem.",
    )
