"""Several models as one: the combination, models of different rates and segments side by side, the command line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import cli_toys
import numpy as np
import pytest
import soundfile
import torch
from cli_toys import song
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor
from toys import Gains, Stream

from unmixcli.cli import cli
from unmixcli.ensemble import (
    FRAME_LENGTH,
    HOP,
    Combination,
    Share,
    Voice,
    cast_voices,
    combine_blocks,
    combine_spectra,
    parse_weights,
)
from unmixcli.errors import OptionError, UnknownModelError
from unmixcli.lockstep import separate_together
from unmixcli.models import ARCHITECTURES
from unmixcli.models.base import SeparationModel
from unmixcli.options import Combine, Options
from unmixcli.pipeline import Report, separate_blocks
from unmixcli.runner import Runner
from unmixcli.separator import Separator
from unmixcli.stems import plan_stems

EVERY = get_args(Combine)
FOUR = ("vocals", "drums", "bass", "other")


def toy(gains: Mapping[str, float], **config: Any) -> Gains:
    defaults = {"segment_length": 4000, "edge": 100, "sample_rate": 44100}
    return Gains({"gains": gains, **defaults, **config}, tuple(gains))


def plain(count: int, how: Combine, weights: Sequence[float] = ()) -> Combination:
    """One stem of `count` members."""
    weights = weights or [1 / count] * count
    return Combination(how, (tuple(Share(member, 0, weight) for member, weight in enumerate(weights)),))


def combined(estimates: Sequence[NDArray], combination: Combination, lengths: Sequence[int] = (1000,)) -> NDArray:
    """Estimates [S, C, T] in blocks of these lengths, in turn."""

    def parts() -> Any:
        position = 0
        for length in itertools.cycle(lengths):
            if position >= estimates[0].shape[-1]:
                return
            yield [estimate[..., position : position + length] for estimate in estimates]
            position += length

    blocks = list(combine_blocks(parts(), combination))
    return np.concatenate(blocks, axis=-1)


@pytest.fixture
def noises(rng: np.random.Generator) -> list[NDArray[np.float32]]:
    return [rng.standard_normal((1, 2, 70001)).astype(np.float32) for _ in range(3)]


# ---------------------------------------------------------------- the combination


@pytest.mark.parametrize("how", EVERY)
def test_equal_estimates_stay_as_they_are(how: Combine, noises: list[NDArray]) -> None:
    result = combined([noises[0]] * 3, plain(3, how))
    np.testing.assert_allclose(result, noises[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("how", EVERY)
@pytest.mark.parametrize("length", [1, HOP - 1, HOP, HOP + 1, FRAME_LENGTH, 32 * HOP - 1, 32 * HOP, 33 * HOP + 5])
def test_the_length_stays_and_nothing_depends_on_blocks(how: Combine, length: int, noises: list[NDArray]) -> None:
    cut = [noise[..., :length] for noise in noises]
    whole = combined(cut, plain(3, how), (length,))
    assert whole.shape == (1, 2, length)
    for lengths in ((997,), (1, 40000, 13)):
        assert np.array_equal(combined(cut, plain(3, how), lengths), whole)


def test_nothing_gives_nothing(noises: list[NDArray]) -> None:
    for how in EVERY:
        assert list(combine_blocks([], plain(3, how))) == []


def test_the_average_has_its_weights(noises: list[NDArray]) -> None:
    expected = 0.25 * noises[0] + 0.75 * noises[1]
    for how in ("avg", "avg_fft"):
        result = combined(noises[:2], plain(2, how, (0.25, 0.75)))
        np.testing.assert_allclose(result, expected, atol=2e-6, rtol=0)


def test_the_median_is_the_middle_one(noises: list[NDArray]) -> None:
    low, high = noises[0] - 1, noises[0] + 2
    assert np.array_equal(combined([high, noises[0], low], plain(3, "median")), noises[0])


def test_spectra_keep_within_their_magnitudes(rng: np.random.Generator) -> None:
    spectra = torch.complex(*torch.from_numpy(rng.standard_normal((2, 3, 5, 40))).float())
    least, most = combine_spectra(spectra, "min_fft", ()), combine_spectra(spectra, "max_fft", ())
    assert torch.equal(least.abs(), spectra.abs().amin(dim=0))
    assert torch.equal(most.abs(), spectra.abs().amax(dim=0))
    assert ((spectra == least).any(dim=0) & (spectra == most).any(dim=0)).all(), "phases are those of the one chosen"


def test_tones_of_one_member_alone_go_or_stay() -> None:
    t = np.arange(44100) / 44100
    both, alone = np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 5000 * t)
    first, second = (np.stack([x, x])[None].astype(np.float32) for x in (both + alone, both))
    inside = slice(HOP, -HOP)
    least = combined([first, second], plain(2, "min_fft"))[..., inside]
    most = combined([first, second], plain(2, "max_fft"))[..., inside]
    assert np.abs(least - second[..., inside]).max() < 0.02
    assert np.abs(most - first[..., inside]).max() < 0.02


def test_min_and_max_agree_with_a_plain_version(noises: list[NDArray]) -> None:
    """As audio-separator's `Ensembler` does with librosa: centred frames, divided by the windows' energy."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME_LENGTH) / FRAME_LENGTH)
    padded = np.pad(np.stack(noises)[:, 0], ((0, 0), (0, 0), (HOP, 2 * HOP)))
    for how, better in (("min_fft", np.less), ("max_fft", np.greater)):
        expected, energy = np.zeros(padded.shape[1:]), np.zeros(padded.shape[-1])
        for start in range(0, padded.shape[-1] - FRAME_LENGTH + 1, HOP):
            here = slice(start, start + FRAME_LENGTH)
            chosen, *others = (np.fft.rfft(wave[:, here] * window) for wave in padded)
            for other in others:
                chosen = np.where(better(abs(other), abs(chosen)), other, chosen)
            expected[:, here] += np.fft.irfft(chosen) * window
            energy[here] += window**2
        inside = slice(HOP, HOP + 70001)
        result = combined(noises, plain(3, how))[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(result, expected[:, inside] / energy[inside], atol=1e-5)


def test_a_stem_of_one_member_is_not_touched(noises: list[NDArray]) -> None:
    for how in EVERY:
        shares = ((Share(0, 0, 0.5), Share(1, 0, 0.5)), (Share(1, 0, 1.0),))
        result = combined(noises[:2], Combination(how, shares), (3000, 1))
        assert np.array_equal(result[1], noises[1][0])


# ---------------------------------------------------------------- who gives what


def voices(*stems: Sequence[str], covers: bool = True) -> list[Voice]:
    return [Voice(f"m{number}", tuple(names), covers and len(names) > 1) for number, names in enumerate(stems)]


def test_stems_are_the_union_and_cover_what_a_member_covers() -> None:
    casting = cast_voices(voices(FOUR, ["vocals"]))
    assert casting.stems == FOUR
    assert casting.covers_mixture
    assert casting.weights["vocals"] == (1, 1)
    assert casting.weights["drums"] == (1, 0)
    assert casting.heard(1, ("vocals", "drums")) == ("vocals",)
    assert not cast_voices(voices(["vocals"], ["drums"])).covers_mixture
    assert cast_voices(voices(["vocals"], ["instrumental"])).covers_mixture


def test_what_is_left_over_comes_from_those_with_the_same_stems() -> None:
    six = (*FOUR, "guitar", "piano")
    casting = cast_voices(voices(FOUR, six))
    assert casting.weights["other"] == (0, 1), "guitar and piano are in the other of the first"
    assert casting.weights["bass"] == (1, 1)
    assert casting.covers_mixture
    assert cast_voices(voices(FOUR, FOUR[::-1])).weights["other"] == (1, 1)
    assert cast_voices(voices(["vocals", "accompaniment"], FOUR)).stems == FOUR


def test_weights_by_position() -> None:
    two = voices(FOUR, FOUR)
    assert parse_weights(["2,1", "vocals=0,3"], ["a", "b"], FOUR) == {"": (2, 1), "vocals": (0, 3)}
    casting = cast_voices(two, ["2,1", "vocals=0,3"])
    assert casting.weights["drums"] == (2, 1)
    assert casting.weights["vocals"] == (0, 3)
    assert casting.heard(0, FOUR) == FOUR[1:]
    for given in ({"vocals": (1, 3)}, "vocals=1,3", ["VOCALS = 1, 3"]):
        assert Options(weights=given).weights == ("vocals=1,3",)  # type: ignore[arg-type]
    assert Options(weights=(2, 1)).weights == ("2,1",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "how", "message"),
    [
        (["1,2,3"], "avg", "for 3 models, but there are 2: m0, m1"),
        (["1"], "avg", "for 1 models"),
        (["vocals=a,b"], "avg", "expected numbers of 0 or more"),
        (["-1,1"], "avg", "expected numbers of 0 or more"),
        (["nan,1"], "avg", "expected numbers of 0 or more"),
        (["harp=1,1"], "avg", "a stem nobody gives"),
        (["1,1", "2,2"], "avg", "two weights for all stems"),
        (["0,0"], "avg", "leave nobody for vocals"),
        (["drums=0,1"], "avg", "leave nobody for drums; it is given by m0"),
        (["2,1"], "median", "median knows no weights"),
        (["2,1"], "max_fft", "max_fft knows no weights"),
    ],
)
def test_wrong_weights(weights: list[str], how: Combine, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        cast_voices(voices(FOUR, ["vocals"]), weights, how)


# ---------------------------------------------------------------- models side by side


def together(
    models: Sequence[SeparationModel],
    source: Stream,
    combination: Combination,
    stems: Sequence[str],
    report: Report | None = None,
    **fields: Any,
) -> dict[str, NDArray]:
    options = Options(**fields)
    plan = plan_stems(stems, covers_mixture=len(stems) > 1, residual=options.residual, all_for_free=True)
    runners = [Runner(model, torch.device("cpu")) for model in models]
    blocks = list(separate_together(source, runners, combination, plan, options, report=report))
    empty = np.zeros((source.channels, 0), np.float32)
    return {name: np.concatenate([empty, *(block[name] for block in blocks)], axis=1) for name in plan.names}


def below_8k(rng: np.random.Generator, length: int, sample_rate: int = 44100) -> NDArray[np.float32]:
    """Noise that every rate here carries."""
    spectrum = np.fft.rfft(rng.standard_normal((2, length)))
    spectrum[:, int(6000 / sample_rate * length) :] = 0
    return (0.2 * np.fft.irfft(spectrum, n=length)).astype(np.float32)


@pytest.mark.parametrize("how", EVERY)
def test_rates_segments_and_channels_line_up_to_the_sample(how: Combine, rng: np.random.Generator) -> None:
    mixture = below_8k(rng, 50001)
    models = [
        toy({"vocals": 1.0}),
        toy({"vocals": 1.0}, sample_rate=22050, segment_length=9000),
        toy({"vocals": 1.0}, sample_rate=16000, segment_length=1000, overlap=0.5),
    ]
    found = together(models, Stream(mixture, 44100), plain(3, how), ["vocals"], residual="ignore")["vocals"]
    assert found.shape == mixture.shape
    inside = slice(2000, -2000)  # at its ends the noise is not below any limit
    assert np.abs(found[:, inside] - mixture[:, inside]).max() < 2e-3
    # a delay of one sample would be far outside of this
    assert np.abs(mixture[:, 2000:-2000] - mixture[:, 1999:-2001]).max() > 0.2


@pytest.mark.parametrize("how", ["avg", "max_fft"])
@pytest.mark.parametrize("length", [0, 1, 3799, 20000])
def test_blocks_of_the_input_change_nothing(how: Combine, length: int, rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, length)).astype(np.float32)
    models = [toy({"vocals": 0.5, "other": 0.4}), toy({"vocals": 0.7}, sample_rate=22050)]
    shares = Combination(how, ((Share(0, 0, 0.5), Share(1, 0, 0.5)), (Share(0, 1, 1.0),)))
    results = [
        together(models, Stream(mixture, 44100, lengths), shares, ["vocals", "other"])
        for lengths in ((1009,), (1, 7000))
    ]
    for name in ("vocals", "other"):
        assert results[0][name].shape == mixture.shape
        assert np.array_equal(results[0][name], results[1][name])
    np.testing.assert_allclose(sum(results[0].values()), mixture, atol=1e-6)


