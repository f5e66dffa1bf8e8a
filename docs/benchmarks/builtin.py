"""Size, arithmetic, speed and memory of a mask network: the built-in model by default.

    python docs/benchmarks/builtin.py [--model unmix_small] [--minutes 3]

GFLOP are those that torch's own counter sees in one second of stereo audio for all stems (two for a multiplication with
an addition; Fourier transforms are not in it). Speed and memory are those of a whole `unmix` process, reading a wav and
writing one wav per stem, the interpreter's start included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from memory import measure, repeat
from torch.utils.flop_counter import FlopCounterMode

from unmixcli.cache import file_path
from unmixcli.checkpoint import load_model
from unmixcli.registry import load_registry

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unmix_small")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--song", type=Path, default=ROOT / "docs" / "demo" / "caesium.ogg")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    entry = load_registry().get(options.model)
    size = sum(file_path(entry, file).stat().st_size for file in entry.files)
    model = load_model(entry)
    seconds = model.segment_length / model.sample_rate
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, model.channels, model.segment_length))
    used = (model.segment_length - 2 * model.edge) / model.sample_rate
    flops = counter.get_total_flops() / 1e9
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"weights {size / 1e6:.2f} MB, {parameters:,} parameters")
    print(f"{flops / seconds:.2f} GFLOP a second of audio; with the segments' edges {flops / used:.2f}")
    with tempfile.TemporaryDirectory() as scratch:
        song = Path(scratch) / "song.wav"
        repeat(options.song, options.minutes, song)
        command = [sys.executable, "-m", "unmixcli", str(song), "--model", options.model, "-q", "-o"]
        for run in range(options.runs):
            wall, peak = measure([*command, str(Path(scratch) / str(run))], dict(os.environ))
            print(f"{options.minutes * 60 / wall:.1f} x real time ({wall:.1f} s), peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
