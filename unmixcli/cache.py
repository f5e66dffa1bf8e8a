"""Weights files on this machine: where each one lies, whether it is whole, and what was found out about it.

A file is hashed once. The result is kept beside it in a small stamp (hashes, size, modification time); as long as
size and time are the stamp's, the file is taken for whole. `check_file` hashes again whatever the stamp says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmixcli.entry import HASHES, UVR_TAIL, ModelEntry, ModelFile
from unmixcli.paths import tensors_folder, weights_folder

_BLOCK = 1 << 20


@dataclass(frozen=True)
class CachedFile:
    """A whole file on this machine.

    Attributes:
        path: where it lies.
        sha256: of all of it.
    """

    path: Path
    sha256: str


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex."""
    return digests_of(path)["sha256"]


def digests_of(path: Path, kinds: Iterable[str] = ()) -> dict[str, str]:
    """The sha256 of a file and further hashes (see `entry.HASHES`), in hex, in one pass."""
    whole = {kind: hashlib.new(kind, usedforsecurity=False) for kind in {"sha256", *kinds} if kind != "uvr_md5"}
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            for digest in whole.values():
                digest.update(block)
        found = {kind: digest.hexdigest() for kind, digest in whole.items()}
        if "uvr_md5" in kinds:
            stream.seek(max(0, stream.tell() - UVR_TAIL))
            found["uvr_md5"] = hashlib.md5(stream.read(UVR_TAIL), usedforsecurity=False).hexdigest()
    return found


def file_path(entry: ModelEntry, file: ModelFile) -> Path:
    """Where a file lies or would lie: in this package, in the user's folder, or in the cache."""
    if file.package:
        return Path(__file__).parent / file.package
    if entry.folder is not None and not file.urls:
        return entry.folder / file.name
    return weights_folder(entry.name) / file.name


def find_file(entry: ModelEntry, file: ModelFile) -> CachedFile | None:
    """The file, if it is here and whole. One without a valid stamp is hashed and stamped."""
    path = file_path(entry, file)
    try:
        known = None if file.package else read_digests(path)
        if known is None or not known.keys() >= file.hashes.keys():
            if file.size is not None and path.stat().st_size != file.size:
                return None
            known = digests_of(path, file.hashes)
            if file.matches(known) and not file.package:
                write_stamp(path, known)
    except OSError:
        return None
    return CachedFile(path, known["sha256"]) if file.matches(known) else None


def is_cached(entry: ModelEntry, parts: Sequence[str] | None = None) -> bool:
    """Whether all files of `parts` (default: of all parts) are here; a method without files always is."""
    return all(find_file(entry, entry.file(part)) for part in (entry.parts if parts is None else parts))


@dataclass(frozen=True)
class Check:
    """What `check_file` found.

    Attributes:
        file: name of the file.
        state: "ok", "damaged" or "missing".
        detail: one plain sentence, or "".
        path: where the file lies or would lie.
    """

    file: str
    state: str
    detail: str
    path: Path


def check_file(entry: ModelEntry, file: ModelFile) -> list[Check]:
    """Hash a file, and the converted copy made of it, again. Damaged files of the cache are deleted.

    A user's own file is never deleted: it may be the only one.
    """
    path = file_path(entry, file)
    if not path.is_file():
        return [Check(file.name, "missing", "not on this machine", path)]
    found = digests_of(path, file.hashes)
    first = _stamp_values(path) if file.unverified else None
    difference = file.difference(found)
    if first and first.digests["sha256"] != found["sha256"]:
        difference = f"sha256 is {found['sha256'][:8]}…, it was {first.digests['sha256'][:8]}… when it was fetched"
    if difference:
        own = file.package is not None or path.parent == entry.folder
        if not own:
            remove_file(path)
        done = "The file was kept." if own else "The file was deleted."
        return [Check(file.name, "damaged", f"{difference}. {done}", path)]
    if not file.package:
        write_stamp(path, found)
    checks = [Check(file.name, "ok", file.doubt, path)]
    converted = converted_path(found["sha256"])
    stamp = _stamp_values(converted)
    if converted.is_file() and (stamp is None or hash_file(converted) != stamp.digests["sha256"]):
        remove_file(converted)
        checks.append(Check(converted.name, "damaged", "The converted copy was deleted; it is made again.", converted))
    return checks


