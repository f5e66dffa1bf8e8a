"""Where a run stands, in one file: tensors as safetensors, everything else as JSON in its header.

One file that is written beside its place, flushed and renamed: a kill at any moment leaves the last whole checkpoint.
The nested lists and tables of an optimiser's state become JSON in which every tensor is a reference by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmixcli.checkpoint import save_tensors
from unmixcli.errors import CheckpointError, OutputError

FILE = "checkpoint.safetensors"
VERSION = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state: any nesting of dicts, lists, numbers, texts and tensors.

    Raises:
        OutputError: the file can't be written.
    """
    tensors: dict[str, Tensor] = {}
    plain = {"version": VERSION, "state": _pack(state, "", tensors)}
    try:
        save_tensors(tensors, path, metadata={"unmix": json.dumps(plain)})
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}.") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors on the CPU.

    Raises:
        CheckpointError: no such file, or another file.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            plain = json.loads((stored.metadata() or {})["unmix"])
            # Copies lie where torch puts its own: sums of products are rounded by how memory is aligned.
            tensors = {name: stored.get_tensor(name).clone() for name in stored.keys()}  # noqa: SIM118
        if plain["version"] != VERSION:
            raise CheckpointError(f"{path} was written by another version of unmixcli (its format {plain['version']}).")
        state = _unpack(plain["state"], tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of unmix train: {error}.") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is no checkpoint of unmix train.")
    return state


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON values; tensors go to `tensors` under a name that says where they were."""
    if isinstance(value, Tensor):
        # the name is for people; the number keeps it unique
        key = f"{len(tensors)}{name}"
        tensors[key] = value.detach().cpu()
        return {"tensor": key}
    if isinstance(value, Mapping):
        # pairs, as an optimiser's keys are numbers
        return {"pairs": [[key, _pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of torch's generators, on the CPU and on `device`. Excerpts don't need them: each has its own seed."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on with the numbers after `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def load_average(path: Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint, to start another run from.

    Raises:
        CheckpointError: no such file, or another file.
    """
    state = load_checkpoint(path).get("average")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no averaged weights.")
    return state
