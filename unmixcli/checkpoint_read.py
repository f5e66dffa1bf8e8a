"""Weights files to tensors: safetensors, torch's zip format and its older, pickled one, and TensorFlow's checkpoints
(`tensorflow_bundle.py`). Nothing in a file can run.

Sizes are checked against the file before memory is taken for them: a small file can't ask for a large tensor.
Names of files inside a zip are only looked up, never used as paths.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.onnx_read import ONNX_FILE, describe, is_onnx, read_graph
from unmixcli.quantized import is_quantized, number_tensors
from unmixcli.tensorflow_bundle import find_index, is_index, read_archive, read_beside
from unmixcli.unpickle import ITEM_SIZES, Inert, Name, StorageRef, TensorRef, read_pickle

# Where published checkpoints keep their state dict, in the order we look.
STATE_KEYS = ("state", "state_dict", "model_state_dict", "model")
VERSION_1 = " (version 1)"
# What wrappers (DataParallel, Lightning, torch.compile) put before every name.
PREFIXES = ("module.", "model.", "_orig_mod.")

_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PROTOCOL = 1001
_STORAGE_KEY = re.compile(r"[0-9A-Za-z_]{1,64}\Z")
_MAX_DEPTH = 64
_MAX_SETTINGS = 1000  # items of a list among the settings


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        tensors: the state dict, names without wrapper prefixes, element types as stored.
        settings: what the file says about the network, JSON values: see `find_settings`.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Tensors and settings of a weights file.

    Raises:
        CheckpointError: not a weights file, damaged, without a state dict, or with anything in it that is not data.
    """
    content = as_package(read_package(path))
    return Checkpoint(_state_of(content, path), find_settings(content))


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a weights file, names without wrapper prefixes, element types as stored.

    Raises:
        CheckpointError: as for `read_checkpoint`.
    """
    return _state_of(as_package(read_package(path)), path)


def _state_of(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    state = find_state(content)
    if state is None:
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{Path(path).name}: no tensors were found at the top level or under {', '.join(STATE_KEYS)}; "
            f"what is there: {keys or 'nothing'}."
        )
    return state


def find_state(content: Any, *, levels: int = 3) -> dict[str, Tensor] | None:
    """The state dict inside a package, at most `levels` deep, or None."""
    if not isinstance(content, Mapping) or levels == 0:
        return None
    # a single number may stand beside the state dict, such as the loss of a package of the homework's networks
    if any(isinstance(value, Tensor) and value.dim() for value in content.values()):
        found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        return _without_prefixes(found)
    for key in STATE_KEYS:
        found_below = find_state(content.get(key), levels=levels - 1)
        if found_below is not None:
            return found_below
    return None


def as_package(content: Any) -> Any:
    """The tuple (class, args, kwargs, state) of Demucs' first version as the dictionary of the later ones; whatever
    else it is, unchanged. The class's name gets `VERSION_1` at its end, as the second version has another of that name.
    Quantised weights become numbered tensors (`quantized.py`).
    """
    match content:
        case (Name(name), args, kwargs, state):
            return {"klass": Name(name + VERSION_1), "args": args, "kwargs": kwargs, "state": state}
    if isinstance(content, Mapping) and is_quantized(content.get("state")):
        return {**content, "state": number_tensors(content["state"])}
    return content


def find_settings(content: Any) -> dict[str, Any]:
    """The class and the constructor's arguments of a package that names them (Demucs, asteroid), as JSON values.

    Returns:
        {"class": its full name, "args": [...], "kwargs": {...}} with fractions as text ("39/5"), or nothing where there
        is no such package. An argument that JSON can't hold is left out of `kwargs` and None in `args`. Of an ONNX file
        {"onnx": what `onnx_read.describe` tells of its graph}. Arguments of a command line that stand in the file
        (`argparse.Namespace`) are those of Meta-TasNet, the only one published so.
    """
    if isinstance(content, Mapping) and isinstance(content.get(ONNX_FILE), Tensor):
        return {"onnx": describe(read_graph(content[ONNX_FILE].numpy().data))}
    if not isinstance(content, Mapping):
        return {}
    args: Any
    if isinstance(content.get("model_name"), str):
        name, args, kwargs = f"asteroid.{content['model_name']}", (), content.get("model_args", {})
    elif isinstance(content.get("klass"), Name):
        name, args, kwargs = content["klass"].name, content.get("args", ()), content.get("kwargs", {})
    elif _is_namespace(content.get("args")) and "stages_num" in content["args"].state[0]:
        name, args, kwargs = "meta_tasnet.MultiTasNet", (), content["args"].state[0]
    else:
        return {}
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
        return {}
    named = {str(key): _plain(value) for key, value in kwargs.items()}
    return {
        "class": name,
        "args": [_plain(value) for value in args],
        "kwargs": {key: value for key, value in named.items() if value is not None or kwargs[key] is None},
    }


def _is_namespace(value: Any) -> bool:
    return (
        isinstance(value, Inert)
        and value.name == "argparse.Namespace"
        and len(value.state) == 1
        and isinstance(value.state[0], Mapping)
    )


def _plain(value: Any) -> Any:
    """A number, a text or a list of them as JSON has them, else None."""
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value[:_MAX_SETTINGS]]
        return None if None in items else items
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str)) and len(str(value)) < 1000 else None


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in range(4):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def read_package(path: str | os.PathLike[str]) -> Any:
    """All of a weights file: containers, numbers and texts, tensors, and stand-ins for everything else.

    Raises:
        CheckpointError: as for `read_state`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return read_beside(find_index(path))
        with path.open("rb") as stream:
            if is_index(stream):
                return read_beside(path)
            stream.seek(0)
            head = stream.read(64)
            stream.seek(0)
            if head.startswith(b"\x1f\x8b"):
                return read_archive(stream)
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(stream)
            if head.startswith(_LEGACY_MAGIC):
                return _read_legacy(stream)
        if _is_safetensors(head, path.stat().st_size):
            return _read_safetensors(path)
        if is_onnx(head):
            return _read_onnx(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}.") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}", hint=error.hint) from error
    raise CheckpointError(
        f"{path.name} is not a weights file: {_describe(head)}.",
        hint="expected safetensors, ONNX or a file of torch.save.",
    )


