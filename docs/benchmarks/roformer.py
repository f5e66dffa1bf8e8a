"""Whole-process time and memory of `unmix` against `audio-separator` with a RoFormer's weights; our memory over length.

    pip install --no-deps audio-separator ...          # and what it asks for; `ffmpeg` is not needed
    python docs/benchmarks/roformer.py [SONG] [--shape ep_317] [--seconds 60] [--pairs 3]
    python docs/benchmarks/roformer.py --shape ep_317 --depth 1 --minutes 2 20

A checkpoint of the shape with seeded random numbers and the YAML that is published with such files are written, and
read by both programs; both write one 32-bit or 16-bit stem of the same wav file, with the same segments and overlap
(they cross-fade differently: theirs is a Hamming window, ours a triangle). Runs alternate. At least ten seconds: below,
`audio-separator` takes shorter segments.

With `--minutes` only `unmix` runs, over inputs of growing length. On a CPU the full depth takes hours there: memory is
that of a segment and of the weights, so `--depth 1` shows whether it grows; the size itself needs the full depth.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path = [str(ROOT), str(HERE), *sys.path]
from umx import compare, measure, write_song  # noqa: E402

from unmixcli.models import architecture_class  # noqa: E402
from unmixcli.models.band_roformer import BandRoformer  # noqa: E402

_COMMON = {"stereo": True, "stft_hop_length": 441, "time_transformer_depth": 1, "freq_transformer_depth": 1}
_COMMON |= {"mask_estimator_depth": 2, "num_stems": 1, "dim_head": 64, "heads": 8}
_BANDS = [2] * 24 + [4] * 12 + [12] * 8 + [24] * 8 + [48] * 8 + [128, 129]
_BS, _MEL = _COMMON | {"freqs_per_bands": _BANDS}, _COMMON | {"num_bands": 60}
# name -> (architecture, the yaml's `model` section, names of the outputs)
SHAPES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ep_317": ("bs_roformer", _BS | {"dim": 512, "depth": 12}, ["vocals"]),
    "bs_4stems": (
        "bs_roformer",
        _BS | {"dim": 384, "depth": 8, "num_stems": 4, "mlp_expansion_factor": 2},
        ["drums", "bass", "other", "vocals"],
    ),
    "bs_256": ("bs_roformer", _BS | {"dim": 256, "depth": 8}, ["vocals"]),
    "kim": ("mel_band_roformer", _MEL | {"dim": 384, "depth": 6}, ["vocals"]),
    "karaoke": ("mel_band_roformer", _MEL | {"dim": 384, "depth": 6, "num_stems": 2}, ["vocals", "instrumental"]),
}
CHUNK = 352800  # samples: 801 frames
# `audio-separator` asks the network which file belongs to a name, and whether ffmpeg is there; neither is needed here.
DRIVER = """
import sys
from audio_separator.separator import Separator

class Local(Separator):
    def download_model_files(self, name):
        return name, "MDXC", name, f"{self.model_file_dir}/{name}", "roformer.yaml"

    def check_ffmpeg_installed(self):
        pass

