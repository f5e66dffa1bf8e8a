"""Keep a process's memory level over long inputs."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import threading

# malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_THRESHOLD = 8 * 2**20
_LONG_SECONDS = 10.0


def keep_memory_level() -> None:
    """Have all threads use one heap of glibc, and in long runs give large blocks back once they are freed; elsewhere
    nothing.

    By default each thread has a heap of its own, and what one frees the others can't use; blocks up to 32 MiB lie in
    them and leave holes. The peak of a process was seen to creep up over hours of audio; giving blocks above 8 MiB back
    makes that less (docs/benchmarks.md has what was measured), but costs page faults when the next one is made, a
    quarter of the time: a song is through before that matters. Only the command line does this: it is for the whole
    process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        timer = threading.Timer(_LONG_SECONDS, library.mallopt, (_M_MMAP_THRESHOLD, _THRESHOLD))
        timer.daemon = True
        timer.start()
