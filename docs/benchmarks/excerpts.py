"""Cost of training excerpts: python docs/benchmarks/excerpts.py FOLDER PACKED

FOLDER is a data set; it is packed into PACKED first (or found there). CPU time of one thread, median of 60 items of 6 s
with four stems at 44.1 kHz, and of every augmentation on its own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from unmixcli.training.augment import AUGMENTATIONS, Chain
from unmixcli.training.datasets import Excerpts
from unmixcli.training.layouts import find_tracks
from unmixcli.training.packed import pack

STEMS = ("vocals", "drums", "bass", "other")
LENGTH = 6 * 44100
CHEAP = ("gain", "channel_swap", "polarity", "circular_shift", "mute")


def median_ms(work: Callable[[int], object], count: int) -> float:
    """Median CPU milliseconds of a call."""
    work(0)
    times = []
    for index in range(count):
        start = time.process_time()
        work(index)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def main(folder: str, packed: str) -> None:
    """Print the table."""
    tracks = find_tracks(folder)
    quick = pack(tracks, packed)
    cheap = [{"kind": kind} for kind in CHEAP]
    rows = (
        ("files, one place", tracks, 0.0, []),
        ("files, cross-track", tracks, 1.0, []),
        ("packed, one place", quick, 0.0, []),
        ("packed, cross-track", quick, 1.0, []),
        (f"packed, cross-track, {', '.join(CHEAP)}", quick, 1.0, cheap),
    )
    for name, found, cross_track, augmentations in rows:
        excerpts = Excerpts(
            found, STEMS, sample_rate=44100, length=LENGTH, cross_track=cross_track, augmentations=augmentations
        )
        print(f"{median_ms(excerpts.__getitem__, 60):8.1f} ms  {name}")
    noise = np.random.default_rng(0).standard_normal((4, 2, LENGTH * 5 // 4)).astype(np.float32) * np.float32(0.1)
    for kind in AUGMENTATIONS:
        chain = Chain([{"kind": kind}], 44100)

        def augment(index: int, chain: Chain = chain) -> object:
            return chain(noise[..., : chain.read_length(LENGTH, 0, index)].copy(), 0, index, length=LENGTH)

        print(f"{median_ms(augment, 10):8.1f} ms  {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
