"""The networks of the Demucs family against the public package `demucs`: forward pass and a whole song.

    pip install --no-deps demucs einops julius openunmix && python docs/benchmarks/demucs.py [SONG] [--seconds 60]
        [--only NAME ...] [--no-track]

Every configuration gets seeded random weights, is packed by `demucs.states` as published (float16) and read by our
loader. Forward: the largest deviation of one pass over 10 s of the song (or a segment), float32 on one thread. Track:
`apply_model` as the `demucs` command calls it (shifts 0, overlap 0.25) against `Separator`, file in, arrays out, per
stem in dB. The weights are louder than a fresh network's, so that every layer shows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import types
import warnings
import zlib
from fractions import Fraction
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
# this file is called like the package: its own folder must not be looked in
sys.path = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() != Path(__file__).resolve().parent)]
for name in ("torchaudio", "sphn"):  # imported by the package, not needed here
    if find_spec(name) is None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
warnings.filterwarnings("ignore")

FOUR = ["drums", "bass", "other", "vocals"]
SIX = [*FOUR, "guitar", "piano"]
HT = {"dconv_mode": 3, "segment": Fraction(39, 5)}
# name -> (class in the public package, arguments)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": ("demucs.htdemucs.HTDemucs", {"sources": FOUR, "bottom_channels": 512, **HT}),
    "htdemucs_6s": ("demucs.htdemucs.HTDemucs", {"sources": SIX, **HT}),
    "hdemucs_mmi": ("demucs.hdemucs.HDemucs", {"sources": FOUR, "segment": 44}),
    "hdemucs, magnitudes": ("demucs.hdemucs.HDemucs", {"sources": FOUR, "cac": False, "segment": 44}),
    "hdemucs, magnitudes, filter": (
        "demucs.hdemucs.HDemucs",
        {"sources": FOUR, "cac": False, "wiener_iters": 1, "end_iters": 1, "segment": 44},
    ),
    "hdemucs, hybrid_old": ("demucs.hdemucs.HDemucs", {"sources": FOUR, "hybrid_old": True, "segment": 44}),
    "hdemucs, three bands": ("demucs.hdemucs.HDemucs", {"sources": FOUR, "multi_freqs": [0.25, 0.5], "segment": 44}),
    "demucs v3": ("demucs.demucs.Demucs", {"sources": FOUR, "segment": 44}),
    "demucs v3, variant": (
        "demucs.demucs.Demucs",
        {"sources": FOUR, "normalize": False, "gelu": False, "lstm_layers": 2, "dconv_mode": 3, "segment": 44},
    ),
}
TRACKS = ("htdemucs", "hdemucs_mmi")
# name -> (the members' configurations, weights by member and source or None, segment or None)
BAGS: dict[str, tuple[list[str], list[list[float]] | None, int | None]] = {
    "htdemucs_ft": (["htdemucs"] * 4, np.eye(4).tolist(), None),
    "mdx_extra": (["hdemucs_mmi", "hdemucs, magnitudes", "hdemucs, magnitudes", "hdemucs_mmi"], None, 44),
    "mdx": (
        ["demucs v3", "demucs v3", "hdemucs, magnitudes", "hdemucs, three bands"],
        [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]],
        44,
    ),
}


def published(case: str, seed: int = 0) -> torch.nn.Module:
    """The public network with seeded weights, rounded as its package rounds them."""
    name, kwargs = CASES[case]
    module, _, attribute = name.rpartition(".")
    network = getattr(import_module(module), attribute)(**kwargs).eval()
    state = {}
    for key, tensor in network.state_dict().items():
        values = np.random.RandomState(zlib.crc32(f"{case}/{seed}/{key}".encode())).standard_normal(tuple(tensor.shape))
        fan = int(np.prod(tensor.shape[1:])) if tensor.dim() > 1 else 0
        values = values * 1.2 / fan**0.5 if fan else 0.1 * values
        if key.endswith("scale") or ("norm" in key and key.endswith("weight")):
            values = 0.3 + abs(values)
        state[key] = torch.from_numpy(values).half().float()
    network.load_state_dict(state)
    return network


def pack(network: torch.nn.Module, folder: Path, case: str, seed: int = 0) -> Path:
    """A package as the public code saves it."""
    states = import_module("demucs.states")
    path = folder / f"{case.replace(', ', '_').replace(' ', '_')}{seed or ''}.th"
    content = states.get_state(network, None, half=True)
    args, kwargs = network._init_args_kwargs
    torch.save({"klass": type(network), "args": args, "kwargs": kwargs, "state": content, "training_args": {}}, path)
    return path


def decibels(expected: Tensor, found: Tensor) -> float:
    """Signal-to-distortion ratio of `found`."""
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


def add(path: Path) -> str:
    """The package as a model of ours."""
    from unmixcli.user_models import add_model

    return add_model([str(path)], name=f"random_{path.stem}").entry.name


def forward(case: str, network: torch.nn.Module, model_name: str, song: Tensor) -> None:
    """Print the deviation of one pass."""
    from unmixcli.checkpoint import load_model
    from unmixcli.registry import load_registry

    model = load_model(load_registry().get(model_name))
    length = model.segment_length if model.fixed_segment else min(441000, song.shape[-1])
    mixture = song[None, :, :length] / song.std()
    with torch.no_grad():
        start = time.perf_counter()
        expected = network(mixture)
        middle = time.perf_counter()
        found = model(mixture)
        seconds = (middle - start, time.perf_counter() - middle)
    parameters = sum(p.numel() for p in model.parameters())
    deviation, peak = float((expected - found).abs().max()), float(expected.abs().max())
    values = (case, f"{parameters:,}", f"{deviation:.1e}", f"{peak:.1f}", *(f"{value:.1f} s" for value in seconds))
    print(f"| {' | '.join(values)} |", flush=True)


def track(case: str, network: torch.nn.Module, model_name: str, path: Path, song: Tensor) -> None:
    """Print how near the song's stems are."""
    from unmixcli import Separator

    apply_model = import_module("demucs.apply").apply_model
    start = time.perf_counter()
    reference = song.mean(0)
    mixture = (song - reference.mean()) / (reference.std() + 1e-8)
    expected = apply_model(network, mixture[None], shifts=0, overlap=0.25)[0]
    expected = expected * (reference.std() + 1e-8) + reference.mean()
    middle = time.perf_counter()
    found = Separator(model_name, residual="ignore", device="cpu").separate(path).stems
    seconds = (middle - start, time.perf_counter() - middle)
    for number, stem in enumerate(network.sources):
        ratio = decibels(expected[number], torch.from_numpy(found[stem]))
        print(f"| {case} | {stem} | {ratio:.0f} dB | {seconds[0]:.0f} s | {seconds[1]:.0f} s |", flush=True)


