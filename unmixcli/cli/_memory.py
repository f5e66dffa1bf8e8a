"""Keep a process's memory level over long inputs."""

from __future__ import annotations

import contextlib
import ctypes
import platform

_M_ARENA_MAX = -8  # malloc.h of glibc


def share_one_heap() -> None:
    """Have all threads use one heap of glibc; elsewhere nothing.

    By default each thread has a heap of its own, and what one frees the others can't use: the peak of a process creeps
    up over hours of audio, although what is in use stays the same (docs/benchmarks.md). Giving freed blocks back to the
    system at once would help too, but then every large array costs page faults again: a third of the running time.
    Only the command line does this: it is one setting for the whole process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
