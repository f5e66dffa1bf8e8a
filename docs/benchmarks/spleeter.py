"""Time and memory of Spleeter's networks with random weights of the published size.

    python docs/benchmarks/spleeter.py [--instruments 2 4 5] [--rounds 3]

For each number of instruments: one segment with one thread and with all, and segments side by side on threads of one
core each, as `cpu_workers` has it. Real-time factors are process time (one thread) or wall time over audio. With
`--json FILE` the numbers are written as well.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from unmixcli.models.spleeter import Spleeter

STEMS = ("vocals", "piano", "drums", "bass", "other")


def build(instruments: int) -> Spleeter:
    stems = STEMS[:instruments]
    config = {"type": "unet.softmax_unet"} if instruments == 5 else {}
    config |= {"conv_activation": "ELU", "deconv_activation": "ELU"} if instruments > 2 else {}
    torch.manual_seed(0)
    model = Spleeter.from_config(config, stems)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def best(rounds: int, run: object, clock: object = time.perf_counter) -> float:
    run()  # type: ignore[operator]
    times = []
    for _ in range(rounds):
        start = clock()  # type: ignore[operator]
        run()  # type: ignore[operator]
        times.append(clock() - start)  # type: ignore[operator]
    return min(times)


def measure(instruments: int, rounds: int) -> dict[str, float]:
    model = build(instruments)
    cores = os.cpu_count() or 1
    segment = 0.1 * torch.randn(1, 2, model.segment_length)
    used = (model.segment_length - 2 * model.edge) / model.sample_rate
    result = {"instruments": instruments, "seconds_used": round(used, 1)}
    torch.set_num_threads(1)
    result["rtf one thread"] = best(rounds, lambda: model(segment), time.process_time) / used
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        wall = best(rounds, lambda: list(pool.map(model, [segment] * cores)))
    result["rtf workers"] = wall / used / cores
    torch.set_num_threads(cores)
    result["rtf threads"] = best(rounds, lambda: model(segment)) / used
    result["rtf threads, batch of 2"] = best(rounds, lambda: model(segment.expand(2, -1, -1))) / used / 2
    result["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {name: round(value, 4) for name, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, nargs="+", default=[2, 4, 5])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = [measure(count, options.rounds) for count in options.instruments]
    for result in results:
        print("  ".join(f"{name}: {value}" for name, value in result.items()))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
