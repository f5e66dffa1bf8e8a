"""Score a model on songs with known stems: SDR of BSS Eval v4, per song and median.

    python docs/benchmarks/validation.py FOLDER --model classical --model repet_sim

FOLDER holds one folder per song with vocals, drums, bass and other (.flac, .wav or .ogg; a missing one is silent); the
mixture is their sum. Every model is run as the program runs it. A model's stem is scored against the stem of that
name; `accompaniment` and `rest` against the mixture without vocals or drums, `other` with the bass in it where the
model has no bass, `centre` and `sides` as if they were vocals and accompaniment. Beside it stands the mixture as its
own estimate.

SDR of BSS Eval v4 is 10 log10(|s|² / |s - e|²) per second of audio, median over the seconds in which no reference is
silent, then over songs. It needs no filters, so it is computed here directly; `--museval` has the public package do it
(minutes per song; its imports want ffmpeg on the PATH) and gives the same numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmixcli import Options, Separator

Audio = NDArray[np.float32]
STEMS = ("vocals", "drums", "bass", "other")


def read_song(folder: Path, seconds: float | None) -> tuple[dict[str, Audio], int]:
    """Stems [C, T] of a song, and their sample rate; those that are missing are left out."""
    stems: dict[str, Audio] = {}
    rate = 0
    for stem in STEMS:
        for path in sorted(folder.glob(f"{stem}.*")):
            frames = -1 if seconds is None else round(seconds * soundfile.info(path).samplerate)
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True, frames=frames)
            stems[stem] = audio.T
    return stems, rate


def references(stems: Mapping[str, Audio], names: tuple[str, ...]) -> dict[str, Audio]:
    """What the model's stems ought to be; stems that the song does not have are left out."""
    silence = np.zeros_like(next(iter(stems.values())))
    mixture = sum(stems.values(), start=silence)
    wanted: dict[str, Audio] = {}
    for name in names:
        part = {"centre": "vocals", "sides": "accompaniment"}.get(name, name)
        if part == "other" and "bass" not in names:
            wanted[name] = stems.get("other", silence) + stems.get("bass", silence)
        elif part in stems:
            wanted[name] = stems[part]
        elif part in ("accompaniment", "rest"):
            wanted[name] = mixture - stems.get("vocals" if part == "accompaniment" else "drums", silence)
    return {name: audio for name, audio in wanted.items() if np.any(audio)}


def frame_sdr(reference: Audio, estimate: Audio, rate: int) -> NDArray[np.float64]:
    """SDR of every whole second, dB; NaN where the reference or the estimate is silent."""
    seconds = reference.shape[-1] // rate

    def energy(audio: Audio) -> NDArray[np.float64]:
        frames = audio[:, : seconds * rate].reshape(len(audio), seconds, rate).astype(np.float64)
        return np.asarray(np.square(frames).sum(axis=(0, 2)))

    signal, error = energy(reference), energy(estimate - reference)
    heard = (signal > 0) & (energy(estimate) > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(heard, 10 * np.log10(signal / error), np.nan)


def scores(wanted: Mapping[str, Audio], found: Mapping[str, Audio], rate: int, *, museval: bool) -> dict[str, float]:
    """Median SDR per stem."""
    if museval:
        import museval as judge

        pairs = [(wanted[name].T, found[name].T) for name in wanted]
        sdr = judge.evaluate(*(np.stack(side) for side in zip(*pairs, strict=True)), win=rate, hop=rate)[0]
    else:
        sdr = np.stack([frame_sdr(wanted[name], found[name], rate) for name in wanted])
        sdr[:, np.isnan(sdr).any(axis=0)] = np.nan
    return {name: float(np.nanmedian(row)) for name, row in zip(wanted, sdr, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True, help="a registry name; may be given several times")
    parser.add_argument("--postfilter", default="none", choices=("none", "softmask", "wiener", "em"))
    parser.add_argument("--songs", default="", help="names of folders, with commas; all by default")
    parser.add_argument("--seconds", type=float, help="only the start of each song")
    parser.add_argument("--museval", action="store_true", help="let the museval package compute the scores")
    options = parser.parse_args()
    names = [name for name in options.songs.split(",") if name]
    folders = [path for path in sorted(options.folder.iterdir()) if path.is_dir() and (not names or path.name in names)]
    for model in options.model:
        separator = Separator(model, options=Options(postfilter=options.postfilter))
        rows: dict[str, dict[str, tuple[float, float]]] = {}
        spent = heard = 0.0
        for folder in folders:
            stems, rate = read_song(folder, options.seconds)
            if not stems:
                continue
            mixture = sum(stems.values(), start=np.zeros_like(next(iter(stems.values()))))
            started = time.perf_counter()
            estimates = separator.separate(mixture, sample_rate=rate).stems
            spent += time.perf_counter() - started
            heard += mixture.shape[-1] / rate
            wanted = references(stems, tuple(estimates))
            after = scores(wanted, estimates, rate, museval=options.museval)
            before = scores(wanted, dict.fromkeys(wanted, mixture), rate, museval=options.museval)
            rows[folder.name] = {name: (after[name], before[name]) for name in wanted}
        print_table(model, rows)
        print(f"\nreal-time factor {spent / heard:.3f} ({heard:.0f} s of audio)\n", flush=True)


def print_table(model: str, rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    stems = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(f"### {model}: SDR (mixture's own), dB\n")
    print("| song | " + " | ".join(stems) + " |")
    print("|---" * (len(stems) + 1) + "|")
    for song, row in rows.items():
        cells = ["{:.2f} ({:.2f})".format(*row[name]) if name in row else "no such stem" for name in stems]
        print(f"| {song} | " + " | ".join(cells) + " |")
    medians = [np.median([row[name] for row in rows.values() if name in row], axis=0) for name in stems]
    print("| **median** | " + " | ".join("**{:.2f}** ({:.2f})".format(*pair) for pair in medians) + " |")


if __name__ == "__main__":
    main()
