"""How far Open-Unmix in segments is from one pass over the whole song, per target, in dB SDR.

    python docs/benchmarks/umx_segments.py SONG [--seconds 180]

Networks of the umxhq shape with seeded random weights. A random LSTM forgets within a few frames, so the forget gates
are opened as well: a cell then keeps about 1 / (1 - sigmoid(bias)) frames, and its output is fed back less, since
otherwise such a network is chaotic and no context ever suffices. `used` and `context` are in blocks of 300 frames
(6.97 s), the filter's own.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import soundfile
import torch
from umx import CONFIG, TARGETS, random_state

from unmixcli.models.open_unmix import OpenUnmix
from unmixcli.segment import cut, make_grid

BLOCK = CONFIG["nhop"] * CONFIG["wiener_win_len"]


def build(niter: int, forget: float, feedback: float) -> OpenUnmix:
    config = CONFIG | {"niter": niter}
    model = OpenUnmix.from_config(config, TARGETS)
    model.load_state_dict(
        OpenUnmix.convert_state(
            config, {name: random_state(name, forget=forget, feedback=feedback) for name in TARGETS}
        )
    )
    return model.eval()


def in_segments(model: OpenUnmix, mixture: torch.Tensor, used: float, context: float) -> torch.Tensor:
    edge = int(context * BLOCK)
    grid = make_grid(length=int(used * BLOCK) + 2 * edge, edge=edge, overlap=0.0, multiple=1024, padding="none")
    parts = [
        model(segment.mixture)[..., segment.offset : segment.offset + segment.used]
        for segment in cut([mixture], grid)
        if segment.mixture is not None
    ]
    return torch.cat(parts, dim=-1)


def decibels(expected: torch.Tensor, found: torch.Tensor) -> float:
    error = (expected - found).double().square().sum().clamp_min(1e-30)
    return float(10 * torch.log10(expected.double().square().sum() / error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, nargs="+", help="a song, or its stems, which are summed")
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    frames = int(options.seconds * 44100)
    mixture = sum(
        torch.from_numpy(soundfile.read(p, frames=frames, dtype="float32")[0].T.copy()) for p in options.songs
    )
    print(f"| frames kept | niter | used | context | {' | '.join(TARGETS)} | max |")
    print("|---|---|---|---|---|---|---|---|---|")
    for forget, feedback in ((0.0, 1.0), (3.0, 0.3), (4.0, 0.3), (5.0, 0.3)):
        memory = 1 + math.exp(forget)
        for niter, grids in ((0, ((4, 1 / 3), (4, 1), (4, 2))), (1, ((2, 1), (4, 1), (8, 1), (4, 2)))):
            model = build(niter, forget, feedback)
            whole = model(mixture[None])
            for used, context in grids:
                found = in_segments(model, mixture[None], used, context)
                values = [f"{decibels(whole[0, s], found[0, s]):.1f}" for s in range(len(TARGETS))]
                most = float((whole - found).abs().max())
                print(
                    f"| {memory:.0f} | {niter} | {used} | {context:.2g} | {' | '.join(values)} | {most:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
