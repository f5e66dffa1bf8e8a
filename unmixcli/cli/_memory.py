"""What a process does with memory it has freed: give it back over long inputs, keep it from step to step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterable
from pathlib import Path

from unmixcli.errors import UnmixError
from unmixcli.models import LARGE_BLOCKS
from unmixcli.registry import load_registry, named_entries

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_THRESHOLD = 2**20
_LATE_THRESHOLD = 8 * 2**20
_LATE_SECONDS = 10.0
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# torch reads this once, at its first allocation: blocks of at least 2 MiB then lie on huge pages where the system lets
# a program ask for them
_TORCH_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def prepare_memory(model: str, stems: Iterable[str] = (), quality: str = "balanced") -> None:
    """Choose between the two for a separation. Call it before torch is imported.

    Args:
        model: what `--model` says: a name, several ("a+b"), such with stems between them ("a/vocals/b"), or "auto".
        stems, quality: what "auto" goes by.
    """
    registry = load_registry()
    preset = registry.preset(tuple(stems), quality) if model == "auto" else None
    names = [preset.model] if preset else [word.strip() for word in model.split("/")[::2]]
    with contextlib.suppress(UnmixError):  # an unknown model is told of when it is loaded
        if any(entry.architecture in LARGE_BLOCKS for name in names for entry in named_entries(name, registry)):
            keep_freed_memory()
            return
    keep_memory_level()


def keep_memory_level() -> None:
    """Have all threads use one heap of glibc, and give large blocks back to the system once they are freed; elsewhere
    nothing. Call it before torch is imported.

    By default each thread has a heap of its own, and what one frees the others can't use; blocks up to 32 MiB lie in
    them and leave holes, so that the peak of a process creeps up over hours of audio. Giving them back costs page
    faults when the next one is made. On huge pages those are few. Where the system has none, only blocks above 8 MiB
    are given back, and only from the tenth second on: the rest would take a quarter of a song's time
    (docs/benchmarks.md has what was measured). Only the command line does this: it is for the whole process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        if has_huge_pages() and os.environ.setdefault(_TORCH_HUGE_PAGES, "1") == "1":
            library.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
            return
        timer = threading.Timer(_LATE_SECONDS, library.mallopt, (_M_MMAP_THRESHOLD, _LATE_THRESHOLD))
        timer.daemon = True
        timer.start()


def has_huge_pages(setting: Path = _HUGE_PAGES) -> bool:
    """Whether Linux gives huge pages to programs that ask for them (or to all)."""
    try:
        text = setting.read_text()
    except OSError:
        return False
    return "[madvise]" in text or "[always]" in text


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step, instead of giving it back; elsewhere nothing.

    Steps of a training, and segments of a large network, take the same large blocks again and again, and touching a
    page for the first time costs more than computing with it: without a GPU, steps of training took two thirds of the
    time (docs/benchmarks/training.py), and a song with htdemucs two thirds (docs/benchmarks.md). Memory that was
    used once stays taken; only the command line does this, for the whole process.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        library.mallopt(_M_TOP_PAD, 64 * 2**20)
