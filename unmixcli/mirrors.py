"""Where a file can be fetched from, and whether anybody answers there.

A dead network is noticed by connecting to all hosts at once in threads: name look-ups can't be given a time limit,
and one host after the other would add up.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from unmixcli.entry import ModelFile
from unmixcli.errors import DownloadError

if TYPE_CHECKING:
    import requests

REACH_SECONDS = 5.0  # all mirrors together: is there a network at all?
ADDRESS_SECONDS = 2.0  # one address of a host; a dead IPv6 route must leave time for IPv4


def urls_of(file: ModelFile) -> list[str]:
    root = os.environ.get("UNMIX_MIRROR", "").strip()
    if root and not root.startswith(("http://", "https://")):
        raise DownloadError(f"UNMIX_MIRROR is {root!r}, expected https://host/folder.")
    own = [f"{root.rstrip('/')}/{quote(file.name)}"] if root else []
    return [*own, *file.urls]


def all_urls(files: Sequence[ModelFile]) -> list[str]:
    return [url for file in files for url in urls_of(file)]


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _endpoint(url: str) -> tuple[str, int]:
    """Host and port that a request for `url` connects to: its own, or the proxy's."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url, no_proxy=None))
    target = urlsplit(proxy if proxy is None or "://" in proxy else f"http://{proxy}") if proxy else urlsplit(url)
    default = {"https": 443, "socks5": 1080, "socks5h": 1080, "socks4": 1080}.get(target.scheme, 80)
    return target.hostname or "", target.port or default


def reachable_urls(urls: Sequence[str], seconds: float | None = None) -> list[str]:
    """Those of `urls` whose host takes a connection, asked all at once; in order.

    Ends when the first host answered, early ones getting a second more, and after `seconds` (default:
    `REACH_SECONDS`) at the latest.
    """
    endpoints = {url: _endpoint(url) for url in urls}
    waiting = dict.fromkeys(endpoints.values())
    answers: queue.Queue[tuple[tuple[str, int], bool]] = queue.Queue()

    def connect(endpoint: tuple[str, int]) -> None:
        try:
            socket.create_connection(endpoint, timeout=ADDRESS_SECONDS).close()
        except (OSError, UnicodeError):
            answers.put((endpoint, False))
        else:
            answers.put((endpoint, True))

    for endpoint in waiting:
        threading.Thread(target=connect, args=(endpoint,), daemon=True, name="unmix-connect").start()
    deadline = time.monotonic() + (REACH_SECONDS if seconds is None else seconds)
    good: set[tuple[str, int]] = set()
    while waiting:
        try:
            endpoint, answered = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        del waiting[endpoint]
        if answered:
            good.add(endpoint)
            deadline = min(deadline, time.monotonic() + 1.0)
    return [url for url in urls if endpoints[url] in good]


def new_session() -> requests.Session:
    import requests

    from unmixcli import __version__

    session = requests.Session()
    session.max_redirects = 8
    session.headers.update({"User-Agent": f"unmixcli/{__version__}", "Accept-Encoding": "identity"})
    if os.environ.get("SSL_CERT_FILE"):  # weaker than REQUESTS_CA_BUNDLE, as `session.verify` is
        session.verify = os.environ["SSL_CERT_FILE"]  # OpenSSL's own variable, which requests does not read
    return session


def is_page(reply: requests.Response) -> bool:
    return reply.headers.get("Content-Type", "").partition(";")[0].strip().lower() in (
        "text/html",
        "application/xhtml+xml",
    )


def answers_for(url: str, seconds: float) -> bool:
    import requests

    try:
        with (
            new_session() as session,
            session.get(url, headers={"Range": "bytes=0-0"}, stream=True, timeout=(ADDRESS_SECONDS, seconds)) as reply,
        ):
            return reply.status_code in (200, 206) and not is_page(reply)
    except requests.RequestException:
        return False
