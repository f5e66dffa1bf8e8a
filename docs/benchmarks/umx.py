"""Whole-process time and peak memory of `unmix` against the public `umx` command, on the same weights.

    pip install --no-deps openunmix && python docs/benchmarks/umx.py [SONG] [--seconds 180] [--pairs 3]

Both programs read the same wav file and write four 32-bit float stems; the weights have the umxhq shape and seeded
random numbers (time and memory don't depend on what they hold). The runs alternate, so that whatever else the machine
does meets both. Where torchaudio can't be imported, a stand-in of ten lines reads and writes through soundfile for
`umx`. At the end the stems of both programs are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("vocals", "drums", "bass", "other")
MODEL = "random_umxhq"
CONFIG = {
    "hidden_size": 512,
    "nb_layers": 3,
    "unidirectional": False,
    "nfft": 4096,
    "nhop": 1024,
    "nb_channels": 2,
    "max_bin": 1487,
    "nb_output_bins": 2049,
    "sample_rate": 44100,
    "niter": 1,
    "wiener_win_len": 300,
    "targets": list(TARGETS),
}
STAND_IN = '''"""Reads and writes through soundfile, nothing else."""
import soundfile
import torch

def load(path):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate

def save(path, samples, sample_rate):
    soundfile.write(path, samples.T.numpy(), int(sample_rate), subtype="FLOAT")
'''


def random_state(target: str, *, forget: float = 0.0, feedback: float = 1.0) -> dict[str, Tensor]:
    """A target's published state dict with seeded random numbers.

    Args:
        target: seeds the numbers.
        forget: added to the forget gates' biases: a cell keeps about 1 / (1 - sigmoid(forget)) frames.
        feedback: factor of the recurrent weights. At 1 with open forget gates the network is chaotic.
    """
    generator = torch.Generator().manual_seed(TARGETS.index(target))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(*shape).uniform_(low, high, generator=generator)

    hidden, bins, outputs = 512, 1487, 2 * 2049
    made = {
        "fc1.weight": uniform(-0.018, 0.018, hidden, 2 * bins),
        "fc2.weight": uniform(-0.03, 0.03, hidden, 2 * hidden),
        "fc3.weight": uniform(-0.044, 0.044, outputs, hidden),
        "input_mean": uniform(-1.0, 0.0, bins),
        "input_scale": uniform(0.1, 0.5, bins),
        "output_mean": uniform(0.2, 0.8, 2049),
        "output_scale": uniform(0.3, 0.7, 2049),
    }
    for norm, features in (("bn1", hidden), ("bn2", hidden), ("bn3", outputs)):
        made[f"{norm}.weight"] = uniform(0.8, 1.2, features)
        made[f"{norm}.bias"] = uniform(-0.1, 0.1, features)
        made[f"{norm}.running_mean"] = uniform(-0.1, 0.1, features)
        made[f"{norm}.running_var"] = uniform(0.05, 0.2, features)
        made[f"{norm}.num_batches_tracked"] = torch.tensor(1)
    cell = hidden // 2
    bound = cell**-0.5  # the initial weights of torch's LSTM
    for layer in range(3):
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            made[f"lstm.weight_ih_{suffix}"] = uniform(-bound, bound, 4 * cell, hidden)
            made[f"lstm.weight_hh_{suffix}"] = feedback * uniform(-bound, bound, 4 * cell, cell)
            made[f"lstm.bias_ih_{suffix}"] = uniform(-bound, bound, 4 * cell)
            made[f"lstm.bias_hh_{suffix}"] = uniform(-bound, bound, 4 * cell)
            made[f"lstm.bias_ih_{suffix}"][cell : 2 * cell] += forget  # gates stand as input, forget, cell, output
    return made


def write_random_weights(folder: Path) -> list[Path]:
    """Four `TARGET.pth`, with the settings files beside them that the `umx` command reads. Returns the four."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = {"sample_rate": 44100, "nfft": 4096, "nhop": 1024, "nb_channels": 2}
    (folder / "separator.json").write_text(json.dumps(shape), encoding="utf-8")
    paths = []
    for target in TARGETS:
        settings = {"args": {"nfft": 4096, "nb_channels": 2, "hidden_size": 512}}
        (folder / f"{target}.json").write_text(json.dumps(settings), encoding="utf-8")
        paths.append(folder / f"{target}.pth")
        torch.save(random_state(target), paths[-1])
    return paths


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak resident MiB of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def write_song(source: Path, seconds: float, target: Path) -> None:
    """`source`, repeated or cut to the length, as a 16-bit wav."""
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    frames = round(seconds * rate)
    samples = np.tile(samples, (-(-frames // len(samples)), 1))[:frames]
    soundfile.write(target, 0.7 * samples, rate, subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        song, weights = folder / "song.wav", folder / MODEL
        write_song(arguments.song, arguments.seconds, song)
        paths = write_random_weights(weights)
        environment = {**os.environ, "UNMIX_CACHE": str(folder / "cache"), "UNMIX_CONFIG": str(folder / "config")}
        public = dict(os.environ)
        if find_spec("torchaudio") is None:
            (folder / "stand_in").mkdir()
            (folder / "stand_in" / "torchaudio.py").write_text(STAND_IN, encoding="utf-8")
            public["PYTHONPATH"] = os.pathsep.join([str(folder / "stand_in"), os.environ.get("PYTHONPATH", "")])
        program = [sys.executable, "-m", "unmixcli"]
        add = [*program, "models", "add", *map(str, paths), "--like", "umxhq", "--name", MODEL]
        subprocess.run(add, check=True, env=environment, stdout=subprocess.DEVNULL)
        ours = [*program, str(song), "--model", MODEL, "-o", str(folder / "ours"), "-q"]
        ours += ["--bit-depth", "32f", "--residual", "ignore", "--template", "{stem}"]
        theirs = [sys.executable, "-c", "from openunmix.cli import separate; separate()", str(song), "--no-cuda"]
        theirs += ["--model", str(weights), "--outdir", str(folder / "theirs"), "--targets", *TARGETS]
        compare(ours, environment, theirs, public, folder / "ours", arguments.pairs)
        print("\n| stem | unmix against umx, dB SDR | largest difference |\n|---|---|---|")
        for stem in TARGETS:
            expected, _ = soundfile.read(folder / "theirs" / "song" / f"{stem}.wav")
            found, _ = soundfile.read(folder / "ours" / f"{stem}.wav")
            ratio = 10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2))
            print(f"| {stem} | {ratio:.1f} | {np.abs(expected - found).max():.1e} |")


def compare(
    ours: list[str],
    environment: dict[str, str],
    theirs: list[str],
    public: dict[str, str],
    results: Path,
    pairs: int,
    *,
    peer: str = "umx",
) -> None:
    """Run the two commands in turn and print a table. `unmix` would skip what is in `results`, so that is deleted."""
    print(f"| pair | {peer} s | CPU s | MiB | unmix s | CPU s | MiB | times faster | times less CPU |")
    print("|---|---|---|---|---|---|---|---|---|")
    ratios = []
    for pair in range(pairs):
        slow, slow_cpu, large = measure(theirs, public)
        shutil.rmtree(results, ignore_errors=True)
        quick, quick_cpu, small = measure(ours, environment)
        ratios.append(slow / quick)
        print(
            f"| {pair + 1} | {slow:.1f} | {slow_cpu:.1f} | {large:.0f} | {quick:.1f} | {quick_cpu:.1f} | {small:.0f} "
            f"| {slow / quick:.2f} | {slow_cpu / quick_cpu:.2f} |",
            flush=True,
        )
    print(f"\nmedian: {median(ratios):.2f} times faster")


if __name__ == "__main__":
    main()
