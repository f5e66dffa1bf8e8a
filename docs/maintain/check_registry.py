"""Ask every mirror in models_registry.json whether it still has its file, and say what rotted.

    python docs/maintain/check_registry.py                     # is it there, is it as long as the registry says
    python docs/maintain/check_registry.py --hash              # fetch all of it and compare its hashes (hundreds of GB)
    python docs/maintain/check_registry.py --hash vr_denoise   # of one model
    python docs/maintain/check_registry.py --json rot.json     # every answer, and what the registry does not know yet

Each address is asked for one byte (Range), so nothing is fetched without `--hash`; then files pass through the hash and
are not kept. Exit code 1 if a mirror is not as the registry says; a model none of whose mirrors answers is marked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from unmixcli.entry import UVR_TAIL, ModelEntry, ModelFile  # noqa: E402
from unmixcli.errors import UnmixError  # noqa: E402
from unmixcli.mirrors import is_page, new_session  # noqa: E402
from unmixcli.registry import read_json  # noqa: E402
from unmixcli.registry_parse import parse_registry  # noqa: E402

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What a mirror said.

    Attributes:
        state: "ok"; "gone" (it has no such file), "unreachable", "page" (a web page instead), "size" or "hash" (another
            file than the registry says).
        detail: why, in few words.
        size: bytes, where the mirror says so.
        digests: of the file, with `--hash`.
    """

    model: str
    file: str
    url: str
    state: str
    detail: str = ""
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="models (default: all)")
    parser.add_argument("--registry", type=Path, default=ROOT / "models_registry.json")
    parser.add_argument("--hash", action="store_true", help="fetch the files and compare their hashes")
    parser.add_argument("--json", type=Path, help="write every answer to this file")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args(arguments)
    try:
        entries = parse_registry(read_json(options.registry))[0]
    except UnmixError as error:
        parser.error(str(error))
    if unknown := set(options.names) - {entry.name for entry in entries}:
        parser.error(f"no model {', '.join(sorted(unknown))}")
    chosen = [entry for entry in entries if not options.names or entry.name in options.names]
    answers = check(chosen, hashes=options.hash, timeout=options.timeout, workers=options.workers)
    print(table(answers), end="")
    if options.json:
        options.json.write_text(json.dumps([asdict(a) for a in answers], indent=2) + "\n", encoding="utf-8")
    return int(any(answer.state != "ok" for answer in answers))


def check(entries: Iterable[ModelEntry], *, hashes: bool, timeout: float, workers: int) -> list[Answer]:
    """The answers of all mirrors, in the order of the entries."""
    asked = [(entry, file, url) for entry in entries for file in entry.files for url in file.urls]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda item: check_url(*item, hashes=hashes, timeout=timeout), asked))


def check_url(entry: ModelEntry, file: ModelFile, url: str, *, hashes: bool, timeout: float) -> Answer:
    """Ask one mirror for one file."""

    def answer(state: str, detail: str = "", size: int | None = None, digests: dict[str, str] | None = None) -> Answer:
        return Answer(entry.name, file.name, url, state, detail, size, digests or {})

    headers = {} if hashes else {"Range": "bytes=0-0"}
    try:
        with new_session() as session, session.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            if reply.status_code not in (200, 206):
                gone = reply.status_code in (401, 403, 404, 410, 451)
                return answer("gone" if gone else "unreachable", f"{reply.status_code} {reply.reason}")
            if is_page(reply):
                return answer("page", "a web page instead of the file")
            size = size_of(reply)
            if file.size is not None and size is not None and size != file.size:
                return answer("size", f"{size} bytes, the registry says {file.size}", size)
            if not hashes:
                return answer("ok", "", size)
            size, digests = hash_reply(reply)
    except requests.RequestException as error:
        return answer("unreachable", type(error).__name__)
    if file.size is not None and size != file.size:
        return answer("size", f"{size} bytes, the registry says {file.size}", size, digests)
    difference = file.difference(digests)
    return answer("hash" if difference else "ok", difference, size, digests)


def size_of(reply: requests.Response) -> int | None:
    """Bytes of the whole file, as the reply says."""
    whole = re.search(r"/(\d+)\Z", reply.headers.get("Content-Range", ""))
    if whole:
        return int(whole[1])
    length = reply.headers.get("Content-Length", "")
    return int(length) if reply.status_code == 200 and length.isdigit() else None


def hash_reply(reply: requests.Response) -> tuple[int, dict[str, str]]:
    """Length and all hashes of a body, which is not kept."""
    whole = {kind: hashlib.new(kind, usedforsecurity=False) for kind in ("sha256", "sha1", "md5")}
    size, tail = 0, b""
    for block in reply.iter_content(_BLOCK):
        size += len(block)
        tail = (tail + block)[-UVR_TAIL:]
        for digest in whole.values():
            digest.update(block)
    found = {kind: digest.hexdigest() for kind, digest in whole.items()}
    return size, {**found, "uvr_md5": hashlib.md5(tail, usedforsecurity=False).hexdigest()}


def table(answers: Sequence[Answer]) -> str:
    """What rotted, as Markdown, and how many mirrors and models there are."""
    bad = [answer for answer in answers if answer.state != "ok"]
    alive = {(answer.model, answer.file) for answer in answers if answer.state == "ok"}
    lines = []
    if bad:
        lines += ["| Model | Mirror | State | Detail | Other mirror |", "| --- | --- | --- | --- | --- |"]
        for answer in bad:
            other = "yes" if (answer.model, answer.file) in alive else "**none**"
            lines.append(f"| {answer.model} | {answer.url} | {answer.state} | {answer.detail} | {other} |")
        lines.append("")
    dead = {answer.model for answer in bad if (answer.model, answer.file) not in alive}
    lines.append(
        f"{len(answers) - len(bad)} of {len(answers)} mirrors are as the registry says; "
        f"{len(dead)} of {len({answer.model for answer in answers})} models can't be fetched."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
