"""The process's memory: large blocks go back to the system, and nobody holds a segment longer than needed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.toys import Halves
from unmixcli.cli import _memory
from unmixcli.cli._memory import has_huge_pages
from unmixcli.pipeline import _flat_blocks, _in_small_blocks, _segmented
from unmixcli.runner import Runner
from unmixcli.segment import Segment, cut, make_grid, overlap_add

# Blocks of 3 MiB with a small one after each, which keeps a heap from shrinking; prints what stays of them, MiB.
_PROBE = """
from unmixcli.cli._memory import keep_memory_level
keep_memory_level()
import torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
torch.ones(5 * 2**20).sum()  # freed, it has glibc keep blocks up to its size
before = resident()
for _ in range(3):
    blocks = [(torch.ones(3 * 2**18), torch.ones(2**12)) for _ in range(60)]
    small = [small for _, small in blocks]
    held = resident()
    del blocks
print(held - before, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not has_huge_pages(), reason="for glibc and huge pages")
def test_freed_blocks_go_back_to_the_system_at_once() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", _PROBE], env=environment, cwd=root, check=True, capture_output=True, text=True
    )
    held, left = map(float, result.stdout.split())
    assert held > 150
    assert left < 20  # otherwise more than 150


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")
def test_training_keeps_what_it_frees() -> None:
    probe = _PROBE.replace("keep_memory_level", "keep_freed_memory")
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", probe], cwd=root, check=True, capture_output=True, text=True)
    held, left = map(float, result.stdout.split())
    assert held > 150
    assert left > 0.9 * held


@pytest.mark.parametrize(
    ("model", "quality", "kept"),
    [
        ("htdemucs", "balanced", True),
        ("umxhq", "balanced", False),
        ("umxhq+htdemucs_ft", "balanced", True),
        ("umxhq/vocals/htdemucs", "balanced", True),
        ("umxhq/htdemucs/umx", "balanced", False),
        ("auto", "best", True),
        ("auto", "fast", False),
        ("nobody knows it", "balanced", False),
    ],
)
def test_large_networks_keep_what_they_free(
    model: str, quality: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(_memory, "keep_freed_memory", lambda: called.append(True))
    monkeypatch.setattr(_memory, "keep_memory_level", lambda: called.append(False))
    _memory.prepare_memory(model, (), quality)
    assert called == [kept]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("always madvise [never]", False), ("always [madvise] never", True), ("[always] madvise never", True)],
)
def test_huge_pages_are_read_from_the_system(setting: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "enabled"
    assert not has_huge_pages(file)
    file.write_text(f"{setting}\n")
    assert has_huge_pages(file) is expected


class OneAtATime:
    """Large tensors; when the next one is asked for, nobody may hold the last one."""

    def __init__(self, count: int, *shape: int) -> None:
        self.count, self.shape = count, shape
        self.made = 0

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.count):
            tensor = torch.zeros(self.shape)
            last = weakref.ref(tensor)
            self.made += 1
            yield tensor
            del tensor
            assert last() is None, "the last one is still held"


class Given(Runner):
    """A runner with the estimates made beforehand."""

    def __init__(self, estimates: OneAtATime) -> None:
        super().__init__(Halves(), torch.device("cpu"))
        self.estimates = estimates

    def run(self, segments: object, groups: int) -> Iterator[tuple[Segment, Tensor]]:
        grid = make_grid(length=5000, edge=250, overlap=0.25)
        for estimate in self.estimates:  # `enumerate` would hold it
            yield Segment((self.estimates.made - 1) * grid.stride, 4500, 250, None), estimate
            del estimate


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_nothing_holds_the_estimates_that_were_delivered(overlap: float) -> None:
    """One thread here; `prefetch` between the stages has its own test (test_streams.py)."""
    estimates = OneAtATime(4, 1, 2, 2, 4500)
    grid = make_grid(length=5000, edge=250, overlap=overlap)
    joined = _segmented([], Given(estimates), grid, lambda first, last: True, 1)
    delivered = 0
    for block in _flat_blocks(_in_small_blocks(joined), ((0, 1),), 2):
        delivered += block.shape[-1]
    assert estimates.made == 4
    assert delivered == 3 * grid.stride + 4500


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_what_is_finished_is_given_before_the_next_segment_is_computed(overlap: float) -> None:
    grid = make_grid(length=100, edge=10, overlap=overlap)
    computed = 0

    def segments() -> Iterator[tuple[int, Tensor]]:
        nonlocal computed
        for computed in range(1, 6):
            yield (computed - 1) * grid.stride, torch.ones(80)

    blocks = overlap_add(segments(), grid)
    assert [(next(blocks).shape[-1], computed) for _ in range(5)] == [(grid.stride, count) for count in range(1, 6)]
    assert sum(block.shape[-1] for block in blocks) == 80 - grid.stride


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_is_computed_before_the_next_segment_is_cut(batch_size: int) -> None:
    grid = make_grid(length=5000, edge=250, overlap=0)
    read = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal read
        while read < 40:
            read += 1
            yield torch.zeros(1, 2, 1000)

    results = Runner(Halves(), torch.device("cpu"), batch_size=batch_size).run(cut(blocks(), grid), 1)
    segment, _ = next(results)
    assert read == {1: 5, 2: 10}[batch_size]
    assert segment.mixture is None