def _describe(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, the weights themselves were not fetched"
    if head.lstrip()[:1] == b"<":
        return "it looks like a web page"
    if head.startswith(b"\x80"):
        return "it is a pickle, but not one of torch"
    if b"ustar" in head:
        return "it is an archive"
    return f"it begins with {head[:8]!r}"


# --- safetensors


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"the safetensors file is damaged: {error}.") from error


# --- ONNX: kept whole, as the graph says what its tensors are for


def _read_onnx(path: Path) -> dict[str, Tensor]:
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    read_graph(data.numpy().data)
    return {ONNX_FILE: data}


# --- torch, since 1.6: a zip of one pickle and one file per storage


def _read_zip(stream: IO[bytes]) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            members = _plain_members(archive, stream)
            pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(f"it is a zip with {len(pickles)} files data.pkl, expected one.")
            root = pickles[0].removesuffix("data.pkl")
            order = members.get(f"{root}byteorder")
            if order is not None and archive.read(order).strip() != b"little":
                raise CheckpointError("its numbers are big-endian, expected little-endian.")
            content, storages = read_pickle(io.BytesIO(archive.read(pickles[0])))
            tensors = {}
            for key, storage in storages.items():
                member = members.get(f"{root}data/{key}") if _STORAGE_KEY.match(key) else None
                if member is None or member.file_size != storage.numel * ITEM_SIZES[storage.dtype]:
                    raise CheckpointError(
                        f"the storage {key[:64]!r} of {storage.numel} elements is missing or damaged."
                    )
                tensors[key] = _elements(bytearray(archive.read(member)), storage)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the zip is damaged: {error}.") from error
    return _Materialiser(tensors).value(content)