@pytest.mark.parametrize("how", ["avg", "min_fft"])
@pytest.mark.parametrize("postfilter", ["none", "wiener"])
def test_a_region_equals_the_same_part(how: Combine, postfilter: str, rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, 16000 * 24)).astype(np.float32)
    stems = ("vocals", "other")
    models = [
        toy({"vocals": 0.5, "other": 0.4}, sample_rate=16000),
        toy({"vocals": 0.3, "other": 0.6}, sample_rate=16000, segment_length=30000),
    ]
    shares = Combination(how, tuple((Share(0, n, 0.5), Share(1, n, 0.5)) for n in range(2)))
    whole = together(models, Stream(mixture, 16000), shares, stems, postfilter=postfilter)
    part = together(models, Stream(mixture, 16000), shares, stems, postfilter=postfilter, start=1.5, end=2.25)
    for name in stems:
        assert np.array_equal(part[name], whole[name][:, 24000:36000])


def test_the_post_filter_hears_the_combination(rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, 30000)).astype(np.float32)
    # their mean; a filter on each would give (0.89 + 0.50) / 2 of the mixture and not 0.77
    members = {"vocals": 0.8, "other": 0.1}, {"vocals": 0.2, "other": 0.2}
    gains = {"vocals": 0.5, "other": 0.15}
    shares = Combination("avg", tuple((Share(0, n, 0.5), Share(1, n, 0.5)) for n in range(2)))
    twice = together(
        [toy(own) for own in members],
        Stream(mixture, 44100),
        shares,
        tuple(gains),
        postfilter="softmask",
        residual="ignore",
    )
    runner = Runner(toy(gains), torch.device("cpu"))
    options = Options(postfilter="softmask", residual="ignore")
    plan = plan_stems(tuple(gains), covers_mixture=True, residual="ignore", all_for_free=True)
    alone = list(separate_blocks(Stream(mixture, 44100), runner, plan, options))
    for name in gains:
        once = np.concatenate([block[name] for block in alone], axis=1)
        np.testing.assert_allclose(twice[name], once, atol=1e-5)


