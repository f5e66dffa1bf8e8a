"""What `--residual spread` does to the score of every stem, against `ignore`.

    python docs/benchmarks/residual.py FOLDER --stem vocals=cac_tdc_17 --stem drums=mine --stem bass=yours

Each stem is taken from the model that is named for it, as bags of one network per stem do, so that the stems do not add
up to the mixture. FOLDER is as in `validation.py`. SDR is that of BSS Eval v4 (median over seconds, then over songs);
"error" is 10 log10 of the error's energy, summed over stems and songs, after against before: spreading is the
orthogonal projection onto the stems that add up to the mixture, so it can't be above 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from validation import Audio, read_song, scores

from unmixcli import Options, Separator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stem", action="append", required=True, metavar="STEM=MODEL", help="repeatable")
    options = parser.parse_args()
    sources = dict(item.split("=", 1) for item in options.stem)
    separators = {model: Separator(model, options=Options(residual="ignore")) for model in set(sources.values())}
    found: dict[str, list[tuple[float, float]]] = {stem: [] for stem in sources}
    errors = np.zeros(2)
    for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        stems, rate = read_song(folder, None)
        if not stems:
            continue
        silence = np.zeros_like(next(iter(stems.values())))
        truth = {stem: stems.get(stem, silence) for stem in sources}
        mixture: Audio = sum(stems.values(), start=silence)
        made = {name: one.separate(mixture, sample_rate=rate).stems for name, one in separators.items()}
        ignored = {stem: made[model][stem] for stem, model in sources.items()}
        share = (mixture - sum(ignored.values(), start=silence)) / len(sources)
        spread = {stem: audio + share for stem, audio in ignored.items()}
        wanted = {stem: audio for stem, audio in truth.items() if np.any(audio)}
        before, after = (scores(wanted, estimates, rate, museval=False) for estimates in (ignored, spread))
        for stem in wanted:
            found[stem].append((before[stem], after[stem]))
        for column, estimates in enumerate((ignored, spread)):
            errors[column] += sum(float(np.square(truth[stem] - estimates[stem]).sum()) for stem in sources)
    print("| stem | model | ignore | spread | better in |\n|---|---|---|---|---|")
    for stem, pairs in found.items():
        values = np.array(pairs)
        better = int((values[:, 1] > values[:, 0]).sum())
        medians = " | ".join(f"{value:.2f}" for value in np.median(values, axis=0))
        print(f"| {stem} | {sources[stem]} | {medians} | {better} of {len(pairs)} songs |")
    print(f"\nerror of all stems together: {10 * np.log10(errors[1] / errors[0]):+.2f} dB")


if __name__ == "__main__":
    main()
