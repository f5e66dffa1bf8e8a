"""Models one after another: which run, what comes out, sums, regions, memory, presets, the command line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from toys import Gains, Stream

import unmixcli.registry
from unmixcli.chain import set_up
from unmixcli.chain_run import Cast, separate_chain
from unmixcli.cli import _terminal, cli
from unmixcli.errors import InputError, OptionError, OutputError, UnknownModelError, UnmixError
from unmixcli.models import ARCHITECTURES
from unmixcli.options import Options
from unmixcli.pipeline import Report
from unmixcli.progress import Progress
from unmixcli.runner import Runner
from unmixcli.separator import Separator

RATE = 8000
# What a model's stems are of what it hears; all but "voice" and "lead" are said to add up to it.
MODELS: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "four": ({"vocals": 0.4, "drums": 0.2, "bass": 0.2, "other": 0.1}, {"segment_length": 4000, "edge": 100}),
    "voice": ({"vocals": 0.5}, {"segment_length": 3000}),
    "lead": ({"lead_vocals": 0.75}, {"segment_length": 1500, "overlap": 0.5}),
    "karaoke": ({"lead_vocals": 0.5, "no_lead_vocals": 0.3}, {"segment_length": 2500}),
    "kit": ({"kick": 0.6, "snare": 0.3}, {"segment_length": 2000, "normalization": "track"}),
    "dry": ({"dry": 0.8, "reverb": 0.2}, {"segment_length": 2000, "channels": 1}),
    "again": ({"vocals": 0.5, "other": 0.5}, {}),
}
LEAVES = ("drums", "bass", "other", "lead_vocals", "backing_vocals")


def entry(name: str, **changes: Any) -> dict[str, Any]:
    gains, config = MODELS[name]
    base = {"gains": gains, "label": name, "sample_rate": RATE, "segment_length": 4000, **config, **changes}
    return {
        "name": name,
        "architecture": "gains",
        "config": base,
        "stems": list(gains),
        "sample_rate": base["sample_rate"],
        "channels": base.get("channels", 2),
        "licence": {"name": f"terms of {name}", "commercial_ok": name != "lead"},
    }


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folders: None) -> Iterator[None]:
    monkeypatch.setitem(ARCHITECTURES, "gains", "toys:Gains")
    folder = Path(os.environ["UNMIX_CONFIG"]) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        (folder / f"{name}.json").write_text(json.dumps(entry(name)))
    monkeypatch.chdir(tmp_path)
    Gains.built.clear()
    yield
    _terminal._level = 0


@pytest.fixture
def mixture(rng: np.random.Generator) -> NDArray[np.float32]:
    return (0.2 * rng.standard_normal((2, 3 * RATE + 17))).astype(np.float32)


def stems(model: str, mixture: NDArray, **fields: Any) -> dict[str, NDArray]:
    return dict(Separator(model, **fields).separate(mixture, sample_rate=RATE).stems)


# ---------------------------------------------------------------- what comes out


def test_leaves_are_the_outputs_and_add_up(mixture: NDArray) -> None:
    found = stems("four/vocals/lead", mixture)
    assert tuple(found) == LEAVES
    assert all(stem.shape == mixture.shape for stem in found.values())
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-6)
    # the residual of the first, 0.1 of the mixture, is spread over four
    np.testing.assert_allclose(found["lead_vocals"], 0.75 * 0.425 * mixture, atol=1e-6)
    np.testing.assert_allclose(found["drums"], 0.225 * mixture, atol=1e-6)


def test_parts_of_a_stem_add_up_to_it(mixture: NDArray) -> None:
    for chain, parts in (
        ("four/vocals/lead", ("lead_vocals", "backing_vocals")),
        ("four/vocals/karaoke", ("lead_vocals", "backing_vocals")),
        ("four/drums/kit", ("kick", "snare")),
        ("four/vocals/dry", ("dry", "reverb")),
    ):
        whole = parts and chain.split("/")[1]
        found = stems(chain, mixture, stems=(whole, *parts))
        assert tuple(found) == (whole, *parts)
        np.testing.assert_allclose(found[parts[0]] + found[parts[1]], found[whole], atol=1e-6, err_msg=chain)
        assert np.array_equal(found[whole], stems("four", mixture)[whole])


def test_the_second_model_s_residual_goes_where_it_is_sent(mixture: NDArray) -> None:
    vocals = 0.425 * mixture  # lead 0.5, backing 0.3 of it; 0.2 is left over
    expected = {"spread": (0.6, 0.4), "ignore": (0.5, 0.3), "add:lead_vocals": (0.7, 0.3)}
    for residual, (lead, backing) in expected.items():
        found = stems("four/vocals/karaoke", mixture, residual=residual, stems="lead_vocals,backing_vocals")
        source = 0.4 * mixture if residual == "ignore" else vocals
        np.testing.assert_allclose(found["lead_vocals"], lead * source, atol=1e-6)
        np.testing.assert_allclose(found["backing_vocals"], backing * source, atol=1e-6)
    found = stems("four/vocals/karaoke", mixture, residual="file")
    assert tuple(found) == (*LEAVES, "residual")
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-6)
    np.testing.assert_allclose(found["residual"], 0.1 * mixture, atol=1e-6)
    to_first = stems("four/vocals/karaoke", mixture, residual="add:bass", stems="bass,lead_vocals")
    np.testing.assert_allclose(to_first["bass"], 0.3 * mixture, atol=1e-6)


def test_other_words_for_outputs(mixture: NDArray) -> None:
    chain = "four/vocals/lead"
    lead = stems(chain, mixture, stems="lead_vocals")["lead_vocals"]
    without = stems(chain, mixture, minus="lead_vocals")
    assert tuple(without) == ("no_lead_vocals",)
    np.testing.assert_allclose(without["no_lead_vocals"], mixture - lead, atol=1e-6)
    found = stems(chain, mixture, stems="accompaniment,backing_vocals,mixture")
    np.testing.assert_allclose(found["accompaniment"], 0.575 * mixture, atol=1e-6)
    assert np.array_equal(found["mixture"], mixture)
    # a first model that covers nothing: what it leaves over is an output as well
    alone = stems("voice/vocals/lead", mixture)
    assert tuple(alone) == ("lead_vocals", "backing_vocals", "accompaniment")
    np.testing.assert_allclose(sum(alone.values()), mixture, atol=1e-6)
    rest = stems("voice/vocals/lead", mixture, stems="rest,lead_vocals")
    np.testing.assert_allclose(rest["rest"], 0.5 * mixture, atol=1e-6)


def test_names_that_are_taken_say_whose_they_are() -> None:
    assert set_up(Options(model="four/vocals/again")).plan.names == (
        "drums",
        "bass",
        "other",
        "vocals_vocals",
        "vocals_other",
    )
    assert set_up(Options(model="four/bass/voice", stems="vocals")).plan.names == ("vocals",)


def test_several_stages_and_stems_of_the_same_model(mixture: NDArray) -> None:
    chain = "four/vocals/lead/drums/kit/lead_vocals/dry"
    found = stems(chain, mixture)
    assert tuple(found) == ("bass", "other", "backing_vocals", "kick", "snare", "dry", "reverb")
    np.testing.assert_allclose(sum(found.values()), mixture, atol=1e-5)
    np.testing.assert_allclose(found["dry"], 0.8 * 0.75 * 0.425 * mixture, atol=1e-6)
    deep = stems(chain, mixture, stems="reverb,bass,lead_vocals")
    np.testing.assert_allclose(deep["reverb"], found["reverb"], atol=1e-6)


def test_only_stages_that_are_needed_run() -> None:
    for wanted, built in (
        ("drums", ["four"]),
        ("lead_vocals", ["four", "lead"]),
        ("kick,bass", ["four", "kit"]),
        ("no_vocals", ["four"]),
        ("reverb", ["four", "lead", "dry"]),
    ):
        Gains.built.clear()
        separator = Separator("four/vocals/lead/drums/kit/lead_vocals/dry", stems=wanted)
        _ = separator.runner
        assert Gains.built == built, wanted
    assert separator.entry.name == "four/vocals/lead/lead_vocals/dry"
    assert separator.entry.licence.commercial_ok is False


def test_ensembles_in_a_chain(mixture: NDArray) -> None:
    found = stems("four+voice/vocals/lead+karaoke", mixture, stems="lead_vocals,drums", residual="ignore")
    np.testing.assert_allclose(found["lead_vocals"], 0.45 * 0.625 * mixture, atol=1e-6)
    weighted = stems("four+voice/vocals/lead", mixture, stems="lead_vocals", residual="ignore", weights="3,1")
    np.testing.assert_allclose(weighted["lead_vocals"], 0.425 * 0.75 * mixture, atol=1e-6)


def test_rates_channels_and_streams(rng: np.random.Generator) -> None:
    t = np.arange(48000) / 48000
    tones = np.stack([np.sin(2 * np.pi * f * t) for f in (100, 300, 500, 900, 700, 200)]).astype(np.float32) * 0.1
    separator = Separator("four/vocals/lead")
    found = separator.separate(tones, sample_rate=48000).stems
    inside = slice(3000, -3000)
    np.testing.assert_allclose(found["lead_vocals"][:, inside], 0.75 * 0.425 * tones[:, inside], atol=1e-3)
    np.testing.assert_allclose(sum(found.values()), tones, atol=1e-6)
    for pieces in (7, 100):
        blocks = list(separator.stream(np.array_split(tones, pieces, axis=1), sample_rate=48000, channels=6))
        for name, whole in found.items():
            assert np.array_equal(np.concatenate([block[name] for block in blocks], axis=1), whole)


@pytest.mark.parametrize("length", [0, 1, 1499, 4001])
def test_any_length(length: int, mixture: NDArray) -> None:
    cut = mixture[:, :length]
    for model in ("four/vocals/lead", "four/drums/kit"):
        found = stems(model, cut)
        assert all(stem.shape == cut.shape for stem in found.values())
        np.testing.assert_allclose(sum(found.values()), cut, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "fields", "start"),
    [
        ("four/vocals/lead", {}, 6),
        ("four/vocals/lead", {"tta": True}, 6),
        ("four/vocals/lead/lead_vocals/dry", {"shifts": 1}, 14),
        ("four/vocals/lead", {"postfilter": "softmask"}, 30),
        ("four/drums/kit", {"shifts": 1}, 6),
        ("four+again/vocals/karaoke", {}, 6),
    ],
)
def test_a_region_equals_the_same_part(
    model: str, fields: dict[str, Any], start: int, rng: np.random.Generator
) -> None:
    long = (0.2 * rng.standard_normal((2, (start + 5) * RATE))).astype(np.float32)
    whole = stems(model, long, **fields)
    part = stems(model, long, start=float(start), end=start + 0.75, **fields)
    for name, stem in part.items():
        assert np.array_equal(stem, whole[name][:, start * RATE : start * RATE + 6000]), name


def test_a_region_after_the_end_is_told_of_as_it_was_asked(mixture: NDArray) -> None:
    for start in (3.5, 300.0):
        for model in ("four/vocals/lead", "four/drums/kit"):
            with pytest.raises(InputError, match=rf"starts at {start:.2f} s, but the audio ends at 3\.00 s"):
                stems(model, mixture, start=start)


class Clipped(Gains):
    """Knows loud from quiet."""

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return super().forward(mixture.clamp(-3, 3))


def test_the_level_of_the_whole_track_reaches_a_later_model(rng: np.random.Generator) -> None:
    ARCHITECTURES["clipped"] = f"{__name__}:Clipped"
    folder = Path(os.environ["UNMIX_CONFIG"]) / "models"
    (folder / "hard.json").write_text(json.dumps({**entry("kit"), "name": "hard", "architecture": "clipped"}))
    loud = (50 * rng.uniform(-1, 1, (2, 20000))).astype(np.float32)
    loud -= loud.mean()
    try:
        kick = stems("four/drums/hard", loud, residual="ignore")["kick"]
    finally:
        del ARCHITECTURES["clipped"]
    np.testing.assert_allclose(kick, 0.6 * 0.2 * loud, atol=1e-4, err_msg="it did not hear a track as loud as any")


def test_what_waits_does_not_grow_with_the_track() -> None:
    read = written = furthest = 0

    class Counted(Stream):
        def blocks(self) -> Any:
            nonlocal read
            for block in super().blocks():
                read += block.shape[1]
                yield block

    setup = set_up(Options(model="four/vocals/lead"))
    runners = [
        Runner(member.load(offline=True), torch.device("cpu")) for s in setup.stages for member in s.lineup.members
    ]
    casts = [Cast(stage, [runner]) for stage, runner in zip(setup.stages, runners, strict=True)]
    source = Counted(np.zeros((2, 3_000_000), np.float32), RATE, (5000,))
    report = Report()
    for block in separate_chain(source, casts, setup.plan, Options(), report=report):
        written += block["drums"].shape[1]
        furthest = max(furthest, read - written)
    assert report.written == report.frames == written == 3_000_000
    assert furthest < 900_000


def test_nothing_is_left_in_the_temporary_folder(
    mixture: NDArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    separator = Separator("four/drums/kit")
    separator.separate(mixture, sample_rate=RATE)
    assert list(folder.iterdir()) == []
    stages = []
    Separator("four/drums/kit", on_progress=lambda event: stages.append(event.stage)).separate(
        mixture, sample_rate=RATE
    )
    assert stages.count("scan") > 0
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "gone"))
    with pytest.raises(OutputError, match="temporary file"):
        separator.separate(mixture, sample_rate=RATE)


def test_an_interruption_ends_all_stages(mixture: NDArray) -> None:
    before = threading.active_count()

    def stop(event: Progress) -> None:
        raise KeyboardInterrupt

    for model in ("four/vocals/lead", "four/drums/kit"):
        with pytest.raises(KeyboardInterrupt):
            Separator(model, on_progress=stop).separate(np.tile(mixture, 20), sample_rate=RATE)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "four/vocals"}, OptionError, "expected model/stem/model"),
        ({"model": "four//lead"}, OptionError, "expected model/stem/model"),
        ({"model": "auto/vocals/lead"}, OptionError, "expected model/stem/model"),
        ({"model": "four/vocals/leda"}, UnknownModelError, "leda"),
        ({"model": "four/guitar/lead"}, OptionError, "shall hear 'guitar', but before it there are vocals"),
        ({"model": "four/vocals/lead/vocals/dry"}, OptionError, "join them with"),
        ({"model": "four/vocals/lead", "stems": "harp"}, OptionError, "harp"),
        ({"model": "four/vocals/lead", "residual": "add:harp"}, OptionError, "the stems are"),
        ({"model": "four/vocals/lead", "weights": "1,2"}, OptionError, "is one model"),
        ({"model": "four+voice/vocals/lead+karaoke", "weights": "1,2"}, OptionError, "two ensembles"),
        ({"model": "four/vocals/lead", "iterations": 2}, OptionError, "no filter"),
    ],
)
def test_what_can_t_be(fields: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Separator(**fields)


def test_a_stream_can_t_be_read_twice(mixture: NDArray) -> None:
    with pytest.raises(OptionError, match="kit needs the mean and level"):
        Separator("four/drums/kit").stream([mixture], sample_rate=RATE, channels=2)


# ---------------------------------------------------------------- presets


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """A registry of its own with chains: lead vocals, and a kit that must be fetched."""
    for path in (Path(os.environ["UNMIX_CONFIG"]) / "models").glob("*.json"):
        path.unlink()
    far = entry("kit")
    far["files"] = [{"part": "checkpoint", "name": "kit.ckpt", "urls": ["http://127.0.0.1:9/x"], "sha256": "0" * 64}]
    step = {"stem": "vocals", "model": "lead", "rest": "backing_vocals"}
    chains = [
        {"quality": quality, "stems": ["lead_vocals", "backing_vocals"], "model": "four", "then": [step]}
        for quality in ("fast", "balanced")
    ]
    chains += [
        {"quality": "fast", "stems": ["kick", "snare"], "model": "four", "then": [{"stem": "drums", "model": "kit"}]}
    ]
    values = {
        "version": 1,
        "models": [*(entry(name) for name in MODELS if name not in ("kit", "karaoke")), far],
        "presets": [
            *(
                {"quality": quality, "stems": list(MODELS["four"][0]), "model": "four"}
                for quality in ("fast", "balanced")
            ),
            *chains,
        ],
    }
    path = tmp_path / "registry.json"
    path.write_text(json.dumps(values))
    monkeypatch.setattr(unmixcli.registry, "registry_path", lambda: path)
    return values


def test_auto_takes_a_chain_only_where_no_model_does(presets: Mapping[str, Any], mixture: NDArray) -> None:
    assert Separator().entry.name == "four"
    assert Separator(stems="vocals").entry.name == "four"
    separator = Separator(stems="lead_vocals,backing_vocals")
    assert separator.entry.name == "four/vocals/lead"
    found = separator.separate(mixture, sample_rate=RATE).stems
    assert tuple(found) == ("lead_vocals", "backing_vocals")
    np.testing.assert_allclose(found["lead_vocals"] + found["backing_vocals"], 0.425 * mixture, atol=1e-6)
    assert Separator(stems="drums,lead_vocals").entry.name == "four/vocals/lead"
    assert Separator(minus="lead_vocals").plan.names == ("no_lead_vocals",)
    with pytest.raises(OptionError, match="lead_vocals"):
        Separator(stems="lead_vocals", quality="best")


def test_a_model_on_this_machine_serves_where_there_is_no_chain(presets: Mapping[str, Any]) -> None:
    weights = Path(os.environ["UNMIX_CONFIG"]) / "models" / "karaoke"
    weights.mkdir()
    (weights / "w.ckpt").write_bytes(b"weights")
    file = {"part": "checkpoint", "name": "w.ckpt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    (weights.parent / "karaoke.json").write_text(json.dumps({**entry("karaoke"), "files": [file]}))
    assert Separator(stems="lead_vocals").entry.name == "four/vocals/lead"
    assert Separator(stems="lead_vocals", quality="best").entry.name == "karaoke"
    (weights.parent / "kit2.json").write_text(json.dumps({**entry("kit"), "name": "kit2", "files": [file]}))
    (weights.parent / "kit2").mkdir()
    (weights.parent / "kit2" / "w.ckpt").write_bytes(b"weights")
    instead = Separator(stems="kick", quality="fast", offline=True)
    assert instead.entry.name == "kit2"
    assert "kit is not on this machine" in instead.warnings[0]


def test_a_chain_that_can_t_be_had_says_what_to_fetch(presets: Mapping[str, Any]) -> None:
    for offline, why in ((True, "no network may be used"), (False, "could not be reached")):
        with pytest.raises(UnmixError, match=f"kit is not on this machine and {why}") as raised:
            Separator(stems="kick", quality="fast", offline=offline)
        assert "unmix models download kit" in (raised.value.hint or "")


# ---------------------------------------------------------------- the command line


def unmix(*args: str) -> Any:
    return CliRunner().invoke(cli, [*args, "--offline"])


def test_files_names_and_sums(tmp_path: Path, mixture: NDArray) -> None:
    soundfile.write("song.wav", mixture.T, RATE, subtype="FLOAT")
    done = unmix("song.wav", "-m", "four/vocals/lead", "--json")
    assert done.exit_code == 0, done.output
    read = {path.stem: soundfile.read(path)[0].T for path in Path("separated/song").iterdir()}
    assert set(read) == set(LEAVES)
    np.testing.assert_allclose(sum(read.values()), mixture, atol=1e-6)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["model"] == "four/vocals/lead"
    result = next(event for event in events if event["event"] == "result")
    assert result["residual_db"] == pytest.approx(-20, abs=0.1)
    progress = [event["done"] for event in events if event["event"] == "progress"]
    assert progress == sorted(progress)
    again = unmix("song.wav", "-m", "four/vocals/lead")
    assert "done before" in again.stderr
    other = unmix("song.wav", "-m", "four/vocals/karaoke")
    assert other.exit_code == 1
    assert "made with other settings (model: four/vocals/lead → four/vocals/karaoke" in other.stderr


def test_the_plan_shows_the_chain(tmp_path: Path, mixture: NDArray, presets: Mapping[str, Any]) -> None:
    soundfile.write("song.wav", mixture.T, RATE)
    plan = unmix("song.wav", "-m", "four/drums/kit", "--stems", "kick,bass", "--dry-run", "--json")
    facts = json.loads(plan.stdout.splitlines()[-1])
    assert facts["model"] == "four/drums/kit"
    assert facts["title"] == "four and kit on its drums"
    assert facts["licence"] == "terms of four and terms of kit"
    assert facts["stems"] == ["kick", "bass"]
    assert facts["download_files"] == ["kit.ckpt"]


def test_karaoke_keeps_the_backing_vocals(tmp_path: Path, mixture: NDArray, presets: Mapping[str, Any]) -> None:
    soundfile.write("song.wav", mixture.T, RATE, subtype="FLOAT")
    lead = 0.75 * 0.425
    for options, factor in (
        ((), 0.575),
        (("--keep-backing",), 1 - lead),
        (("--keep-backing", "--guide", "-6dB"), 1 - lead * (1 - 10**-0.3)),
        (("--keep-backing", "-m", "voice/vocals/lead"), 1 - 0.75 * 0.5),
    ):
        done = unmix("karaoke", "song.wav", "-o", "out.wav", "--overwrite", *options)
        assert done.exit_code == 0, done.output
        found, _ = soundfile.read("out.wav")
        np.testing.assert_allclose(found.T, factor * mixture, atol=1e-5)
    wrong = unmix("karaoke", "song.wav", "-o", "out.wav", "--overwrite", "--keep-backing", "-m", "voice")
    assert wrong.exit_code == 2
    assert "lead_vocals" in wrong.stderr
