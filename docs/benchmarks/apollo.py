"""Apollo against the public package `msst`: the same piece of a song through both networks, and in segments.

    pip install --no-deps msst && python docs/benchmarks/apollo.py [SONG] [--only NAME ...] [--rounds 2] [--seconds 3]

Both get the public network's seeded first weights. Forward: the largest deviation of the output, float32, and processor
seconds of both on one thread, in turn, the least of the rounds. Segments: the largest deviation of segments of which
0.5 s are used, with the model's own context, from the whole piece.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from unmixcli.models.apollo import Apollo
from unmixcli.options import Options
from unmixcli.pipeline import model_grid
from unmixcli.segment import cut, overlap_add

ROOT = Path(__file__).resolve().parents[2]
CASES = {"official": {"feature_dim": 256, "layer": 6}, "universal": {"feature_dim": 384, "layer": 6}}


def both(case: str) -> tuple[torch.nn.Module, Apollo]:
    """The public network and ours with the same weights."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its bands
        public = import_module("msst.models.look2hear.models.apollo").Apollo(sr=44100, win=20, **CASES[case]).eval()
    ours = Apollo.from_config(CASES[case], ["restored"])
    ours.load_state_dict(Apollo.convert_state(CASES[case], {"": public.state_dict()}), strict=True)
    return public, ours.eval()


def seconds(run: Callable[[], Any]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def in_segments(model: Apollo, track: Tensor) -> Tensor:
    """[1, 1, T] -> [1, 1, T]"""
    grid = model_grid(model, Options(segment=0.5 + 2 * model.edge / model.sample_rate))
    pieces = (
        (piece.start, model(piece.mixture)[0][..., piece.offset : piece.offset + piece.used])
        for piece in cut([track], grid)
    )
    return torch.cat(list(overlap_add(pieces, grid)), -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=3)
    arguments = parser.parse_args()
    samples, _ = soundfile.read(arguments.song, dtype="float32", always_2d=True)
    mixture = torch.from_numpy(np.resize(samples[:, 0], arguments.seconds * 44100))[None, None]
    torch.set_num_threads(1)
    print("| network | parameters | deviation | in segments | msst s | unmix s | times less |")
    print("|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        for case in arguments.only:
            public, ours = both(case)
            expected, found = public(mixture), ours(mixture)[:, 0]
            pairs = [
                (seconds(lambda: public(mixture)), seconds(lambda: ours(mixture)))  # noqa: B023 (called at once)
                for _ in range(arguments.rounds)
            ]
            slow, quick = (min(column) for column in zip(*pairs, strict=True))
            parts = float((in_segments(ours, mixture) - found).abs().max())
            parameters = sum(parameter.numel() for parameter in ours.parameters())
            print(
                f"| {case} | {parameters:,} | {float((expected - found).abs().max()):.1e} of "
                f"{float(expected.abs().max()):.2f} | {parts:.1e} | {slow:.2f} | {quick:.2f} | {slow / quick:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
