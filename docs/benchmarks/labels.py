"""What networks that know more instruments than play make of the absent ones, and what it helps to be told.

    python docs/benchmarks/labels.py SONGS --expanded runs/wave_unet_expanded --conditioned runs/wave_unet_labels

SONGS holds one folder per song with its stems. Every pair and every three of a song's stems are mixed, mono and at the
networks' rate, and separated with `--residual ignore`, so that what is scored is what the network gives. Printed for
each network, over all these mixtures:

    absent        energy of an absent stem's estimate under the mixture's, dB: the median, and the worst tenth
    improvement   SI-SDR of a present stem's estimate minus that of the mixture, dB: median
    SDR           of present stems, dB: mean
    switched off  by how much a stem's energy falls if its label is taken away, dB: median (the conditioned network)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import soxr
from mir1k import Audio, Run
from validation import STEMS, read_song

from unmixcli.evaluation.metrics import plain_sdr, si_sdr

_FLOOR = 1e-12


def level(audio: Audio) -> float:
    """dB of the mean square."""
    return float(10 * np.log10(np.mean(np.square(audio)) + _FLOOR))


def mixtures(folder: Path, rate: int) -> Iterator[dict[str, Audio]]:
    """The present stems [1, T] of each mixture."""
    stems, given = read_song(folder, None)
    mono = {name: soxr.resample(audio.mean(0), given, rate)[None].astype(np.float32) for name, audio in stems.items()}
    for count in (2, 3):
        for names in combinations(mono, count):
            yield {name: mono[name] for name in names}


class Tally:
    """The numbers of one network."""

    def __init__(self) -> None:
        self.absent: list[float] = []
        self.improvements: list[float] = []
        self.sdr: list[float] = []
        self.drops: list[float] = []

    def add(self, present: Mapping[str, Audio], estimates: Mapping[str, Audio], mixture: Audio) -> None:
        for name, estimate in estimates.items():
            if name in present:
                self.improvements.append(si_sdr(present[name], estimate) - si_sdr(present[name], mixture))
                self.sdr.append(plain_sdr(present[name], estimate))
            else:
                self.absent.append(level(estimate) - level(mixture))

    def row(self, title: str) -> str:
        absent = f"{np.median(self.absent):.1f} | {np.percentile(self.absent, 90):.1f}"
        drops = f"{np.median(self.drops):.1f}" if self.drops else ""
        return f"| {title} | {absent} | {np.median(self.improvements):.2f} | {np.mean(self.sdr):.2f} | {drops} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("--expanded", type=Path, required=True, help="a folder of unmix train")
    parser.add_argument("--conditioned", type=Path, action="append", default=[])
    options = parser.parse_args()
    expanded = Run(options.expanded, residual="ignore")
    tallies = {str(folder): Tally() for folder in (options.expanded, *options.conditioned)}

    @cache
    def told(folder: Path, labels: Sequence[str]) -> Run:
        return Run(folder, residual="ignore", labels=list(labels))

    rate, count = expanded.model.sample_rate, 0
    for song in sorted(path for path in options.songs.iterdir() if path.is_dir()):
        for present in mixtures(song, rate):
            mixture, count = sum(present.values(), start=np.zeros((1, 1), np.float32)), count + 1
            tallies[str(options.expanded)].add(present, expanded.separate(mixture, rate), mixture)
            for folder in options.conditioned:
                tally, names = tallies[str(folder)], tuple(name for name in STEMS if name in present)
                estimates = told(folder, names).separate(mixture, rate)
                tally.add(present, estimates, mixture)
                for name in names:
                    others = tuple(other for other in names if other != name)
                    without = told(folder, others).separate(mixture, rate)
                    tally.drops.append(level(estimates[name]) - level(without[name]))
    print(f"{count} mixtures\n")
    print("| network | absent | worst tenth | improvement | SDR | switched off |\n|---|---|---|---|---|---|")
    for title, tally in tallies.items():
        print(tally.row(title))


if __name__ == "__main__":
    main()
