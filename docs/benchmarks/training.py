"""CPU seconds of a training step with freed memory kept (as `unmix train` does) and without, each in its own process.

    python docs/benchmarks/training.py [--model band_masks] [--runs 2]

Six excerpts of 4 s of noise, the network of default size, bf16 as the recipe of the built-in model has it, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STEPS = 8
STEMS = ("vocals", "drums", "bass", "other")


def step_seconds(architecture: str) -> float:
    """Median CPU time of a step."""
    import torch

    from unmixcli.models import architecture_class
    from unmixcli.training.losses import Loss, Objective

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = architecture_class(architecture).from_config({}, STEMS).train()
    references = 0.05 * torch.randn(6, len(STEMS), model.channels, 4 * model.sample_rate)
    mixture = references.sum(1)
    objective = Objective([Loss("l1", on="projection")])
    seconds = []
    for _ in range(STEPS):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model.training_outputs(mixture, objective.wanted)
        objective(outputs, references, None, model, mixture)[0].backward()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="band_masks")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--one", choices=("kept", "given back"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.one == "kept":
            from unmixcli.cli._memory import keep_freed_memory

            keep_freed_memory()
        print(f"{step_seconds(options.model):.2f}")
        return
    for _ in range(options.runs):
        for way in ("kept", "given back"):
            command = [sys.executable, __file__, "--model", options.model, "--one", way]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"freed memory {way}: {result.stdout.strip()} s of CPU a step", flush=True)


if __name__ == "__main__":
    main()