def bag_config(name: str) -> dict[str, Any]:
    """The config of a bag whose members are called m0, m1 and so on."""
    _, weights, segment = BAGS[name]
    config: dict[str, Any] = {"segment": segment} if segment else {}
    if weights:
        config["weights"] = {
            f"m{seed}": {stem: weight for stem, weight in zip(FOUR, row, strict=True) if weight}
            for seed, row in enumerate(weights)
        }
    return config


def bag(name: str, folder: Path, path: Path, song: Tensor) -> None:
    """Print how near a bag's stems are to those of the public bag."""
    from unmixcli.user_models import add_model

    cases, weights, segment = BAGS[name]
    networks = [published(case, seed) for seed, case in enumerate(cases)]
    files = [f"m{seed}={pack(networks[seed], folder, case, seed)}" for seed, case in enumerate(cases)]
    (folder / "bag.json").write_text(json.dumps(bag_config(name)))
    add_model(files, name=f"random_{name}", config=folder / "bag.json")
    track(name, import_module("demucs.apply").BagOfModels(networks, weights, segment), f"random_{name}", path, song)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", nargs="?", type=Path, default=ROOT / "docs" / "demo" / "caesium.ogg")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", nargs="+", default=[*CASES, *BAGS])
    parser.add_argument("--no-track", action="store_true")
    arguments = parser.parse_args()
    samples, rate = soundfile.read(arguments.song, dtype="float32", always_2d=True, frames=-1)
    assert rate == 44100, "the song must have 44.1 kHz"
    samples = samples[: int(arguments.seconds * rate)]
    song = torch.from_numpy(samples.T.copy()).expand(2, -1).contiguous()
    print(f"demucs {version('demucs')}, torch {torch.__version__}, {song.shape[-1] / rate:.0f} s of a song")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["UNMIX_CONFIG"], os.environ["UNMIX_CACHE"] = str(folder / "config"), str(folder / "cache")
        path = folder / "song.wav"
        soundfile.write(path, song.T.numpy(), rate, subtype="FLOAT")
        for case in arguments.only:
            if case in BAGS:
                bag(case, folder, path, song)
                continue
            network = published(case)
            model_name = add(pack(network, folder, case))
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            forward(case, network, model_name, song)
            torch.set_num_threads(threads)
            if case in TRACKS and not arguments.no_track:
                track(case, network, model_name, path, song)


if __name__ == "__main__":
    main()
