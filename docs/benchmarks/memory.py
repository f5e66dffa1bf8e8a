"""Peak memory of whole `unmix` processes over inputs of growing length.

    python docs/benchmarks/memory.py                       # 2, 20 and 120 minutes, umxhq's shape and REPET-SIM
    python docs/benchmarks/memory.py --minutes 2 20 --models repet_sim --song my.wav

The input is a song repeated to the length; weights of umxhq's shape are random (speed and memory don't depend on them).
Needs about 17 GiB of disk for 120 minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from unmixcli.audio.decode import open_audio

ROOT = Path(__file__).resolve().parents[2]


def repeat(song: Path, minutes: float, target: Path) -> None:
    """Write `song`, repeated, as a 16-bit wav of that length."""
    with open_audio(song) as decoder:
        rate = decoder.info.sample_rate
        samples = np.concatenate(list(decoder), axis=1).T
    missing = round(minutes * 60 * rate)
    with soundfile.SoundFile(target, "w", rate, samples.shape[1], subtype="PCM_16") as file:
        while missing > 0:
            file.write(0.7 * samples[:missing])
            missing -= len(samples)


def add_random_umx(folder: Path, environment: dict[str, str]) -> None:
    """Register seeded random weights of umxhq's shape under the name random_umxhq, in the published format."""
    sys.path.insert(0, str(Path(__file__).parent))
    from umx import write_random_weights

    paths = write_random_weights(folder)
    command = [sys.executable, "-m", "unmixcli", "models", "add", *map(str, paths), "--like", "umxhq"]
    subprocess.run([*command, "--name", "random_umxhq"], check=True, env=environment, stdout=subprocess.DEVNULL)


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--song", type=Path, default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 20, 120])
    parser.add_argument("--models", nargs="+", default=["random_umxhq", "repet_sim"])
    parser.add_argument("options", nargs="*", help="further options of unmix, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "UNMIX_CACHE": str(folder / "cache"), "UNMIX_CONFIG": str(folder / "config")}
        if "random_umxhq" in arguments.models:
            add_random_umx(folder, environment)
        print("| model | minutes | peak MiB | seconds | times real time |")
        print("|---|---|---|---|---|")
        for model in arguments.models:
            for minutes in arguments.minutes:
                song = folder / "song.wav"
                repeat(arguments.song, minutes, song)
                command = [sys.executable, "-m", "unmixcli", str(song), "--model", model, "-o", str(folder / "out")]
                command += ["-q", "--overwrite", "--no-resume", *arguments.options]
                seconds, peak = measure(command, environment)
                speed = 60 * minutes / seconds
                print(f"| {model} | {minutes:g} | {peak:.0f} | {seconds:.1f} | {speed:.1f} |", flush=True)


if __name__ == "__main__":
    main()
