"""Cutting and joining: identity, independence of blocks, no seams."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from unmixcli.segment import Grid, Segment, cut, extend, make_grid, overlap_add, reblock, triangle

LENGTH = 100


def in_blocks(signal: Tensor, *lengths: int) -> Iterator[Tensor]:
    position, turn = 0, 0
    while position < signal.shape[-1]:
        length = lengths[turn % len(lengths)]
        yield signal[..., position : position + length]
        position, turn = position + length, turn + 1


def used_part(segment: Segment) -> Tensor:
    assert segment.mixture is not None
    return segment.mixture[..., segment.offset : segment.offset + segment.used]


@pytest.mark.parametrize("padding", ["reflect", "zero", "none"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("total", [0, 1, 19, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 17])
def test_cut_and_join_gives_the_signal_back(padding: str, overlap: float, total: int) -> None:
    signal = torch.randn(1, 2, total, generator=torch.Generator().manual_seed(total))
    grid = make_grid(length=LENGTH, edge=10, overlap=overlap, padding=padding)  # type: ignore[arg-type]
    results = []
    for lengths in ((1,), (7, 50), (1000,)):
        segments = ((segment.start, used_part(segment)) for segment in cut(in_blocks(signal, *lengths), grid))
        results.append(torch.cat([torch.zeros(1, 2, 0), *overlap_add(segments, grid)], dim=-1))
    assert results[0].shape == signal.shape
    # weights are sums of at most ten float32 numbers: 1e-6 of the signal's scale
    torch.testing.assert_close(results[0], signal, atol=1e-6, rtol=0)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_side_by_side_parts_are_untouched() -> None:
    signal = torch.randn(1, 2, 517)
    grid = make_grid(length=LENGTH, edge=10, overlap=0)
    segments = ((segment.start, used_part(segment)) for segment in cut([signal], grid))
    assert torch.equal(torch.cat(list(overlap_add(segments, grid)), dim=-1), signal)


def test_segments_have_real_context_inside_and_mirrored_context_at_the_ends() -> None:
    signal = torch.arange(1.0, 251.0).reshape(1, 1, -1)
    segments = list(cut([signal], make_grid(length=LENGTH, edge=10, overlap=0)))
    first, second, last = (segment.mixture[0, 0] for segment in (segments[0], segments[1], segments[-1]))  # type: ignore[index]
    assert first[:11].tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert second.tolist() == list(range(71, 171))
    assert last[-11:].tolist() == [250, 249, 248, 247, 246, 245, 244, 243, 242, 241, 240]


def test_fixed_segments_all_have_the_full_length() -> None:
    grid = make_grid(length=LENGTH, edge=10, overlap=0, padding="zero", fixed=True)
    segments = list(cut([torch.ones(1, 1, 173)], grid))
    assert [segment.used for segment in segments] == [80, 80, 13]
    assert all(segment.mixture is not None and segment.mixture.shape[-1] == LENGTH for segment in segments)
    assert segments[-1].mixture is not None
    assert segments[-1].mixture[0, 0, 23:].abs().max() == 0


def test_strides_lie_on_the_model_s_block_grid() -> None:
    grid = make_grid(length=140, edge=10, overlap=0.25, multiple=16)
    assert grid.stride == 80  # 90 rounded down to a multiple of 16
    assert make_grid(length=140, edge=10, overlap=0.99, multiple=16).stride == 16


def test_segments_that_are_not_needed_come_without_mixture() -> None:
    grid = make_grid(length=LENGTH, edge=10, overlap=0)
    segments = list(cut([torch.ones(1, 1, 400)], grid, lambda start, stop: start < 160 and stop > 80))
    assert [segment.mixture is not None for segment in segments] == [False, True, False, False, False]


@pytest.mark.parametrize("total", [1, 2, 3, 17])
@pytest.mark.parametrize(("before", "after"), [(0, 5), (40, 0), (33, 50)])
def test_mirror_agrees_with_numpy(total: int, before: int, after: int) -> None:
    signal = np.arange(1.0, total + 1, dtype=np.float32)
    mine = extend(torch.from_numpy(signal), before, after, mirrored=True).numpy()
    if total == 1:  # numpy repeats a lone sample; there is no wave to mirror, so silence is right
        assert mine.sum() == 1
    else:
        np.testing.assert_array_equal(mine, np.pad(signal, (before, after), mode="reflect"))


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_weights_never_reach_zero(length: int) -> None:
    weights = triangle(length)
    assert weights.min() > 0
    assert weights.max() == 1


def test_reblock_keeps_the_stream() -> None:
    signal = torch.randn(2, 333)
    blocks = list(reblock(in_blocks(signal, 1, 40, 7), 50))
    assert [block.shape[-1] for block in blocks] == [50] * 6 + [33]
    assert torch.equal(torch.cat(blocks, dim=-1), signal)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"length": 20, "edge": 10, "stride": 1}, "no used part"),
        ({"length": 100, "edge": 10, "stride": 81}, "expected 1..80"),
        ({"length": 100, "edge": 10, "stride": 0}, "expected 1..80"),
        ({"length": 100, "edge": 10, "stride": 80, "padding": "none", "fixed": True}, "need padding"),
    ],
)
def test_impossible_grids_are_refused(grid: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid(**grid)  # type: ignore[arg-type]
