"""Fetch one file over HTTP: continue, check, try the next mirror.

The bytes gather in an unfinished file beside the target. What an interrupted download left is continued by HTTP
Range, by the same process, the next one, or from another mirror: the hash at the end decides whether the pieces fit.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmixcli.cache import digests_of, leftovers, sync_folder, write_stamp
from unmixcli.entry import ModelFile
from unmixcli.errors import DownloadError
from unmixcli.mirrors import ADDRESS_SECONDS, host_of, is_page, new_session
from unmixcli.progress import Progress, ProgressCallback

if TYPE_CHECKING:
    import requests

STALL_SECONDS = 20.0  # without a byte
RETRY_SECONDS = 0.5  # first pause before going on after a cut, doubled each time
RETRIES = 3  # in a row without getting further
LARGEST = 16 << 30  # bytes, for files of unknown size
_BLOCK = 1 << 18
_PROGRESS_BYTES = 1 << 16  # a cut after fewer bytes does not count as getting further


class _MirrorError(Exception):
    """This mirror does not help; the text says why."""


class _CutError(Exception):
    """The connection ended or stalled; going on may help."""


class _RestartError(Exception):
    """What is there can't be continued; start at byte 0."""


def fetch(file: ModelFile, target: Path, urls: Sequence[str], on_progress: ProgressCallback) -> None:
    """Fetch, verify and rename one file, from the first mirror that has it.

    Raises:
        DownloadError: no mirror has, or the disk is full.
    """
    part, notes, _ = leftovers(target)
    reasons = []
    with new_session() as session:
        for url in urls:
            try:
                digests = _from_mirror(session, url, file, part, notes, on_progress)
            except _MirrorError as reason:
                reasons.append(f"{host_of(url)}: {reason}")
                continue
            part.replace(target)
            notes.unlink(missing_ok=True)
            sync_folder(target.parent)
            write_stamp(target, digests)
            return
    if len(reasons) == 1:
        raise DownloadError(
            f"{file.name}: {reasons[0].partition(': ')[2]}.",
            hint="run again; what has arrived is kept and continued." if part.exists() else "run again.",
        )
    raise DownloadError(
        f"{file.name}: no mirror has it; {'; '.join(reasons)}.",
        hint="run again later, or set UNMIX_MIRROR to a folder that has the file.",
    )