def test_members_keep_their_normalization_and_shifts(rng: np.random.Generator) -> None:
    class Clipped(Gains):
        """Knows loud from quiet."""

        def forward(self, mixture: Tensor) -> Tensor:
            return mixture.clamp(-1, 1).unsqueeze(1)

    mixture = (10 * rng.standard_normal((2, 20000))).astype(np.float32)
    config = {"gains": {"vocals": 1.0}, "segment_length": 4000, "edge": 100}
    models = [Clipped({**config, "normalization": "track"}, ["vocals"]), Clipped(config, ["vocals"])]
    alone = []
    for model in models:
        plan = plan_stems(["vocals"], covers_mixture=False, stems=["vocals"])
        runner = Runner(model, torch.device("cpu"))
        blocks = separate_blocks(Stream(mixture, 44100), runner, plan, Options(residual="ignore", shifts=1))
        alone.append(np.concatenate([block["vocals"] for block in blocks], axis=1))
    found = together(models, Stream(mixture, 44100), plain(2, "avg"), ["vocals"], residual="ignore", shifts=1)
    np.testing.assert_allclose(found["vocals"], (alone[0] + alone[1]) / 2, atol=1e-5)
    assert np.abs(alone[0]).max() > 5, "the normalized one is told of a quieter mixture"


