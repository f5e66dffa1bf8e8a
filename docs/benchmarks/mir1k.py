"""Score models on MIR-1K as Huang et al. (2014/15) do: mixtures at 0 dB, BSS Eval 3, means weighted by length.

    python docs/benchmarks/mir1k.py MIR-1K/test --model drnn2
    python docs/benchmarks/mir1k.py MIR-1K/test --run runs/drnn2          # before `unmix models add`

FOLDER holds clips with the accompaniment on the left and the voice on the right. Both are brought to the same energy,
their sum is separated as the program does it, and the voice is scored (with --both the accompaniment, too). A model
that gives vocals only is scored on these. Beside GNSDR, GSIR and GSAR stand the lowest and the highest NSDR of a clip.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unmixcli import Separator
from unmixcli.checkpoint_read import read_state
from unmixcli.device import choose_device
from unmixcli.evaluation.metrics import References, bss_eval, to_16_bit, weighted_mean
from unmixcli.models import architecture_class
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.runner import Runner
from unmixcli.separator import ArraySource
from unmixcli.stems import plan_stems

Audio = NDArray[np.float32]
STEMS = ("vocals", "accompaniment")
# Root mean square of each source: the sum stays below full scale.
_LEVEL = 0.07


def read_clip(path: Path) -> tuple[dict[str, Audio], int]:
    """vocals and accompaniment [1, T], equally loud, and their sample rate."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sources = {"vocals": audio[:, 1], "accompaniment": audio[:, 0]}
    return {name: _LEVEL * x[None] / np.sqrt(np.mean(np.square(x)) + 1e-12) for name, x in sources.items()}, rate


def score(sources: Mapping[str, Audio], estimates: Mapping[str, Audio]) -> dict[str, tuple[float, float, float]]:
    """Stem -> NSDR, SIR, SAR of a clip."""
    rounded = {name: to_16_bit(source) for name, source in sources.items()}
    references = References([rounded[name] for name in STEMS])
    wanted = [name for name in STEMS if name in estimates]
    mixture = to_16_bit(sum(sources.values(), start=np.zeros_like(sources["vocals"])))
    tried = [to_16_bit(estimates[name]) for name in wanted] + [mixture] * len(wanted)
    found = bss_eval(references, tried, targets=[STEMS.index(name) for name in wanted] * 2, sources=True)
    sdr, sir, sar = (values[:, 0] for values in (found.sdr, found.sir, found.sar))
    return {name: (float(sdr[k] - sdr[k + len(wanted)]), float(sir[k]), float(sar[k])) for k, name in enumerate(wanted)}


class Run:
    """The best weights so far of a run of `unmix train`, as the program separates with them.

    Args:
        folder: of the run.
        residual: what becomes of what the stems leave over, as for `--residual`.
        config: settings instead of the run's (labels).
    """

    def __init__(self, folder: Path, *, residual: str = "spread", **config: object) -> None:
        self.residual = residual
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        name = recipe["result"]["name"] or recipe["name"]
        entry = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        kind = architecture_class(entry["architecture"])
        model = kind.from_config(entry["config"] | config, entry["stems"])
        state = read_state(folder / f"{name}.safetensors")
        model.load_state_dict(kind.convert_state(entry["config"], {"weights": state}))
        self.model = model.float().eval()
        self.runner = Runner(self.model, choose_device("cpu"))

    def separate(self, mixture: Audio, rate: int) -> dict[str, Audio]:
        """[1, T] -> stem -> [1, T]."""
        stems = self.model.stems
        plan = plan_stems(stems, covers_mixture=self.model.covers_mixture, stems=stems, residual=self.residual)
        blocks = list(separate_blocks(ArraySource(mixture, rate, "clip"), self.runner, plan, Options()))
        return {stem: np.concatenate([block[stem] for block in blocks], axis=-1) for stem in stems}


def through_the_program(name: str) -> Callable[[Audio, int], Mapping[str, Audio]]:
    """How a model of the registry separates [1, T] at a rate."""
    separator = Separator(name)
    return lambda mixture, rate: separator.separate(mixture, sample_rate=rate).stems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", default=[], help="a registry name; may be given several times")
    parser.add_argument("--run", action="append", default=[], type=Path, help="a folder of unmix train")
    parser.add_argument("--first", type=int, help="only so many clips, evenly spread")
    parser.add_argument("--both", action="store_true", help="score the accompaniment, too")
    options = parser.parse_args()
    clips = sorted(path for path in options.folder.iterdir() if path.suffix in (".wav", ".flac", ".ogg"))
    if options.first:
        clips = clips[:: max(1, len(clips) // options.first)][: options.first]
    systems: dict[str, Callable[[Audio, int], Mapping[str, Audio]]] = {}
    systems |= {str(folder): Run(folder).separate for folder in options.run}
    systems |= {name: through_the_program(name) for name in options.model}
    print(f"{len(clips)} clips\n")
    print("| system | stem | GNSDR | GSIR | GSAR | NSDR from | to |\n|---|---|---|---|---|---|---|")
    for name, separate in systems.items():
        rows: dict[str, list[tuple[float, float, float]]] = {}
        seconds: list[float] = []
        started = time.perf_counter()
        for path in clips:
            sources, rate = read_clip(path)
            estimates = separate(sum(sources.values(), start=np.zeros_like(sources["vocals"])), rate)
            for stem, values in score(sources, estimates).items():
                rows.setdefault(stem, []).append(values)
            seconds.append(sources["vocals"].shape[-1] / rate)
        if "vocals" not in rows:
            parser.error(f"{name} gives no vocals")
        for stem in rows if options.both else ("vocals",):
            columns = np.array(rows[stem]).T
            means = " | ".join(f"{weighted_mean(column, seconds):.2f}" for column in columns)
            print(f"| {name} | {stem} | {means} | {columns[0].min():.2f} | {columns[0].max():.2f} |")
        print(f"({sum(seconds):.0f} s of audio, {time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
