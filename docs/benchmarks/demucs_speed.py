"""Whole-process time and peak memory of `unmix` against the public `demucs` command, on the same weights.

    pip install --no-deps demucs sphn lameenc einops julius dora-search openunmix omegaconf treetable \\
        antlr4-python3-runtime cloudpickle retrying submitit && \\
    python docs/benchmarks/demucs_speed.py [SONG] [--model htdemucs] [--seconds 180] [--pairs 3] [--stems vocals]

Both programs read the same wav file and write 32-bit float stems, shifts 0, overlap 0.25, on the CPU with its default
threads; the weights have the published shapes and seeded random numbers (`demucs.py` makes them; time and memory don't
depend on what they hold). The runs alternate, so that whatever else the machine does meets both. With `--stems` our
program is asked for those stems only; the other one computes all of them. At the end the stems are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def sibling(name: str) -> ModuleType:
    """A script of this folder as a module, under another name than the package it may be called like."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_weights(demucs: ModuleType, model: str, repo: Path) -> list[Path]:
    """The packages of a network or a bag, under the names that `demucs --repo` wants, and the bag's yaml."""
    repo.mkdir(parents=True)
    members, weights, segment = demucs.BAGS.get(model, ([model], None, None))
    paths = []
    for number, case in enumerate(members):
        packed = demucs.pack(demucs.published(case, number), repo, case, number)
        checksum = hashlib.sha256(packed.read_bytes()).hexdigest()[:8]
        paths.append(packed.rename(repo / f"{number:08x}-{checksum}.th"))
    bag = {"models": [path.stem.split("-")[0] for path in paths]}
    if weights is not None:
        bag["weights"] = weights
    if segment is not None:
        bag["segment"] = segment
    (repo / f"{model}.yaml").write_text(json.dumps(bag), encoding="utf-8")
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--model", default="htdemucs", help="htdemucs, htdemucs_ft, hdemucs_mmi, mdx_extra, mdx")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--stems", nargs="*", default=[])
    parser.add_argument("--only", choices=("unmix", "demucs"), help="run one of the two")
    arguments = parser.parse_args()
    umx = sibling("umx")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        song, repo = folder / "song.wav", folder / "repo"
        umx.write_song(arguments.song, arguments.seconds, song)
        demucs = sibling("demucs")
        paths = write_weights(demucs, arguments.model, repo)
        environment = {**os.environ, "UNMIX_CACHE": str(folder / "cache"), "UNMIX_CONFIG": str(folder / "config")}
        program = [sys.executable, "-m", "unmixcli"]
        name = f"random_{arguments.model}"
        add = [*program, "models", "add", "--name", name]
        if len(paths) > 1:
            (folder / "bag.json").write_text(json.dumps(demucs.bag_config(arguments.model)), encoding="utf-8")
            add += [*(f"m{number}={path}" for number, path in enumerate(paths)), "--config", str(folder / "bag.json")]
        else:
            add += [str(paths[0])]
        subprocess.run(add, check=True, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
        ours = [*program, str(song), "--model", name, "-o", str(folder / "ours"), "-q", "--device", "cpu"]
        ours += ["--bit-depth", "32f", "--residual", "ignore", "--template", "{stem}"]
        ours += ["--stems", ",".join(arguments.stems)] if arguments.stems else []
        theirs = [sys.executable, "-m", "demucs", "-n", arguments.model, "--repo", str(repo), "-d", "cpu"]
        theirs += ["--shifts", "0", "--float32", "--clip-mode", "none", "-o", str(folder / "theirs"), str(song)]
        os.chdir(ROOT)
        if arguments.only:
            command = ours if arguments.only == "unmix" else theirs
            print("{:.1f} s, {:.1f} s of processor, {:.0f} MiB".format(*umx.measure(command, environment)))
            return
        umx.compare(ours, environment, theirs, environment, folder / "ours", arguments.pairs, peer="demucs")
        print("\n| stem | unmix against demucs, dB SDR | largest difference |\n|---|---|---|")
        for path in sorted((folder / "ours").rglob("*.wav")):
            found, _ = soundfile.read(path)
            expected, _ = soundfile.read(folder / "theirs" / arguments.model / "song" / path.name)
            found = found.clip(-1, 1)  # as `demucs` writes it
            ratio = 10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2))
            print(f"| {path.stem} | {ratio:.1f} | {np.abs(expected - found).max():.1e} |")
        shutil.rmtree(folder / "theirs")


if __name__ == "__main__":
    main()