def test_each_member_draws_its_own_shifts(rng: np.random.Generator) -> None:
    class Sloped(Gains):
        """Louder towards the end of a segment: hears where segments lie."""

        def forward(self, mixture: Tensor) -> Tensor:
            return (mixture * torch.linspace(0, 1, mixture.shape[-1])).unsqueeze(1)

    mixture = rng.standard_normal((2, 60000)).astype(np.float32)
    model = Sloped({"gains": {"vocals": 1.0}, "segment_length": 9000, "overlap": 0.0}, ["vocals"])
    one, two = (
        together([model] * count, Stream(mixture, 44100), plain(count, "avg"), ["vocals"], residual="ignore", shifts=1)
        for count in (1, 2)
    )
    assert np.abs(one["vocals"] - two["vocals"]).max() > 0.05


def test_six_channels_and_models_of_one(rng: np.random.Generator) -> None:
    mixture = (0.1 * rng.standard_normal((6, 12000))).astype(np.float32)
    models = [toy({"vocals": 0.5}), toy({"vocals": 0.3}, channels=1)]
    found = together(
        models, Stream(mixture, 44100, layout="5.1"), plain(2, "avg"), ["vocals"], residual="ignore", postfilter="none"
    )
    np.testing.assert_allclose(found["vocals"], 0.4 * mixture, atol=1e-6)


