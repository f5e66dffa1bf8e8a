"""SCNet against the public package `msst`: one segment of 11 s through both networks, and segments side by side.

    pip install --no-deps msst && python docs/benchmarks/scnet.py [SONG] [--only NAME ...] [--rounds 3] [--workers]

Every configuration gets the public network's seeded first weights. Forward: the largest deviation of the estimates,
float32, and processor seconds of both on one thread, in turn, the least of the rounds. Workers: wall seconds of
four segments one after the other with all threads, in pairs, and side by side with one thread each.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel

ROOT = Path(__file__).resolve().parents[2]
STEMS = ("drums", "bass", "other", "vocals")
LARGE = {"dims": [4, 64, 128, 256], "band_SR": [0.225, 0.372, 0.403]}
XL = {"dims": [4, 64, 128, 256], "band_SR": [0.23, 0.37, 0.4], "num_dplayer": 8}
WIDE = {"band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "conv_depths": [3, 3, 3]}
# name -> (module of the public package, architecture here, arguments of both)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "small": ("scnet", "scnet", {}),
    "large": ("scnet", "scnet", LARGE),
    "XL": ("scnet", "scnet", XL),
    "XL IHF": ("scnet", "scnet", XL | WIDE),
    "huge": ("scnet", "scnet", XL | WIDE | {"num_dplayer": 10}),
    "small, masked": ("scnet_masked", "scnet_masked", {}),
}


def both(case: str) -> tuple[torch.nn.Module, SeparationModel]:
    """The public network and ours with the same weights."""
    module, architecture, arguments = CASES[case]
    torch.manual_seed(0)
    public = import_module(f"msst.models.scnet.{module}").SCNet(**arguments).eval()
    ours = architecture_class(architecture).from_config(arguments, STEMS)
    ours.load_state_dict(public.state_dict(), strict=True)
    return public, ours.eval()


def segments(song: Path, count: int, length: int) -> Tensor:
    """The first segments of a song, repeated where it is too short, [count, 2, length]."""
    samples, _ = soundfile.read(song, dtype="float32", always_2d=True)
    samples = np.resize(samples, (count * length, samples.shape[1]))[:, [0, -1]]
    return torch.from_numpy(samples.reshape(count, length, 2).transpose(0, 2, 1).copy())


def timed(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    started = clock()
    run()
    return clock() - started


def forward(case: str, mixture: Tensor, rounds: int) -> str:
    """A row: deviation, seconds of both, ratio."""
    public, ours = both(case)
    expected, found = public(mixture), ours(mixture)
    slow, quick = [], []
    for _ in range(rounds):
        slow.append(timed(lambda: public(mixture), time.process_time))
        quick.append(timed(lambda: ours(mixture), time.process_time))
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    deviation = float((expected - found).abs().max())
    return (
        f"| {case} | {parameters:,} | {deviation:.1e} of {float(expected.abs().max()):.2f} "
        f"| {min(slow):.2f} | {min(quick):.2f} | {min(slow) / min(quick):.2f} |"
    )


def workers(case: str, mixtures: Tensor, rounds: int) -> str:
    """A row: four segments in three ways."""
    ours, threads = both(case)[1], torch.get_num_threads()

    def side_by_side() -> None:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            list(pool.map(lambda mixture: ours(mixture[None]), mixtures))

    ways: list[Callable[[], Any]] = [
        lambda: [ours(mixture[None]) for mixture in mixtures],
        lambda: [ours(pair) for pair in mixtures.split(2)],
        side_by_side,
    ]
    seconds = [[timed(way, time.perf_counter) for way in ways] for _ in range(rounds)]
    return f"| {case} | " + " | ".join(f"{min(column):.2f}" for column in zip(*seconds, strict=True)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=11.0)
    parser.add_argument("--workers", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    mixtures = segments(arguments.song, 4, round(arguments.seconds * 44100))
    with torch.inference_mode():
        if arguments.workers:
            print("| network | one after the other, s | in pairs | side by side |\n|---|---|---|---|")
            for case in arguments.only:
                print(workers(case, mixtures, arguments.rounds), flush=True)
            return
        torch.set_num_threads(1)
        print("| network | parameters | deviation | msst s | unmix s | times less |\n|---|---|---|---|---|---|")
        for case in arguments.only:
            print(forward(case, mixtures[:1], arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
