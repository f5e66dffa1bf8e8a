"""Run a post-filter over a stream: windows on a fixed grid, cross-faded.

The grid starts at sample 0, so a window holds the same samples however the stream is cut into blocks and whichever part
of the track is asked for. A filter's statistics (spatial covariances) are those of one window.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from unmixcli.postfilters import postfilter_function
from unmixcli.segment import cut, make_grid, overlap_add

WINDOW_SECONDS = 10.0
OVERLAP = 0.25

Needed = Callable[[int, int], bool]


def apply_windowed(
    blocks: Iterable[tuple[Tensor, Tensor]],
    postfilter: str | Callable[..., Tensor],
    *,
    sample_rate: int,
    iterations: int = 1,
    residual: bool = False,
    window_seconds: float = WINDOW_SECONDS,
    overlap: float = OVERLAP,
    needed: Needed = lambda start, stop: True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Filter a stream of mixtures and estimates.

    Args:
        blocks: (mixture [G, C, T], estimates [G, S, C, T]) of any lengths T, also 0, in order.
        postfilter: a name in `POSTFILTERS`, or a function like them.
        sample_rate: Hz.
        iterations: of the post-filter.
        residual: give the post-filter one more source for what no stem explains.
        window_seconds: length of a window.
        overlap: fraction of a window shared with the next one, 0 <= overlap < 1.
        needed: asked with a window's [start, stop) in samples; where it says no the window's estimates are passed
            on unfiltered.

    Yields:
        (mixture, filtered estimates), blocks that together have the length of the input; the mixture is untouched.
        The filtered stream does not depend on how the input was cut into blocks. Memory: about one window.
    """
    function = postfilter_function(postfilter) if isinstance(postfilter, str) else postfilter
    length = max(1, round(window_seconds * sample_rate))
    grid = make_grid(length=length, edge=0, overlap=overlap, padding="none")
    mixtures, pairs = itertools.tee(blocks)
    # cut() takes any leading axes: the mixture travels as stem 0 of its estimates.
    stacked = (torch.cat((mixture[:, None], estimates), dim=1) for mixture, estimates in pairs)

    def filtered() -> Iterator[tuple[int, Tensor]]:
        for window in cut(stacked, grid):
            assert window.mixture is not None  # every window was asked for
            mixture, estimates = window.mixture[:, 0], window.mixture[:, 1:]
            if estimates.shape[1] > 0 and needed(window.start, window.start + window.used):
                estimates = torch.stack(
                    [
                        function(one, some, sample_rate=sample_rate, iterations=iterations, residual=residual)
                        for one, some in zip(mixture, estimates, strict=True)
                    ]
                )
            yield window.start, estimates

    beside = _Reader(mixture for mixture, _ in mixtures)
    for block in overlap_add(filtered(), grid):
        yield beside.take(block.shape[-1]), block


class _Reader:
    """Blocks of a stream in the lengths asked for."""

    def __init__(self, blocks: Iterator[Tensor]) -> None:
        self._blocks = blocks
        self._rest: Tensor | None = None

    def take(self, length: int) -> Tensor:
        """The next `length` samples; the stream must hold them."""
        parts = [] if self._rest is None else [self._rest]
        held = sum(part.shape[-1] for part in parts)
        while held < length:
            parts.append(next(self._blocks))
            held += parts[-1].shape[-1]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        self._rest = joined[..., length:]
        return joined[..., :length]