def test_what_waits_does_not_grow_with_the_track() -> None:
    """Nobody reads further ahead than about a segment and what threads hold."""
    read = written = furthest = 0

    class Counted(Stream):
        def blocks(self) -> Any:
            nonlocal read
            for block in super().blocks():
                read += block.shape[1]
                yield block

    source = Counted(np.zeros((2, 2_000_000), np.float32), 44100, (5000,))
    models = [toy({"vocals": 0.5}, segment_length=100_000), toy({"vocals": 0.5}, sample_rate=22050)]
    plan = plan_stems(["vocals"], covers_mixture=False, stems=["vocals"])
    runners = [Runner(model, torch.device("cpu")) for model in models]
    for block in separate_together(source, runners, plain(2, "max_fft"), plan, Options()):
        written += block["vocals"].shape[1]
        furthest = max(furthest, read - written)
    assert written == 2_000_000
    assert furthest < 900_000


# ---------------------------------------------------------------- the command line and the API


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folders: None) -> Path:
    """Models "four", "vocal" (one stem, another rate), "six" and "low" as a user's own."""
    monkeypatch.setitem(ARCHITECTURES, "gains", "toys:Gains")
    cli_toys.register()
    import os

    folder = Path(os.environ["UNMIX_CONFIG"]) / "models"
    base = {"segment_length": 4000, "edge": 100}
    four = dict(zip(FOUR, (0.4, 0.2, 0.2, 0.1), strict=True))
    entries = {
        "four": ({**base, "gains": four, "label": "four"}, 44100),
        "vocal": ({**base, "gains": {"vocals": 0.8}, "sample_rate": 22050, "label": "vocal"}, 22050),
        "six": ({**base, "gains": {**four, "guitar": 0.05, "piano": 0.05}, "label": "six"}, 44100),
    }
    for name, (config, rate) in entries.items():
        entry = {
            "name": name,
            "architecture": "gains",
            "config": config,
            "stems": list(config["gains"]),
            "sample_rate": rate,
            "channels": 2,
            "licence": {"name": f"of {name}", "commercial_ok": name != "vocal"},
        }
        (folder / f"{name}.json").write_text(json.dumps(entry))
    monkeypatch.chdir(tmp_path)
    Gains.built.clear()
    return tmp_path


def test_the_api_takes_names_joined(registry: Path, rng: np.random.Generator) -> None:
    mixture = below_8k(rng, 30000)
    separator = Separator("four+vocal", weights={"vocals": (1, 3)})
    result = separator.separate(mixture, sample_rate=44100)
    assert tuple(result.stems) == FOUR
    assert result.model == "four+vocal"
    np.testing.assert_allclose(sum(result.stems.values()), mixture, atol=1e-6)
    # 0.25 * 0.4 + 0.75 * 0.8 = 0.7; the sum is 1.2, so each of four gets -0.05 of the mixture
    inside = slice(2000, -2000)
    np.testing.assert_allclose(result.stems["vocals"][:, inside], 0.65 * mixture[:, inside], atol=2e-3)
    assert result.residual_db == pytest.approx(20 * np.log10(0.2), abs=0.1)
    streamed = list(separator.stream(np.array_split(mixture, 7, axis=1), sample_rate=44100, channels=2))
    assert np.array_equal(np.concatenate([b["bass"] for b in streamed], axis=1), result.stems["bass"])