def _plain_members(archive: zipfile.ZipFile, stream: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """The members by name, after checking that they are stored as they are and beside each other, as torch does.

    That leaves no room for a zip bomb: what is unpacked is never more than the file.
    """
    size = stream.seek(0, os.SEEK_END)
    members: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise CheckpointError("a part of it is compressed; torch stores tensors as they are.")
        if member.header_offset < end or member.filename in members:
            raise CheckpointError("parts of the zip overlap.")
        end = member.header_offset + 30 + member.compress_size
        if end > size:
            raise CheckpointError("the zip is cut off.")
        members[member.filename] = member
    return members


# --- torch before 1.6: pickles (magic, version, system, content, keys), then the storages one after the other


def _read_legacy(stream: IO[bytes]) -> Any:
    # A map reads at most what is there, whatever length a damaged pickle asks for.
    with closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as data:
        read_pickle(data)  # type: ignore[arg-type]  # the magic number, compared by the caller
        version, _ = read_pickle(data)  # type: ignore[arg-type]
        system, _ = read_pickle(data)  # type: ignore[arg-type]
        if version != _LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"it has the unknown version {version} or byte order.")
        content, storages = read_pickle(data)  # type: ignore[arg-type]
        keys, _ = read_pickle(data)  # type: ignore[arg-type]
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
            raise CheckpointError("its list of storages does not fit its tensors.")
        tensors = {}
        for key in keys:
            storage = storages[key]
            count = data.read(8)
            if len(count) != 8 or struct.unpack("<q", count)[0] != storage.numel:
                raise CheckpointError(f"the storage {key!r} is missing or damaged.")
            length = storage.numel * ITEM_SIZES[storage.dtype]
            if length > len(data) - data.tell():
                raise CheckpointError(f"it is cut off: the storage {key!r} has {length} bytes, fewer are left.")
            tensors[key] = _elements(bytearray(data.read(length)), storage)
        if data.tell() != len(data):
            raise CheckpointError("there is something behind its last storage.")
    return _Materialiser(tensors).value(content)


def _elements(data: bytearray, storage: StorageRef) -> Tensor:
    dtype = getattr(torch, storage.dtype)
    if not data:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool:  # a byte other than 0 and 1 would not be a valid bool
        return torch.frombuffer(data, dtype=torch.uint8) != 0
    return torch.frombuffer(data, dtype=dtype)


class _Materialiser:
    """Replaces each `TensorRef` by its tensor; shared values stay shared, so nothing grows."""

    def __init__(self, storages: Mapping[str, Tensor]) -> None:
        self._storages = storages
        # Every tensor may be copied later. Tied weights are counted twice by right; a thousand views are not.
        self._bytes_left = 2 * sum(storage.nbytes for storage in storages.values()) + 2**20
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def value(self, item: Any, depth: int = 0) -> Any:
        if not isinstance(item, (dict, list, tuple, TensorRef)):
            return item
        if id(item) in self._done:
            return self._done[id(item)]
        if depth > _MAX_DEPTH or id(item) in self._open:
            raise CheckpointError("its containers are nested too deeply or in a circle.")
        self._open.add(id(item))
        result: Any
        if isinstance(item, TensorRef):
            result = self._tensor(item)
        elif isinstance(item, dict):
            result = {key: self.value(value, depth + 1) for key, value in item.items()}
        else:
            result = type(item)(self.value(value, depth + 1) for value in item)
        self._open.discard(id(item))
        self._done[id(item)] = result
        return result

    def _tensor(self, ref: TensorRef) -> Tensor:
        storage = self._storages[ref.storage.key]
        self._bytes_left -= math.prod(ref.size) * storage.element_size()
        if self._bytes_left < 0:
            raise CheckpointError("its tensors overlap so much that they hold more than twice the bytes of the file.")
        if not ref.numel:
            return torch.empty(ref.size, dtype=storage.dtype)
        return storage.as_strided(ref.size, ref.stride, ref.offset)