def _from_mirror(
    session: requests.Session, url: str, file: ModelFile, part: Path, notes: Path, on_progress: ProgressCallback
) -> dict[str, str]:
    """Complete `part` from one mirror. Returns its hashes, which are the registry's."""
    pause, failures, fresh = RETRY_SECONDS, 0, False
    while True:
        before = _size(part)
        fresh = fresh or before == 0
        try:
            _transfer(session, url, file, part, notes, on_progress)
        except _RestartError as reason:
            if fresh:
                raise _MirrorError(str(reason)) from reason
            part.unlink(missing_ok=True)
            continue
        except _CutError as reason:
            further = _size(part) - before >= _PROGRESS_BYTES
            failures, pause = (0, RETRY_SECONDS) if further else (failures + 1, pause * 2)
            if failures >= RETRIES:
                raise _MirrorError(str(reason)) from reason
            time.sleep(pause)
            continue
        digests = digests_of(part, file.hashes)
        if file.matches(digests):
            return digests
        part.unlink(missing_ok=True)
        if fresh:
            raise _MirrorError(f"{file.difference(digests)}; the file was deleted")
        fresh = True  # a wrong beginning from an earlier attempt, perhaps: once more from byte 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _transfer(
    session: requests.Session, url: str, file: ModelFile, part: Path, notes: Path, on_progress: ProgressCallback
) -> None:
    """One request: append to `part` what is missing of it."""
    import requests

    start = _size(part)
    if file.size is not None and start >= file.size:
        if start == file.size:
            return
        part.unlink()
        start = 0
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        etag = _noted_etag(notes, url)
        if etag:
            headers["If-Range"] = etag
    timeout = (ADDRESS_SECONDS * 2, STALL_SECONDS)
    try:
        with session.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            offset, total = _place(reply, start, file)
            if offset == total:
                return
            _check_space(part, (total or file.size or 0) - offset)
            _note(notes, url, reply)
            _receive(reply, part, offset, total, file, on_progress)
    except requests.exceptions.SSLError as error:
        raise _MirrorError(f"the certificate was not accepted (REQUESTS_CA_BUNDLE names your own): {error}") from error
    except requests.exceptions.TooManyRedirects as error:
        raise _MirrorError("it redirects in a circle") from error
    except requests.exceptions.ConnectTimeout as error:
        raise _MirrorError("no connection") from error
    except (requests.exceptions.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _CutError("the connection stalled or broke off") from error
    except requests.exceptions.ConnectionError as error:
        raise _CutError(
            f"the connection failed ({type(error.args[0]).__name__ if error.args else 'no reason'})"
        ) from error
    except requests.exceptions.RequestException as error:
        raise _MirrorError(f"{type(error).__name__}: {error}") from error


def _place(reply: requests.Response, start: int, file: ModelFile) -> tuple[int, int | None]:
    """Where in the file the body begins, and how long the file is in all (None: the server doesn't say)."""
    status = reply.status_code
    content_range = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", reply.headers.get("Content-Range", ""))
    if status == 416 and start:
        if content_range and content_range[2] == str(start) and file.size in (None, start):
            return start, start
        raise _RestartError("it refuses to continue the file")
    if status in (408, 425, 429, 500, 502, 503, 504):
        raise _CutError(f"it answers {status} {reply.reason}")
    if status not in (200, 206):
        raise _MirrorError(f"it answers {status} {reply.reason}")
    if is_page(reply):
        raise _MirrorError("it answers with a web page instead of the file")
    if status == 206:
        if not start or not content_range or content_range[1] != str(start):
            raise _RestartError("it answers with another piece of the file than was asked for")
        total = int(content_range[2]) if content_range[2] != "*" else None
    else:
        start = 0
        length = reply.headers.get("Content-Length", "")
        encoded = reply.headers.get("Content-Encoding", "identity") != "identity"
        total = int(length) if length.isdigit() and not encoded else None
    if file.size is not None and total is not None and total != file.size:
        raise _MirrorError(f"it offers {total} bytes, the registry says {file.size}")
    return start, total if total is not None else file.size


def _receive(
    reply: requests.Response, part: Path, offset: int, total: int | None, file: ModelFile, on_progress: ProgressCallback
) -> None:
    limit = total if total is not None else LARGEST
    done = offset

    def tell() -> None:
        on_progress(Progress("download", file.name, float(done), None if total is None else float(total), "bytes"))

    with _disk(part, lambda: part.open("r+b" if offset else "wb")) as stream:
        stream.seek(offset)
        stream.truncate()
        tell()
        # A short body must not throw away its last block: the length is compared below.
        reply.raw.enforce_content_length = False
        for block in reply.iter_content(_BLOCK):
            done += len(block)
            if done > limit:
                stream.seek(0)
                stream.truncate()
                raise _MirrorError(f"it sends more than {limit} bytes")
            with _disk_errors(part):
                stream.write(block)
            tell()
        with _disk_errors(part):
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done < total:
        raise _CutError(f"the connection ended after {done} of {total} bytes")


@contextmanager
def _disk(part: Path, open_file: Callable[[], Any]) -> Iterator[Any]:
    with _disk_errors(part):
        stream = open_file()
    try:
        yield stream
    finally:
        with _disk_errors(part):
            stream.close()


@contextmanager
def _disk_errors(part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        raise DownloadError(
            f"the disk of {part.parent} is full." if full else f"{part} can't be written: {error.strerror or error}.",
            hint="make room and run again, what has arrived is kept; or set UNMIX_CACHE to another disk.",
        ) from error


def _check_space(part: Path, needed: int) -> None:
    with suppress(OSError):
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            raise DownloadError(
                f"the disk of {part.parent} is full: {needed} bytes are needed, {free} are free.",
                hint="make room and run again, what has arrived is kept; or set UNMIX_CACHE to another disk.",
            )


def _note(notes: Path, url: str, reply: requests.Response) -> None:
    """Remember which version of the file the part is of, where the server has a word for it."""
    etag = reply.headers.get("ETag", "")
    with suppress(OSError):
        notes.write_text(json.dumps({"url": url, "etag": etag if etag.startswith('"') else ""}), encoding="utf-8")


def _noted_etag(notes: Path, url: str) -> str:
    try:
        values = json.loads(notes.read_text(encoding="utf-8"))
        return str(values["etag"]) if values["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