def test_only_members_that_are_heard_are_built(registry: Path) -> None:
    separator = Separator("four+vocal", stems="drums")
    _ = separator.runner
    assert Gains.built == ["four"]
    assert [member.entry.name for member in separator.members] == ["four"]
    Gains.built.clear()
    _ = Separator("four+vocal", stems="vocals", weights="vocals=0,1").runner
    assert Gains.built == ["vocal"]
    Gains.built.clear()
    _ = Separator("four+six", stems="other").runner
    assert Gains.built == ["six"]


def test_licences_are_added_up(registry: Path) -> None:
    licence = Separator("four+vocal").entry.licence
    assert licence.name == "of four and of vocal"
    assert licence.commercial_ok is False
    assert Separator("four+six").entry.licence.commercial_ok is True


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "four+vocale"}, UnknownModelError, "vocale"),
        ({"model": "four+auto"}, OptionError, "names of models"),
        ({"model": "four+"}, OptionError, "names of models"),
        ({"model": "four+four"}, OptionError, "four twice"),
        ({"model": "four+vocal", "weights": "1,2,3"}, OptionError, "for 3 models"),
        ({"model": "four", "weights": "1,2"}, OptionError, "four is one model"),
        ({"model": "four+vocal", "stems": "harp"}, OptionError, "no stem 'harp'"),
        ({"model": "four+vocal", "combine": "mean"}, OptionError, "expected one of avg, median"),
        ({"model": "four+vocal", "iterations": 2}, OptionError, "four and vocal has no filter"),
    ],
)
def test_what_can_t_be(registry: Path, fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Separator(**fields)


def test_a_near_miss_is_suggested(registry: Path) -> None:
    with pytest.raises(UnknownModelError) as raised:
        Separator("four+vocale")
    assert "vocal" in (raised.value.hint or "")


def unmix(*args: str) -> Any:
    return CliRunner().invoke(cli, [*args, "--offline"])


def test_a_folder_with_an_ensemble_is_resumed(registry: Path) -> None:
    song(registry / "album/a.wav", subtype="FLOAT")
    song(registry / "album/b.wav", subtype="FLOAT", seed=1)
    command = ("album", "-m", "toy+twin", "--combine", "median")
    first = unmix(*command)
    assert first.exit_code == 0, first.output
    samples, _ = soundfile.read("separated/a/vocals.wav")
    again = unmix(*command)
    assert again.exit_code == 0
    assert "2 skipped" in again.stderr
    other = unmix("album", "-m", "toy+twin")
    assert other.exit_code == 1
    assert "other settings (config" in other.stderr
    third = unmix("album", "-m", "toy+twin", "--weights", "3,1", "--combine", "avg", "--overwrite")
    assert third.exit_code == 0, third.output
    assert np.allclose(soundfile.read("separated/a/vocals.wav")[0], samples, atol=1e-6)
    record = [json.loads(line) for line in Path("separated/.unmix-done.jsonl").read_text().splitlines()]
    models = [line["model"] for line in record if line["state"] == "settings"]
    assert [model["name"] for model in models] == ["toy+twin"] * 2
    assert [model["config"]["combine"] for model in models] == ["median", "avg"]
    assert models[1]["config"]["weights"] == {"vocals": [3.0, 1.0], "other": [3.0, 1.0]}


def test_the_plan_and_the_events_name_the_ensemble(registry: Path) -> None:
    song(registry / "a.wav")
    plan = unmix("a.wav", "-m", "four+vocal", "--dry-run", "--json")
    facts = json.loads(plan.stdout.splitlines()[-1])
    assert facts["model"] == "four+vocal"
    assert facts["licence"] == "of four and of vocal"
    assert facts["download_files"] == []
    run = unmix("a.wav", "-m", "four+vocal", "--json", "--template", "{track}/{model}/{stem}")
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert events[0]["model"] == "four+vocal"
    assert Path("separated/a/four+vocal/vocals.wav").is_file()
    missing = unmix("a.wav", "-m", "umxhq+umxl", "--dry-run", "--json", "-o", "elsewhere")
    facts = json.loads(missing.stdout.splitlines()[-1])
    assert len(facts["download_files"]) == 8
