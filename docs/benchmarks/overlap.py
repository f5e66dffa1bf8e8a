"""The share of a command's wall time in which the network computes: decoding and encoding should cost none of it.

    python docs/benchmarks/overlap.py SONG --model NAME [more of unmix's options]

Runs `unmix` in this process with a clock around every forward pass. "from the start" counts Python's start and the
imports, "from the first segment" begins where the first forward pass does.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from unmixcli.cli import main  # noqa: E402


def union(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one span lasts."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def measure(arguments: list[str]) -> None:
    import unmixcli.cli.separate  # noqa: F401  (sets the memory up before torch is imported)
    from unmixcli.cli._memory import prepare_memory

    prepare_memory(arguments[arguments.index("--model") + 1] if "--model" in arguments else "auto")
    from unmixcli.runner import Runner

    spans: list[tuple[float, float]] = []
    lock = threading.Lock()
    forward = Runner._forward

    def timed(self: Runner, *given: Any) -> Any:
        start = time.perf_counter()
        result = forward(self, *given)
        with lock:
            spans.append((start, time.perf_counter()))
        return result

    Runner._forward = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["unmix", *arguments, "-o", folder, "-q"]
        try:
            main()
        except SystemExit as left:
            if left.code:
                raise
    end = time.perf_counter()
    busy, summed, first = union(spans), sum(stop - start for start, stop in spans), min(start for start, _ in spans)
    print(f"{len(spans)} forward passes, {end - STARTED:.1f} s: computing {busy / (end - STARTED):.1%} from the start")
    print(f"from the first segment: {busy / (end - first):.1%}, {summed / (end - first):.2f} at a time")


if __name__ == "__main__":
    measure(sys.argv[1:])
