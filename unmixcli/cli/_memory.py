"""Keep a process's memory level over long inputs."""

from __future__ import annotations

import contextlib
import ctypes
import platform

# malloc.h of glibc
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_THRESHOLD = 2 * 2**20
_ARENAS = 2


def return_large_blocks() -> None:
    """Have glibc give blocks above 2 MiB back to the system as soon as they are freed; elsewhere nothing.

    By default it raises that limit by itself to 32 MiB and keeps what threads free in a heap for each of them, and
    these fall into pieces: the peak of a process then creeps up over hours of audio, although what is in use stays the
    same (docs/benchmarks.md). Only the command line does this: it is one setting for the whole process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        library.mallopt(_M_ARENA_MAX, _ARENAS)
