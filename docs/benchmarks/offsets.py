"""How outputs of each format lie on the input once decoded again.

    python docs/benchmarks/offsets.py                 # the demo song
    python docs/benchmarks/offsets.py my.wav

Each format is written by `unmix … --stems no_drums` (a linear mix that keeps the song's sharp edges) and by the sample
type of the input, decoded, and compared with the same output in float: offset at the maximum of the cross-correlation,
length difference, and SDR.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import unmixcli
from unmixcli.audio.decode import open_audio

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("wav", "flac", "aiff", "alac", "mp3", "m4a", "ogg", "opus")


def decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """All samples [C, T] and the rate."""
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder), axis=1), decoder.info.sample_rate


def offset(first: NDArray[np.float32], second: NDArray[np.float32]) -> int:
    """Samples by which `second` lies later than `first`."""
    size = 1 << (first.shape[1] + second.shape[1]).bit_length()
    spectrum = np.fft.rfft(first[0], size).conj() * np.fft.rfft(second[0], size)
    lag = int(np.argmax(np.fft.irfft(spectrum, size)))
    return lag if lag < size // 2 else lag - size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    song = parser.parse_args().song
    options = {"model": "harmonic_percussive", "stems": ("no_drums",), "clipping": "clamp"}
    reference = unmixcli.Separator(**options).separate(song).stems["no_drums"]
    _, song_rate = decode(song)
    print("| format | rate | offset (samples) | length difference (samples) | SDR (dB) |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for format_ in FORMATS:
            result = unmixcli.separate(song, Path(folder) / format_, format=format_, **options)
            samples, rate = decode(result.files["no_drums"])
            if rate != song_rate:
                import soxr

                samples = np.ascontiguousarray(soxr.resample(samples.T, rate, song_rate, "VHQ").T)
            length = min(samples.shape[1], reference.shape[1])
            error = samples[:, :length] - reference[:, :length]
            sdr = 10 * np.log10((reference**2).sum() / max(float((error**2).sum()), 1e-20))
            lag, missing = offset(reference, samples), samples.shape[1] - reference.shape[1]
            print(f"| {format_} | {rate} | {lag} | {missing} | {sdr:.1f} |", flush=True)


if __name__ == "__main__":
    main()
