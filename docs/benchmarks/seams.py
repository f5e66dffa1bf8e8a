"""Are the joins between stretched pieces heard? Spectra at joins against all others, over real songs.

    python docs/benchmarks/seams.py FOLDER     # a folder of folders of stems (vocals is left out), or of songs

Every song is stretched in pieces of 15 seconds, far shorter than in use, to make many joins. Each frame's spectrum
(46 ms) is compared with the source's at the same place: the mean difference in dB, of what lies within 60 dB of the
peak. A join that is not heard deviates like any other frame: its percentile among the song's frames is spread evenly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from unmixcli.audio import pitch_tempo
from unmixcli.audio.decode import AUDIO_SUFFIXES, open_audio

SIZE, HOP, PIECE_SECONDS, TEMPOS = 2048, 512, 15, (0.9, 1.1)


def read(path: Path) -> tuple[NDArray[np.float32], int]:
    """[C, T] and the rate."""
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder), axis=1), decoder.info.sample_rate


def songs(folder: Path) -> list[tuple[str, NDArray[np.float32], int]]:
    """Name, samples and rate of every song; stems are added up."""
    found = []
    for entry in sorted(folder.iterdir()):
        paths = sorted(entry.iterdir()) if entry.is_dir() else [entry]
        parts = [read(path) for path in paths if path.suffix.lower() in AUDIO_SUFFIXES and path.stem != "vocals"]
        if parts:
            length = min(samples.shape[1] for samples, _ in parts)
            found.append((entry.name, sum(samples[:, :length] for samples, _ in parts), parts[0][1]))
    return found


def levels(frame: NDArray[np.float32]) -> NDArray[np.float64]:
    power = np.abs(np.fft.rfft(frame * np.hanning(SIZE))) ** 2 + 1e-6
    return 10 * np.log10(power + 1e-6 * power.max(axis=-1, keepdims=True))


def deviations(result: NDArray[np.float32], source: NDArray[np.float32], tempo: float) -> NDArray[np.float64]:
    """dB per frame of the result."""
    values = []
    for at in range(0, result.shape[1] - SIZE, HOP):
        there = min(max(0, round((at + SIZE / 2) * tempo - SIZE / 2)), source.shape[1] - SIZE)
        difference = levels(result[:, at : at + SIZE]) - levels(source[:, there : there + SIZE])
        values.append(np.abs(difference).mean())
    return np.array(values)


def main() -> None:
    percentiles = []
    for name, source, rate in songs(Path(sys.argv[1])):
        for tempo in TEMPOS:
            places: list[int] = []
            choose = pitch_tempo.best_seam

            def told(*arguments: object, places: list[int] = places, choose: object = choose) -> tuple[int, int]:
                at, fade = choose(*arguments)
                places.append(at + fade // 2)
                return at, fade

            piece = PIECE_SECONDS * rate
            stretcher = pitch_tempo.PitchTempo(rate, source.shape[0], tempo=tempo, piece=piece)
            with mock.patch.object(pitch_tempo, "best_seam", told):
                result = np.concatenate(list(pitch_tempo.pitch_tempo_blocks([source], stretcher)), axis=1)
            worst = np.lib.stride_tricks.sliding_window_view(deviations(result, source, tempo), 4).max(axis=1)
            for index, place in enumerate(places):
                start = pitch_tempo.stretched_length((index + 1) * stretcher._stride, tempo)
                frame = min(max(0, (start + place - SIZE // 2) // HOP - 1), len(worst) - 1)
                percentiles.append(float((worst < worst[frame]).mean()) * 100)
                print(
                    f"{name:12} tempo {tempo}  join at {(start + place) / rate:6.2f} s  {worst[frame]:.2f} dB  "
                    f"(frames: median {np.median(worst):.2f}, 95 % below {np.percentile(worst, 95):.2f})"
                )
    print(f"{len(percentiles)} joins: mean percentile {np.mean(percentiles):.0f}, median {np.median(percentiles):.0f}")


if __name__ == "__main__":
    main()
