"""How far `unmix evaluate` agrees with museval, and how much faster it is.

    python docs/benchmarks/evaluation.py agreement FOLDER    # FOLDER/track/{vocals,drums,bass,other}.*
    python docs/benchmarks/evaluation.py speed FOLDER        # its first track, repeated to three minutes

Estimates are those of the ideal ratio mask with an error of the mixture added, rounded to 16 bit. museval's metrics are
loaded without its package, whose imports want an ffmpeg program.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from unmixcli.audio.encode import open_encoder
from unmixcli.evaluation.folders import MIXTURE, find_tracks
from unmixcli.evaluation.metrics import bss_eval_v4, median
from unmixcli.evaluation.oracles import oracle_blocks
from unmixcli.evaluation.projection import Signal
from unmixcli.evaluation.spool import collect, read, total

COLUMNS = ("SDR", "ISR", "SIR", "SAR")


def museval_metrics() -> ModuleType:
    """museval/metrics.py as a module of its own."""
    package = importlib.util.find_spec("museval")
    if package is None or package.origin is None:
        sys.exit("pip install museval")
    spec = importlib.util.spec_from_file_location("museval_metrics", Path(package.origin).with_name("metrics.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def song(folder: Path, track: str) -> tuple[list[str], int, list[Signal], list[Signal]]:
    """Stem names, sample rate, references and estimates of a track."""
    places = {stem: place for stem, place in find_tracks(folder)[track].items() if stem != MIXTURE}
    recordings = [read(place) for place in places.values()]
    references = [recording.samples for recording in recordings]
    mixture = total(references)
    blocks = (0.9 * block + 0.02 * part for block, part in zip(*_in_step(mixture, references), strict=True))
    return list(places), recordings[0].sample_rate, references, collect(blocks, len(references))


def _in_step(mixture: Signal, references: list[Signal]) -> tuple[list[Signal], list[Signal]]:
    masks = list(oracle_blocks("irm2", mixture, references))
    edges = np.cumsum([0, *(block.shape[-1] for block in masks)])
    return masks, [mixture[None, :, a:b] for a, b in itertools.pairwise(edges)]


def agreement(folder: Path) -> None:
    """The largest difference of any frame and of the tracks' medians, by track and stem."""
    museval = museval_metrics()
    print("| track | stem | largest difference of a frame: SDR, ISR, SIR, SAR (dB) | of the median |")
    print("|---|---|---|---|")
    worst = 0.0
    for track in find_tracks(folder):
        stems, rate, references, estimates = song(folder, track)
        ours = bss_eval_v4(references, estimates, sample_rate=rate)
        theirs = museval.bss_eval(*(np.stack(x).transpose(0, 2, 1) for x in (references, estimates)), rate, rate)
        for index, stem in enumerate(stems):
            pairs = [(getattr(ours, c.lower())[index], theirs[i][index]) for i, c in enumerate(COLUMNS)]
            assert all(np.array_equal(np.isfinite(a), np.isfinite(b)) for a, b in pairs), "other frames are defined"
            frames = [float(np.nanmax(np.abs(a - b))) for a, b in pairs]
            middle = max(abs(median(a) - median(b)) for a, b in pairs)
            worst = max(worst, middle, *frames)
            print(f"| {track} | {stem} | {', '.join(f'{value:.1e}' for value in frames)} | {middle:.1e} |", flush=True)
    print(f"\nlargest difference: {worst:.1e} dB")


def speed(folder: Path) -> None:
    """Seconds of the whole process for a song of three minutes and four stems in 16-bit WAV."""
    stems, rate, references, estimates = song(folder, next(iter(find_tracks(folder))))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for kind, signals in (("references", references), ("estimates", estimates)):
            for stem, signal in zip(stems, signals, strict=True):
                path = root / kind / "song" / f"{stem}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                long = np.tile(signal, -(-180 * rate // signal.shape[1]))[:, : 180 * rate].astype(np.float32)
                with open_encoder(path, format="wav", sample_rate=rate, channels=len(long), sample_type="s16") as out:
                    out.write(long)
        folders = [str(root / "references"), str(root / "estimates")]
        ours = timed([sys.executable, "-m", "unmixcli", "evaluate", *folders])
        theirs = timed([sys.executable, __file__, "museval", *folders])
    print("\n| | wall (s) | processor (s) | peak memory (MB) |\n|---|---|---|---|")
    for name, (wall, cpu, memory) in (("unmix evaluate", ours), ("museval 0.4.1", theirs)):
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {memory:.0f} |")
    print(f"\nratio: wall {theirs[0] / ours[0]:.1f}, processor {theirs[1] / ours[1]:.1f}")


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall and processor seconds and peak memory (MB, Linux) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def museval_run(references: Path, estimates: Path) -> None:
    """What museval takes for one song, reading the files included."""
    import soundfile

    museval = museval_metrics()
    signals = []
    for folder in (references, estimates):
        files = sorted((folder / "song").iterdir())
        signals.append(np.stack([soundfile.read(file, always_2d=True)[0] for file in files]))
    scores = museval.bss_eval(*signals, 44100, 44100)
    print([[round(median(row), 2) for row in score] for score in scores[:4]])


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    {"agreement": agreement, "speed": speed, "museval": museval_run}[what](*map(Path, paths))
