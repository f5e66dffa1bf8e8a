"""Learn the dictionaries of supervised NMF from stems, as weights for `unmix models add`.

    python docs/benchmarks/nmf_dictionaries.py SONGS --stems vocals,accompaniment -o dictionaries.safetensors
    unmix models add dictionaries.safetensors --architecture nmf_supervised --config dictionaries.json \
        --stems vocals,accompaniment --name my_nmf
    unmix song.wav --model my_nmf

SONGS holds one folder per song with a file for each stem; `accompaniment` is the sum of all that are not vocals. With
--mir1k it holds clips with the accompaniment on the left and the voice on the right. --free STEM learns no dictionary
for that stem: its atoms are found in each song (semi-supervised).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from unmixcli.models.nmf_supervised import NMFSupervised, learn_dictionary

Audio = NDArray[np.float32]


def read(path: Path, rate: int) -> Audio:
    """[T, C] at a rate."""
    audio, own = soundfile.read(path, dtype="float32", always_2d=True)
    return audio if own == rate else soxr.resample(audio, own, rate).astype(np.float32)


def recordings(folder: Path, stem: str, rate: int, mir1k: bool) -> Iterator[Audio]:
    """[C, T] of a stem in every song."""
    if mir1k:
        for path in sorted(folder.glob("*.*")):
            channel = {"accompaniment": 0, "vocals": 1}[stem]
            yield read(path, rate).T[channel : channel + 1]
        return
    for song in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {path.stem: path for path in song.iterdir()}
        wanted = [stem] if stem in files else []
        if stem == "accompaniment" and not wanted:
            wanted = [name for name in ("drums", "bass", "other") if name in files]
        if wanted:
            parts = [read(files[name], rate) for name in wanted]
            length = min(len(part) for part in parts)
            yield np.sum([part[:length] for part in parts], axis=0).T


def excerpts(sounds: Iterator[Audio], rate: int, seconds: float) -> list[torch.Tensor]:
    """The loudest stretches of each sound that the rest of its seconds can be taken from, at one level."""
    found = list(sounds)
    share = round(seconds * rate / max(1, len(found)))
    taken = []
    for sound in found:
        pieces = [sound[:, at : at + rate] for at in range(0, sound.shape[1] - rate + 1, rate)] or [sound]
        loud = sorted(range(len(pieces)), key=lambda n: -float(np.square(pieces[n]).sum()))
        kept = sorted(loud[: max(1, round(share / rate))])
        joined = np.concatenate([pieces[n] for n in kept], axis=1)
        level = float(np.sqrt(np.mean(np.square(joined))))
        if level > 1e-4:
            taken.append(torch.from_numpy(np.ascontiguousarray(joined / level)))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stems", default="vocals,accompaniment")
    parser.add_argument("--free", default="", help="stems without a dictionary, with commas")
    parser.add_argument("--atoms", type=int, default=50)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--rate", type=int, default=44100)
    parser.add_argument("--channels", type=int, default=2)
    parser.add_argument("--n-fft", type=int, default=2048)
    parser.add_argument("--hop", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=180, help="of each stem to learn from")
    parser.add_argument("--mir1k", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("dictionaries.safetensors"))
    options = parser.parse_args()
    stems = options.stems.split(",")
    learnt = [stem for stem in stems if stem not in options.free.split(",")]
    config = {
        "sample_rate": options.rate, "channels": options.channels, "n_fft": options.n_fft, "hop": options.hop,
        "atoms": options.atoms, "beta": options.beta, "sources": stems, "learnt": learnt,
    }  # fmt: skip
    state = {}
    for stem in learnt:
        sounds = excerpts(recordings(options.folder, stem, options.rate, options.mir1k), options.rate, options.seconds)
        state[f"dictionaries.{stem}"] = learn_dictionary(
            sounds, n_fft=options.n_fft, hop=options.hop, atoms=options.atoms, beta=options.beta
        )
    NMFSupervised.from_config(config, stems).load_state_dict(state)
    save_file(state, options.output)
    options.output.with_suffix(".json").write_text(json.dumps(config, indent=2) + "\n")
    print(f"{options.output}: {', '.join(f'{key} {list(value.shape)}' for key, value in state.items())}")


if __name__ == "__main__":
    main()