song, weights, output, stem = sys.argv[1:]
separator = Local(
    log_level=40, model_file_dir=weights, output_dir=output, output_single_stem=stem, use_soundfile=True,
    output_format="WAV",
)
separator.load_model("roformer.ckpt")
separator.separate(song, {stem: stem})
"""


def published_shapes(architecture: str, model: dict[str, Any], outputs: list[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint's tensors."""
    with torch.device("meta"):
        built = architecture_class(architecture).from_config({**model, "instruments": outputs}, outputs)
    assert isinstance(built, BandRoformer)
    width, inner, heads = model["dim"], model["heads"] * model["dim_head"], model["heads"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(model["depth"]):
        for axis in (0, 1):
            place = f"layers.{layer}.{axis}"
            attend, feed = f"{place}.layers.0.0", f"{place}.layers.0.1.net"
            shapes |= {
                f"{attend}.norm.gamma": (width,),
                f"{attend}.rotary_embed.freqs": (model["dim_head"] // 2,),
                f"{attend}.to_qkv.weight": (3 * inner, width),
                f"{attend}.to_gates.weight": (heads, width),
                f"{attend}.to_gates.bias": (heads,),
                f"{attend}.to_out.0.weight": (width, inner),
                f"{feed}.0.gamma": (width,),
                f"{feed}.1.weight": (4 * width, width),
                f"{feed}.1.bias": (4 * width,),
                f"{feed}.4.weight": (width, 4 * width),
                f"{feed}.4.bias": (width,),
            }
            if architecture == "mel_band_roformer":
                shapes[f"{place}.norm.gamma"] = (width,)
    if architecture == "bs_roformer":
        shapes["final_norm.gamma"] = (width,)
    hidden = width * model.get("mlp_expansion_factor", 4)
    for band, (first, end) in enumerate(built.bands):
        size = 2 * built.channels * (end - first)
        place = f"band_split.to_features.{band}"
        shapes |= {f"{place}.0.gamma": (size,), f"{place}.1.weight": (width, size), f"{place}.1.bias": (width,)}
        widths = [width, *[hidden] * (built.mask_layers() - 1), 2 * size]
        for stem in range(len(outputs)):
            for layer in range(built.mask_layers()):
                place = f"mask_estimators.{stem}.to_freqs.{band}.0.{2 * layer}"
                shapes |= {f"{place}.weight": (widths[layer + 1], widths[layer]), f"{place}.bias": (widths[layer + 1],)}
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Seeded random numbers, in the sizes of a network that is being trained."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("freqs"):
            values = 10000.0 ** (-torch.arange(shape[0]) / shape[0])
        elif name.endswith("gamma"):
            values = 1 + 0.1 * values
        else:
            values *= 1.2 / shape[1] ** 0.5 if len(shape) == 2 else 0.2
        state[name] = values
    return state


def write_checkpoint(folder: Path, shape: str, depth: int | None, num_overlap: int) -> tuple[Path, Path]:
    """A checkpoint and its YAML, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture, model, outputs = SHAPES[shape]
    model = {**model, "depth": depth or model["depth"]}
    torch.save(random_state(published_shapes(architecture, model, outputs)), folder / "roformer.ckpt")
    lines = [f"  {name}: {str(value).lower() if value is True else value}" for name, value in model.items()]
    target = outputs[0] if len(outputs) == 1 else "null"
    instruments = [*outputs, "instrumental"] if len(outputs) == 1 else outputs
    text = [
        f"audio:\n  chunk_size: {CHUNK}\n  sample_rate: 44100\n  hop_length: 441",
        "model:",
        *lines,
        f"training:\n  instruments: [{', '.join(instruments)}]\n  target_instrument: {target}",
        f"inference:\n  dim_t: 801\n  num_overlap: {num_overlap}\n  batch_size: 1",
    ]
    (folder / "roformer.yaml").write_text("\n".join(text) + "\n", encoding="utf-8")
    return folder / "roformer.ckpt", folder / "roformer.yaml"


def decibels(expected: np.ndarray, found: np.ndarray) -> float:
    """Signal-to-distortion ratio of `found`."""
    return float(10 * np.log10(np.sum(expected**2) / np.sum((expected - found) ** 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("song", type=Path, nargs="?", default=ROOT / "docs/demo/caesium.ogg")
    parser.add_argument("--shape", choices=SHAPES, default="ep_317")
    parser.add_argument("--depth", type=int, help="layers instead of the shape's")
    parser.add_argument("--num-overlap", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--minutes", type=float, nargs="+", help="our memory at these lengths instead")
    arguments = parser.parse_args()
    stem = SHAPES[arguments.shape][2][0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "UNMIX_CACHE": str(folder / "cache"), "UNMIX_CONFIG": str(folder / "config")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        weights, config = write_checkpoint(folder / "weights", arguments.shape, arguments.depth, arguments.num_overlap)
        program = [sys.executable, "-m", "unmixcli"]
        add = [*program, "models", "add", str(weights), "--config", str(config), "--name", "random"]
        subprocess.run(add, check=True, env=environment, stdout=subprocess.DEVNULL)
        song = folder / "song.wav"
        ours = [*program, str(song), "--model", "random", "-o", str(folder / "ours"), "-q", "--stems", stem]
        ours += ["--bit-depth", "16", "--residual", "ignore", "--template", "{stem}", "--device", "cpu"]
        print(f"{arguments.shape}, depth {arguments.depth or SHAPES[arguments.shape][1]['depth']}, ", end="")
        print(f"{arguments.num_overlap} segments over every sample, {torch.get_num_threads()} threads\n")
        if arguments.minutes:
            print("| minutes | unmix s | CPU s | MiB |\n|---|---|---|---|")
            for minutes in arguments.minutes:
                write_song(arguments.song, 60 * minutes, song)
                wall, cpu, peak = measure([*ours, "--overwrite", "--no-resume"], environment)
                print(f"| {minutes:g} | {wall:.0f} | {cpu:.0f} | {peak:.0f} |", flush=True)
            return
        write_song(arguments.song, arguments.seconds, song)
        driver = folder / "driver.py"
        driver.write_text(DRIVER, encoding="utf-8")
        theirs = [sys.executable, str(driver), str(song), str(weights.parent), str(folder / "theirs"), stem]
        compare(ours, environment, theirs, dict(os.environ), folder / "ours", arguments.pairs, peer="audio-separator")
        expected, _ = soundfile.read(folder / "theirs" / f"{stem}.wav", always_2d=True)
        found, _ = soundfile.read(folder / "ours" / f"{stem}.wav", always_2d=True)
        print(f"\n{stem} against audio-separator's: {decibels(expected, found):.1f} dB")


if __name__ == "__main__":
    main()
