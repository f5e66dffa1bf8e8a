"""What the classical methods gain on whole songs: drums by lines in the spectrogram, vocals by what is alike elsewhere.

    python docs/benchmarks/classical.py SONGS [MORE_SONGS ...]

SONGS holds one folder per song with its stems. `harmonic_percussive` takes the song without its vocals apart; printed
is the SI-SDR of drums and of the rest, minus that of the mixture. `repet_sim` (or what --vocals names) takes the whole
song apart; printed is the SDR (BSS Eval v4, median over seconds) of vocals, minus that of the mixture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from validation import frame_sdr, read_song

from unmixcli import Separator
from unmixcli.evaluation.metrics import si_sdr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, nargs="+")
    parser.add_argument("--vocals", action="append", default=[], help="a model to separate vocals with (repet_sim)")
    options = parser.parse_args()
    names = options.vocals or ["repet_sim"]
    percussive = Separator("harmonic_percussive")
    others = {name: Separator(name) for name in names}
    print(f"| song | seconds | drums | rest | {' | '.join(names)} |\n|---|---|---|---|{'---|' * len(names)}")
    for song in sorted(path for folder in options.songs for path in folder.iterdir() if path.is_dir()):
        stems, rate = read_song(song, None)
        cells = ["", ""]
        voice = stems.pop("vocals", None)
        if "drums" in stems and len(stems) > 1:
            mixture = np.sum(list(stems.values()), axis=0)
            wanted = {"drums": stems["drums"], "rest": mixture - stems["drums"]}
            parts = percussive.separate(mixture, sample_rate=rate).stems
            cells = [f"{si_sdr(wanted[n], parts[n]) - si_sdr(wanted[n], mixture):.2f}" for n in ("drums", "rest")]
        seconds = next(iter(stems.values())).shape[-1] / rate if stems else 0
        for separator in others.values():
            if voice is None or not stems:
                cells.append("")
                continue
            mixture = voice + np.sum(list(stems.values()), axis=0)
            estimate = separator.separate(mixture, sample_rate=rate).stems["vocals"]
            found, unseparated = (frame_sdr(voice, audio, rate) for audio in (estimate, mixture))
            heard = np.isfinite(unseparated)
            gain = np.median(found[heard]) - np.median(unseparated[heard])
            cells.append(f"{gain:.2f}")
        print(f"| {song.name} | {seconds:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