def converted_path(sha256: str) -> Path:
    """Where the tensors of a checkpoint with this sha256 lie once they are converted."""
    return tensors_folder() / f"{sha256}.safetensors"


def remove_file(path: Path) -> None:
    """Delete a file, its stamp and what an interrupted download left of it. What isn't there is no error."""
    for victim in (path, _stamp_path(path), *leftovers(path)):
        victim.unlink(missing_ok=True)


def leftovers(path: Path) -> tuple[Path, ...]:
    """The unfinished file of a download to `path`, the notes on it, and its lock."""
    return tuple(path.with_name(f".{path.name}{suffix}") for suffix in (".part", ".part.json", ".lock"))


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.stamp")


@dataclass(frozen=True)
class _Stamp:
    digests: dict[str, str]
    size: int
    mtime_ns: int


def _stamp_values(path: Path) -> _Stamp | None:
    try:
        values = json.loads(_stamp_path(path).read_text(encoding="utf-8"))
        digests = {kind: str(values[kind]) for kind in HASHES if kind in values}
        return _Stamp(digests, int(values["size"]), int(values["mtime_ns"])) if "sha256" in digests else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_digests(path: Path) -> dict[str, str] | None:
    """The hashes that were found for this file, the sha256 among them, if the file has not changed since.

    Raises:
        OSError: there is no such file.
    """
    now = path.stat()
    stamp = _stamp_values(path)
    return stamp.digests if stamp and (stamp.size, stamp.mtime_ns) == (now.st_size, now.st_mtime_ns) else None


def read_stamp(path: Path) -> str | None:
    """The sha256 that was found for this file, if the file has not changed since.

    Raises:
        OSError: there is no such file.
    """
    digests = read_digests(path)
    return digests["sha256"] if digests else None


def write_stamp(path: Path, found: str | Mapping[str, str]) -> None:
    """Note the sha256 of a file, or all its hashes that are known. A folder that can't be written (a shared cache) only
    costs hashing next time."""
    now = path.stat()
    digests = {"sha256": found} if isinstance(found, str) else dict(found)
    values = {**digests, "size": now.st_size, "mtime_ns": now.st_mtime_ns}
    with contextlib.suppress(OSError):
        write_atomically(_stamp_path(path), json.dumps(values).encode())


def temporary_beside(path: Path) -> tuple[int, str]:
    """A new file in the folder of `path`, open for writing: its descriptor and its name.

    Unlike `tempfile.mkstemp` with the access rights of any new file, so that a cache can be shared.
    """
    name = str(path.with_name(f".{path.name}.{secrets.token_hex(6)}"))
    return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666), name


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that it is there complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = temporary_beside(path)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_atomically(source: Path, target: Path) -> str:
    """Copy a file so that it is there complete or not at all.

    Returns:
        sha256 of what was copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle, name = temporary_beside(target)
    try:
        with os.fdopen(handle, "wb") as stream, source.open("rb") as original:
            while block := original.read(_BLOCK):
                digest.update(block)
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system offers that."""
    with contextlib.suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_cached(entry: ModelEntry, others: Iterable[ModelEntry] = ()) -> list[Path]:
    """Delete what the cache holds of an entry: downloads, unfinished ones, converted copies.

    Args:
        others: entries whose converted copies stay, should they be made of the same file.

    Returns:
        The files deleted.
    """
    kept = {found for other in others for file in other.files if (found := _known_hash(other, file))}
    removed = []
    for file in entry.files:
        sha256 = _known_hash(entry, file)
        path = file_path(entry, file)
        victims = [path] if path.parent == weights_folder(entry.name) else []
        if sha256 and sha256 not in kept:
            victims.append(converted_path(sha256))
        for victim in victims:
            removed += [victim] if victim.is_file() else []
            remove_file(victim)
    with contextlib.suppress(OSError):
        weights_folder(entry.name).rmdir()
    return removed


def _known_hash(entry: ModelEntry, file: ModelFile) -> str | None:
    try:
        return file.sha256 or read_stamp(file_path(entry, file))
    except OSError:
        return None
