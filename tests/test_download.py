"""Downloads, against a server on loopback that can misbehave in every way we know."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from unmixcli import fetch, mirrors
from unmixcli.cache import check_file, converted_path, file_path, find_file, is_cached, leftovers
from unmixcli.download import can_download, ensure_files
from unmixcli.entry import ModelEntry, ModelFile
from unmixcli.errors import CheckpointError, DownloadError
from unmixcli.progress import Progress

BODY = bytes(range(256)) * 4000  # 1 MB
SHA256 = hashlib.sha256(BODY).hexdigest()

Behaviour = Callable[["Handler"], None]


@dataclass
class Site:
    """A running server: what it does per path, and what it was asked."""

    root: str
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    if_range: list[str | None] = field(default_factory=list)

    def url(self, name: str = "w.pth") -> str:
        return f"{self.root}/{name}"

    def ranges(self, name: str = "w.pth") -> list[str | None]:
        return [asked for path, asked in self.requests if path == f"/{name}"]


class Handler(BaseHTTPRequestHandler):
    """Answers from its server's table of behaviours."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, self.headers["Range"]))
        self.site.if_range.append(self.headers["If-Range"])
        self.site.behaviours.get(self.path.lstrip("/"), not_found)(self)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        names = {"Content-Length": str(len(body)), "Connection": "close", "Content-Type": "application/octet-stream"}
        for name, value in (names | {k.replace("_", "-"): v for k, v in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def not_found(request: Handler) -> None:
    request.reply(404, b"no such file")


def good(body: bytes = BODY, etag: str = '"one"') -> Behaviour:
    """A server that knows ranges."""

    def serve(request: Handler) -> None:
        asked = request.headers["Range"]
        if asked and request.headers["If-Range"] in (None, etag):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                request.reply(416, Content_Range=f"bytes */{len(body)}")
            else:
                place = f"bytes {start}-{len(body) - 1}/{len(body)}"
                request.reply(206, body[start:], Content_Range=place, ETag=etag)
        else:
            request.reply(200, body, ETag=etag)

    return serve


def without_ranges(request: Handler) -> None:
    request.reply(200, BODY)


def cut_once(share: float, then: Behaviour) -> Behaviour:
    """Promises everything, gives a part and hangs up; the next request is for `then`."""
    done = []

    def serve(request: Handler) -> None:
        if done:
            then(request)
            return
        done.append(True)
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.send_header("ETag", '"one"')
        request.end_headers()
        request.wfile.write(BODY[: int(share * len(BODY))])

    return serve


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.01)
    handler = type("SiteHandler", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler.site
    server.shutdown()
    thread.join()
    server.server_close()


def make_entry(*urls: str, **values: Any) -> ModelEntry:
    known: dict[str, Any] = {"size": len(BODY), "sha256": SHA256, **values}
    file = ModelFile(part="checkpoint", name="w.pth", urls=urls, **known)
    return ModelEntry("toy", "Toy", "toy", {}, ("vocals",), 44100, 2, (file,))


def fetch_toy(entry: ModelEntry, **options: Any) -> Path:
    return ensure_files(entry, ["checkpoint"], **options)["checkpoint"]


def part_of(entry: ModelEntry) -> Path:
    return leftovers(file_path(entry, entry.files[0]))[0]


def put_part(entry: ModelEntry, data: bytes) -> None:
    part = part_of(entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(data)


def test_a_file_arrives_whole_with_progress(site: Site) -> None:
    site.behaviours["w.pth"] = good()
    entry = make_entry(site.url())
    events: list[Progress] = []
    assert not is_cached(entry)
    path = fetch_toy(entry, on_progress=events.append)
    assert path.read_bytes() == BODY
    assert is_cached(entry)
    assert [event.stage for event in events] == ["download"] * len(events)
    assert (events[0].done, events[-1].done, events[-1].total) == (0, len(BODY), len(BODY))
    assert not part_of(entry).exists()
    assert fetch_toy(entry) == path
    assert len(site.requests) == 1, "a file that is here is not fetched again"


def test_cut_at_60_percent_goes_on_there(site: Site) -> None:
    site.behaviours["w.pth"] = cut_once(0.6, good())
    assert fetch_toy(make_entry(site.url())).read_bytes() == BODY
    assert site.ranges() == [None, f"bytes={int(0.6 * len(BODY))}-"]
    assert site.if_range == [None, '"one"']


def test_a_later_process_goes_on_where_the_first_was_stopped(site: Site) -> None:
    entry = make_entry(site.url())
    put_part(entry, BODY[:600_000])
    site.behaviours["w.pth"] = good()
    assert fetch_toy(entry).read_bytes() == BODY
    assert site.ranges() == ["bytes=600000-"]


def test_a_part_goes_on_from_another_mirror(site: Site) -> None:
    site.behaviours["w.pth"] = cut_once(0.6, not_found)
    site.behaviours["b/w.pth"] = good(etag='"other"')
    assert fetch_toy(make_entry(site.url(), site.url("b/w.pth"))).read_bytes() == BODY
    assert site.ranges("b/w.pth") == [f"bytes={int(0.6 * len(BODY))}-"]


def test_a_server_without_ranges_starts_over(site: Site) -> None:
    entry = make_entry(site.url())
    put_part(entry, BODY[:600_000])
    site.behaviours["w.pth"] = without_ranges
    assert fetch_toy(entry).read_bytes() == BODY


def test_a_changed_file_starts_over(site: Site) -> None:
    site.behaviours["w.pth"] = cut_once(0.6, good(etag='"two"'))
    assert fetch_toy(make_entry(site.url())).read_bytes() == BODY
    assert site.ranges() == [None, f"bytes={int(0.6 * len(BODY))}-"]


def test_a_wrong_beginning_is_thrown_away(site: Site) -> None:
    entry = make_entry(site.url())
    put_part(entry, b"x" * 600_000)
    site.behaviours["w.pth"] = good()
    assert fetch_toy(entry).read_bytes() == BODY
    assert site.ranges() == ["bytes=600000-", None]


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_part_that_is_complete_is_only_checked(site: Site, size: int | None) -> None:
    entry = make_entry(site.url(), size=size)
    put_part(entry, BODY)
    site.behaviours["w.pth"] = good()
    assert fetch_toy(entry).read_bytes() == BODY
    assert site.ranges() == ([] if size else [f"bytes={len(BODY)}-"])


@pytest.mark.parametrize("size", [len(BODY), None])
def test_a_part_that_is_too_long_starts_over(site: Site, size: int | None) -> None:
    entry = make_entry(site.url(), size=size)
    put_part(entry, BODY + b"more")
    site.behaviours["w.pth"] = good()
    assert fetch_toy(entry).read_bytes() == BODY


def test_a_server_that_answers_another_range_starts_over(site: Site) -> None:
    def shifted(request: Handler) -> None:
        if request.headers["Range"]:
            request.reply(206, BODY[500_000:], Content_Range=f"bytes 500000-{len(BODY) - 1}/{len(BODY)}")
        else:
            request.reply(200, BODY)

    entry = make_entry(site.url())
    put_part(entry, BODY[:600_000])
    site.behaviours["w.pth"] = shifted
    assert fetch_toy(entry).read_bytes() == BODY


def test_wrong_hash_is_deleted_and_said(site: Site) -> None:
    wrong = b"y" * len(BODY)
    site.behaviours["w.pth"] = good(wrong)
    entry = make_entry(site.url())
    with pytest.raises(DownloadError) as caught:
        fetch_toy(entry)
    found = hashlib.sha256(wrong).hexdigest()
    assert f"w.pth: sha256 is {found[:8]}…, the registry says {SHA256[:8]}…; the file was deleted." in str(caught.value)
    assert caught.value.hint
    assert not file_path(entry, entry.files[0]).exists()
    assert not part_of(entry).exists()
    assert site.ranges() == [None]


def test_after_a_wrong_hash_the_next_mirror_is_tried(site: Site) -> None:
    site.behaviours |= {"w.pth": good(b"y" * len(BODY)), "b/w.pth": good()}
    assert fetch_toy(make_entry(site.url(), site.url("b/w.pth"))).read_bytes() == BODY


def test_404_then_mirror(site: Site) -> None:
    site.behaviours["b/w.pth"] = good()
    assert fetch_toy(make_entry(site.url(), site.url("b/w.pth"))).read_bytes() == BODY
    assert [path for path, _ in site.requests] == ["/w.pth", "/b/w.pth"]


def test_the_mirror_root_comes_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_MIRROR", f"{site.root}/company/")
    site.behaviours["company/w.pth"] = good()
    fetch_toy(make_entry(site.url()))
    assert [path for path, _ in site.requests] == ["/company/w.pth"]
    monkeypatch.setenv("UNMIX_MIRROR", "ftp://nowhere")
    with pytest.raises(DownloadError, match="UNMIX_MIRROR is 'ftp://nowhere'"):
        fetch_toy(make_entry(site.url(), sha256="0" * 64))


def page(request: Handler) -> None:
    request.reply(200, BODY, Content_Type="text/html; charset=utf-8")


def too_long(request: Handler) -> None:
    request.reply(200, BODY + b"more")


def endless(request: Handler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(BODY + b"more")


def circle(request: Handler) -> None:
    request.reply(302, Location="/w.pth")


def to_a_file(request: Handler) -> None:
    request.reply(302, Location="file:///etc/passwd")


def unavailable(request: Handler) -> None:
    request.reply(503)


def always_cut(request: Handler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:1000])


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (page, "a web page instead of the file"),
        (too_long, f"offers {len(BODY) + 4} bytes, the registry says {len(BODY)}"),
        (endless, f"sends more than {len(BODY)} bytes"),
        (circle, "redirects in a circle"),
        (to_a_file, "file:///etc/passwd"),
        (unavailable, "answers 503"),
        (always_cut, "the connection"),
        (not_found, "answers 404"),
    ],
)
def test_a_mirror_that_is_no_good_is_named_and_the_next_one_tried(
    site: Site, behaviour: Behaviour, reason: str
) -> None:
    site.behaviours["w.pth"] = behaviour
    entry = make_entry(site.url())
    with pytest.raises(DownloadError) as caught:
        fetch_toy(entry)
    assert reason in str(caught.value)
    assert not is_cached(entry)
    site.behaviours["b/w.pth"] = good()
    assert fetch_toy(make_entry(site.url(), site.url("b/w.pth"))).read_bytes() == BODY


def test_a_stall_is_noticed_and_gone_on_from(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.3)
    release = threading.Event()

    def stall(request: Handler) -> None:
        site.behaviours["w.pth"] = good()
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        request.wfile.write(BODY[:700_000])
        request.wfile.flush()
        release.wait(5)

    site.behaviours["w.pth"] = stall
    begin = time.monotonic()
    path = fetch_toy(make_entry(site.url()))
    release.set()
    assert path.read_bytes() == BODY
    assert time.monotonic() - begin < 4
    second = site.ranges()[1]
    assert second is not None
    assert int(second.removeprefix("bytes=").rstrip("-")) > 0, "what had arrived was kept"


def test_only_a_prefix_is_published_and_that_is_said(site: Site) -> None:
    site.behaviours["w.pth"] = good()
    entry = make_entry(site.url(), sha256=None, sha256_prefix=SHA256[:8], size=None)
    events: list[Progress] = []
    path = fetch_toy(entry, on_progress=events.append)
    assert path.read_bytes() == BODY
    assert [event.message for event in events if event.stage == "warning"] == [
        "checked by the first 8 digits of the sha256, which is all that is published: w.pth."
    ]
    found = find_file(entry, entry.files[0])
    assert found is not None
    assert found.sha256 == SHA256
    with pytest.raises(DownloadError, match="sha256"):
        fetch_toy(make_entry(site.url(), sha256=None, sha256_prefix="00000000"))


TAIL = bytes(range(256)) * 40_001  # one block longer than what UVR hashes of a file


@pytest.mark.parametrize(
    ("hashes", "doubt"),
    [
        ({"sha1": hashlib.sha1(TAIL).hexdigest()}, ""),
        ({"md5": hashlib.md5(TAIL).hexdigest(), "sha256_prefix": hashlib.sha256(TAIL).hexdigest()[:8]}, ""),
        ({"uvr_md5": hashlib.md5(TAIL[-10_240_000:]).hexdigest()}, "checked by the MD5 of its last 10240000 bytes"),
        ({"unverified": True}, "not checked, as no hash of it is published: w.pth."),
    ],
)
def test_what_is_known_of_a_file_is_checked(site: Site, hashes: dict[str, Any], doubt: str) -> None:
    site.behaviours["w.pth"] = good(TAIL)
    entry = make_entry(site.url(), sha256=None, size=None, **hashes)
    events: list[Progress] = []
    path = fetch_toy(entry, on_progress=events.append)
    assert path.read_bytes() == TAIL
    warnings = [event.message for event in events if event.stage == "warning"]
    assert len(warnings) == bool(doubt)
    assert doubt in "".join(str(warning) for warning in warnings)
    assert is_cached(entry)
    last_wrong, first_wrong = TAIL[:-1] + b"!", b"!" + TAIL[1:]
    path.write_bytes(last_wrong)
    if "unverified" in hashes:
        (check,) = check_file(entry, entry.files[0])
        assert "when it was fetched" in check.detail
        assert not path.exists()
        return
    assert not is_cached(entry)
    path.write_bytes(first_wrong)
    assert is_cached(entry) is ("uvr_md5" in hashes), "only the end of the file is known"
    site.behaviours["w.pth"] = good(last_wrong)
    path.unlink()
    with pytest.raises(DownloadError, match="the registry says"):
        fetch_toy(entry)


def test_a_stamp_without_the_hash_that_is_known_now_is_not_enough(site: Site) -> None:
    site.behaviours["w.pth"] = good()
    path = fetch_toy(make_entry(site.url()))
    entry = make_entry(site.url(), sha1="0" * 40)
    assert not is_cached(entry)
    path.touch()
    assert is_cached(make_entry(site.url(), sha1=hashlib.sha1(BODY).hexdigest()))


def test_offline_asks_nobody(site: Site) -> None:
    site.behaviours["w.pth"] = good()
    entry = make_entry(site.url())
    with pytest.raises(DownloadError, match=r"no network may be used; missing: w\.pth") as caught:
        fetch_toy(entry, offline=True)
    assert "unmix models download toy" in str(caught.value.hint)
    assert not site.requests
    fetch_toy(entry)
    assert fetch_toy(entry, offline=True).read_bytes() == BODY


def test_a_file_put_into_the_cache_by_hand_is_hashed_before_it_is_taken(site: Site) -> None:
    entry = make_entry(site.url())
    path = file_path(entry, entry.files[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert fetch_toy(entry, offline=True) == path
    time.sleep(0.01)
    path.write_bytes(b"z" * len(BODY))
    assert not is_cached(entry)
    site.behaviours["w.pth"] = good()
    warnings: list[Progress] = []
    assert fetch_toy(entry, on_progress=warnings.append).read_bytes() == BODY
    assert "damaged" in warnings[0].message


def test_a_changed_file_of_the_users_own_is_an_error_and_kept(tmp_path: Path) -> None:
    file = ModelFile(part="checkpoint", name="c.safetensors", sha256=SHA256)
    entry = ModelEntry("mine", "Mine", "toy", {}, ("vocals",), 44100, 2, (file,), folder=tmp_path / "mine")
    with pytest.raises(CheckpointError, match="is missing"):
        fetch_toy(entry)
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "c.safetensors"
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="was changed after it was added"):
        fetch_toy(entry)
    assert check_file(entry, file)[0].state == "damaged"
    assert path.exists()


def test_check_deletes_a_damaged_file_of_the_cache(site: Site) -> None:
    site.behaviours["w.pth"] = good()
    entry = make_entry(site.url())
    path = fetch_toy(entry)
    assert [check.state for check in check_file(entry, entry.files[0])] == ["ok"]
    times = path.stat()
    path.write_bytes(BODY[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert is_cached(entry), "same size and time: only hashing tells"
    converted_path(SHA256).parent.mkdir(parents=True)
    assert check_file(entry, entry.files[0])[0].state == "damaged"
    assert not path.exists()
    assert check_file(entry, entry.files[0])[0].state == "missing"


def test_two_processes_fetch_once(site: Site) -> None:
    def slow(request: Handler) -> None:
        time.sleep(0.5)
        good()(request)

    site.behaviours["w.pth"] = slow
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_download import *\n"
        "print(fetch_toy(make_entry(sys.argv[1])).stat().st_size)"
    )
    command = [sys.executable, "-c", code, site.url(), str(Path(__file__).parent)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in both]
    assert answers == [str(len(BODY))] * 2
    assert len(site.requests) == 1


def test_full_disk_is_said_and_the_part_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.behaviours["w.pth"] = good()
    entry = make_entry(site.url())
    real_fsync = os.fsync

    def no_room(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.os, "fsync", no_room)
    with pytest.raises(DownloadError, match="is full") as caught:
        fetch_toy(entry)
    assert "UNMIX_CACHE" in str(caught.value.hint)
    assert part_of(entry).stat().st_size == len(BODY)
    monkeypatch.setattr(fetch.os, "fsync", real_fsync)
    assert fetch_toy(entry).read_bytes() == BODY


def test_too_little_room_is_noticed_before_the_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.behaviours["w.pth"] = good()
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DownloadError, match=f"{len(BODY)} bytes are needed, 1000 are free"):
        fetch_toy(make_entry(site.url()))


def test_unwritable_cache_is_a_clear_error(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file"))
    site.behaviours["w.pth"] = good()
    with pytest.raises(DownloadError, match="can't be written"):
        fetch_toy(make_entry(site.url()))


# --- is there a network?


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name look-ups that do not come back before the test is over."""
    over = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".invalid"):
            over.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    over.set()


def test_a_dead_network_is_noticed_in_five_seconds_over_all_mirrors(
    site: Site, black_hole: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mirrors.REACH_SECONDS <= 5
    # Five seconds would be waited for in earnest; a fifth of it shows the same: one limit for all mirrors.
    monkeypatch.setattr(mirrors, "REACH_SECONDS", 1.0)
    entry = make_entry(*(f"https://host{i}.invalid/w.pth" for i in range(6)))
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=r"no connection to host0\.invalid, host1\.invalid"):
        fetch_toy(entry)
    assert time.monotonic() - begin < 2
    begin = time.monotonic()
    assert not can_download(entry, ["checkpoint"], seconds=0.5)
    assert time.monotonic() - begin < 1.5


def test_a_dead_mirror_costs_a_second_when_another_answers(site: Site, black_hole: None) -> None:
    site.behaviours["w.pth"] = good()
    begin = time.monotonic()
    assert fetch_toy(make_entry("https://host.invalid/w.pth", site.url())).read_bytes() == BODY
    assert time.monotonic() - begin < 3


def test_refused_connection_is_no_network(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match="no connection to 127"):
        fetch_toy(make_entry(f"http://127.0.0.1:{port}/w.pth"))


def test_can_download_asks_for_the_file_itself(site: Site) -> None:
    entry = make_entry(site.url())
    assert not can_download(entry, ["checkpoint"])
    site.behaviours["w.pth"] = page
    assert not can_download(entry, ["checkpoint"])
    site.behaviours["w.pth"] = good()
    assert can_download(entry, ["checkpoint"])


def test_a_host_that_takes_the_call_and_says_nothing_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = make_entry(f"http://127.0.0.1:{silent.getsockname()[1]}/w.pth")
        begin = time.monotonic()
        assert not can_download(entry, ["checkpoint"], seconds=0.5)
        assert time.monotonic() - begin < 1.5


def test_the_proxy_is_asked_instead_of_the_host(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_proxy(request: Handler) -> None:
        assert request.path == "http://host.invalid/w.pth"
        good()(request)

    site.behaviours["http://host.invalid/w.pth"] = as_proxy
    monkeypatch.setenv("http_proxy", site.root)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch_toy(make_entry("http://host.invalid/w.pth")).read_bytes() == BODY


def test_certificates_come_from_the_usual_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/some/bundle.pem")
    with mirrors.new_session() as session:
        assert (
            session.merge_environment_settings("https://host/", {}, False, None, None)["verify"] == "/some/bundle.pem"
        )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/other/bundle.pem")
    with mirrors.new_session() as session:
        assert (
            session.merge_environment_settings("https://host/", {}, False, None, None)["verify"] == "/other/bundle.pem"
        )
