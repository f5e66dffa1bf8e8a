"""Make sure that weights files are here: decide, fetch, verify, rename.

A file is fetched beside its place and renamed only when its size and sha256 are the registry's, so a path that is
returned is whole. Two processes fetch once.

Mirrors are tried in order. `UNMIX_MIRROR=https://host/folder` puts `https://host/folder/FILE NAME` before them.
Proxies and certificates are those of the usual variables (`HTTPS_PROXY`, `NO_PROXY`, `REQUESTS_CA_BUNDLE`,
`SSL_CERT_FILE`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unmixcli.cache import file_path, find_file, is_cached, leftovers
from unmixcli.entry import ModelEntry, ModelFile
from unmixcli.errors import CheckpointError, DownloadError
from unmixcli.fetch import fetch
from unmixcli.mirrors import REACH_SECONDS, all_urls, answers_for, host_of, reachable_urls, urls_of
from unmixcli.progress import Progress, ProgressCallback, ignore_progress

__all__ = ["can_download", "ensure_files", "is_cached"]


def ensure_files(
    entry: ModelEntry,
    parts: Sequence[str],
    *,
    offline: bool = False,
    on_progress: ProgressCallback = ignore_progress,
) -> dict[str, Path]:
    """The files of some parts of a model, fetched where they are missing.

    Args:
        entry: the model.
        parts: which of its files.
        offline: use no network.
        on_progress: told of "download" progress in bytes, and of what the user should know.

    Returns:
        part -> path of a whole file.

    Raises:
        DownloadError: offline, unreachable, or no mirror gave the file that the registry describes.
        CheckpointError: a file that the user added was changed or deleted.
    """
    paths = {part: found.path for part in parts if (found := find_file(entry, entry.file(part)))}
    missing = [entry.file(part) for part in parts if part not in paths]
    if not missing:
        return paths
    for file in missing:
        if not file.urls:
            raise _local_file_gone(entry, file)
    if offline:
        raise DownloadError(
            f"{entry.name} is not complete on this machine and no network may be used; "
            f"missing: {', '.join(file.name for file in missing)}.",
            hint=f"`unmix models download {entry.name}` fetches it when there is a network, or copy the files to "
            f"{file_path(entry, missing[0]).parent}.",
        )
    reachable = reachable_urls(all_urls(missing))
    if not reachable:
        hosts = ", ".join(dict.fromkeys(host_of(url) for url in all_urls(missing)))
        raise DownloadError(
            f"{missing[0].name} can't be fetched: no connection to {hosts} within {REACH_SECONDS:.0f} seconds.",
            hint="check the network, HTTPS_PROXY or UNMIX_MIRROR; `--model unmix_small` needs no download.",
        )
    for file in missing:
        paths[file.part] = _fetch_once(entry, file, reachable, on_progress)
    for doubt in dict.fromkeys(file.doubt for file in missing if file.doubt):
        names = ", ".join(file.name for file in missing if file.doubt == doubt)
        on_progress(Progress("warning", entry.name, message=f"{doubt}: {names}."))
    return paths


def _local_file_gone(entry: ModelEntry, file: ModelFile) -> CheckpointError:
    path = file_path(entry, file)
    what = "was changed after it was added" if path.exists() else "is missing"
    again = "reinstall unmixcli" if file.package else f"`unmix models remove {entry.name}`, then add it again"
    return CheckpointError(f"{path}, the weights of {entry.name}, {what}.", hint=f"{again}.")


def can_download(entry: ModelEntry, parts: Sequence[str], *, seconds: float = REACH_SECONDS) -> bool:
    """Whether a mirror answers for the first missing file; known after `seconds` at the latest."""
    missing = [file for part in parts if not find_file(entry, file := entry.file(part))]
    if not missing:
        return True
    answers: queue.Queue[bool] = queue.Queue()
    urls = urls_of(missing[0])

    def ask() -> None:
        try:
            answers.put(any(answers_for(url, seconds) for url in reachable_urls(urls, seconds)))
        except Exception:  # a probe has no other answer than no; the download itself says what is wrong
            answers.put(False)

    # A daemon, as a name server that never answers can't be interrupted.
    threading.Thread(target=ask, daemon=True, name="unmix-probe").start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def _fetch_once(entry: ModelEntry, file: ModelFile, reachable: Sequence[str], on_progress: ProgressCallback) -> Path:
    """Fetch a file unless another process just did."""
    target = file_path(entry, file)
    with _locked(target, file, on_progress):
        found = find_file(entry, file)
        if found is not None:
            return found.path
        if target.exists():
            on_progress(Progress("warning", file.name, message=f"{file.name} is damaged and is fetched again."))
            target.unlink(missing_ok=True)
        urls = [url for url in urls_of(file) if url in reachable]
        if not urls:
            raise DownloadError(
                f"{file.name} can't be fetched: no connection to {', '.join(map(host_of, urls_of(file)))}."
            )
        fetch(file, target, urls, on_progress)
        return target


@contextmanager
def _locked(target: Path, file: ModelFile, on_progress: ProgressCallback) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(str(leftovers(target)[2]))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress(Progress("warning", file.name, message=f"another process is fetching {file.name}; waiting."))
            lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"the cache {target.parent} can't be written: {error.strerror or error}.",
            hint="set UNMIX_CACHE to a folder of yours.",
        ) from error
    try:
        yield
    finally:
        lock.release()
