"""Scores of a model on songs whose stems are known: museval v4, median over frames of 1 s, next to the mixture's own.

    python docs/benchmarks/validation.py DATA --model cac_tdc_17 --stems vocals

DATA holds a folder per song with a file per stem (vocals, drums, bass, other); the mixture is their sum. A song that
has nothing of a stem gives no score for it: how loud the estimate is nevertheless is shown. The stems are the
program's own, from its Python interface, without the residual spread over them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

import unmixcli

# museval imports musdb, which does not import without the ffmpeg program; its metrics need neither
sys.modules["musdb"] = ModuleType("musdb")
import museval  # noqa: E402

Samples = NDArray[np.float64]


def read_song(folder: Path) -> tuple[dict[str, Samples], int]:
    """Stem name -> [T, C], and the sample rate."""
    stems: dict[str, Samples] = {}
    rate = 0
    for path in sorted(folder.iterdir()):
        stems[path.stem], rate = soundfile.read(path, always_2d=True)
    return stems, rate


def frame_median(reference: Samples, estimate: Samples, rate: int) -> float:
    """Median SDR over frames; frames where the reference or the estimate is silent have none."""
    sdr, *_ = museval.metrics.bss_eval(reference[None], estimate[None], window=rate, hop=rate)
    return float(np.nanmedian(sdr[0]))


def level_db(samples: Samples, reference: Samples) -> float:
    return float(10 * np.log10(np.sum(samples**2) / np.sum(reference**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stems", nargs="+", default=["vocals"])
    arguments = parser.parse_args()
    separator = unmixcli.Separator(arguments.model, stems=tuple(arguments.stems), residual="ignore")
    scores: dict[str, list[tuple[float, float]]] = {stem: [] for stem in arguments.stems}
    print("| song | stem | mixture dB | estimate dB |\n|---|---|---|---|")
    for folder in sorted(path for path in arguments.data.iterdir() if path.is_dir()):
        stems, rate = read_song(folder)
        mixture = np.sum(list(stems.values()), axis=0)
        found: Any = separator.separate(mixture.T.astype(np.float32), sample_rate=rate).stems
        for stem in arguments.stems:
            estimate = found[stem].T.astype(np.float64)
            reference = stems.get(stem)
            if reference is None or not reference.any():
                level = level_db(estimate, mixture)
                print(f"| {folder.name} | {stem} | has none | {level:.1f} dB of the mixture |", flush=True)
                continue
            pair = frame_median(reference, mixture, rate), frame_median(reference, estimate, rate)
            scores[stem].append(pair)
            print(f"| {folder.name} | {stem} | {pair[0]:.2f} | {pair[1]:.2f} |", flush=True)
    for stem, pairs in scores.items():
        before, after = (median(values) for values in zip(*pairs, strict=True))
        print(f"| **median of {len(pairs)}** | {stem} | {before:.2f} | {after:.2f} |")


if __name__ == "__main__":
    main()
