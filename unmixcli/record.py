"""The record of finished work: what makes a second run of a folder do only what is missing.

`.unmix-done.jsonl` lies in the output folder, one JSON object per line, only ever appended to:

    {"state": "settings", "key": K, "options": {…}, "model": {"name": …, "config": {…}, "weights": {part: sha256}}}
    {"state": "begin", "id": I, "key": K, "input": "cd1/song.mp3", "size": …, "mtime_ns": …, "sha256": …,
     "outputs": {"cd1/song/vocals.wav": bytes, …}, "versions": {"unmixcli": …, "torch": …}, "time": …}
    {"state": "done", "id": I, "time": …}

"begin" stands in the file (fsync) before the first output gets its name, "done" after the last has: a program that is
killed between the two leaves a "begin" alone, and those outputs are made again. A last line that was cut off is
ignored. Writers hold a lock on the file and append with one write, so several processes can share a record. Who wrote
an output last is decided by the last line that names it. All paths are relative, so folders can be moved.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmixcli.errors import OutputError

RECORD_NAME = ".unmix-done.jsonl"


@dataclass(frozen=True)
class Fingerprint:
    """Which input: its name in the run, and its content.

    Attributes:
        name: relative to the folder that was given, with "/".
        size: bytes.
        mtime_ns: time of its last change; None where that says nothing.
        sha256: of its content.
    """

    name: str
    size: int
    mtime_ns: int | None
    sha256: str


@dataclass
class Entry:
    """One input's results, as a "begin" line tells them.

    Attributes:
        outputs: path relative to the output folder, with "/" -> bytes.
        done: the "done" line was there.
    """

    id: str
    key: str
    source: Fingerprint
    outputs: Mapping[str, int]
    done: bool = False


class Record:
    """The record of one output folder. Reading needs no lock; nothing is created before the first write.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORD_NAME
        self._offset = 0
        self._entries: dict[str, Entry] = {}
        self._owners: dict[str, Entry] = {}
        self._settings: dict[str, Mapping[str, Any]] = {}
        self._mutex = threading.RLock()
        self.refresh()

    # ------------------------------------------------------------ reading

    def refresh(self) -> None:
        """Read what was appended since the last time, by whomever.

        Raises:
            OutputError: the record is there and can't be read.
        """
        with self._mutex:
            try:
                with self.path.open("rb") as file:
                    file.seek(self._offset)
                    data = file.read()
            except FileNotFoundError:
                return
            except NotADirectoryError as error:
                raise OutputError(
                    f"{self.folder} is a file, expected a folder for the results.", hint="choose another --output."
                ) from error
            except OSError as error:
                raise OutputError(f"{self.path} can't be read: {error.strerror or error}.") from error
            complete = data.rfind(b"\n") + 1
            self._offset += complete
            for line in data[:complete].splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        """One line; one that isn't ours or was damaged raises and is ignored."""
        state = line["state"]
        if state == "settings":
            self._settings[str(line["key"])] = {"options": dict(line["options"]), "model": dict(line["model"])}
        elif state == "begin":
            mtime = line["mtime_ns"]
            source = Fingerprint(
                str(line["input"]), int(line["size"]), None if mtime is None else int(mtime), str(line["sha256"])
            )
            outputs = {str(path): int(size) for path, size in line["outputs"].items()}
            entry = Entry(str(line["id"]), str(line["key"]), source, outputs)
            self._entries[entry.id] = entry
            self._owners.update(dict.fromkeys(outputs, entry))
        elif state == "done":
            self._entries[str(line["id"])].done = True

    def owner(self, path: Path) -> Entry | None:
        """The entry that wrote this output last."""
        with self._mutex:
            return self._owners.get(self.relative(path))

    def settings(self, key: str) -> Mapping[str, Any]:
        """Options and model of a key, empty if the record does not say."""
        return self._settings.get(key, {})

    def written(self) -> frozenset[str]:
        """Full paths of all outputs it tells of."""
        return frozenset(os.path.normpath(self.folder / path) for path in self._owners)

    def relative(self, path: Path) -> str:
        """An output's path as the record writes it."""
        return path.relative_to(self.folder).as_posix()

    # ------------------------------------------------------------ writing

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the record for oneself, against other threads and processes; what others wrote is read first.

        Raises:
            OutputError: it can't be opened for writing.
        """
        with self._mutex:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                raise OutputError(
                    f"{self.path} can't be written: {error.strerror or error}.",
                    hint="check the folder's permissions and the free disk space.",
                ) from error
            try:
                with _file_lock(handle):
                    self.refresh()
                    yield
            finally:
                os.close(handle)

    def begin(
        self,
        source: Fingerprint,
        key: str,
        settings: Mapping[str, Any],
        outputs: Mapping[Path, int],
        versions: Mapping[str, str],
    ) -> str:
        """Say that these outputs are about to get their names. To be called inside `locked`.

        Args:
            settings: "options" and "model", as `key` was made of them.
            outputs: finished path -> bytes.

        Returns:
            The id for `done`.
        """
        lines: list[dict[str, Any]] = []
        if key not in self._settings:
            lines.append({"state": "settings", "key": key, **settings})
        token = secrets.token_hex(8)
        begin = {
            "state": "begin",
            "id": token,
            "key": key,
            "input": source.name,
            "size": source.size,
            "mtime_ns": source.mtime_ns,
            "sha256": source.sha256,
            "outputs": {self.relative(path): size for path, size in outputs.items()},
            "versions": dict(versions),
            "time": _now(),
        }
        self._append([*lines, begin])
        return token

    def done(self, token: str) -> None:
        """Say that all outputs of `begin` have their names. To be called inside `locked`."""
        self._append([{"state": "done", "id": token, "time": _now()}])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        try:
            with self.path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end:
                    file.seek(end - 1)
                    if file.read(1) != b"\n":  # a line that was cut off stays a line of its own
                        text = "\n" + text
                file.write(text.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path} can't be written: {error.strerror or error}.") from error
        self.refresh()


def settings_key(settings: Mapping[str, Any]) -> str:
    """A short name for settings: equal settings, equal key."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# The lock is on one byte far beyond the end, because Windows lets nobody read a byte that another has locked.
_LOCKED_BYTE = 0x7FFF0000


@contextlib.contextmanager
def _file_lock(handle: int) -> Iterator[None]:
    """An advisory lock; on a file system without locks there is none, and appending in one write has to do."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_LOCK, 1)
        try:
            yield
        finally:
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the handle ends the lock
