"""`unmix train` as it is typed: folders in, a model out that separates a song."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import training_toys as toys
from click.testing import CliRunner, Result
from training_toys import RATE

from unmixcli.cli import _terminal, cli
from unmixcli.errors import InputError, OptionError
from unmixcli.models import ARCHITECTURES
from unmixcli.training import checkpoints, run
from unmixcli.training.log import RunLog
from unmixcli.training.recipe import DataSection
from unmixcli.training.sources import cut_passages, split_tracks

RECIPE = """
about = "for tests"
[model]
architecture = "tiny"
stems = ["vocals", "other"]
[data]
train = ["songs"]
hold_out = ["song2"]
seconds = 0.25
[[loss]]
kind = "l1"
on = "spectrum"
[optimiser]
learning_rate = 0.01
[training]
steps = 30
batch_size = 2
ema = 0.9
log_every = 10
[validation]
seconds = 0.5
excerpts = 2
"""


@pytest.fixture(autouse=True)
def _tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(ARCHITECTURES, "tiny", "training_toys:Tiny")
    monkeypatch.setattr(RunLog, "draw", lambda self: None)
    monkeypatch.chdir(tmp_path)
    toys.songs(tmp_path / "songs")
    (tmp_path / "mine.toml").write_text(RECIPE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    _terminal._level = 0


def unmix(*args: str) -> Result:
    return CliRunner().invoke(cli, list(args))


def test_from_folders_to_a_separated_song(tmp_path: Path) -> None:
    result = unmix("train", "mine.toml", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "runs/mine/mine.safetensors\n"
    assert "learns from 2 tracks (song0, song1); measures on 1 track (song2)" in result.stderr
    assert "step 30/30: loss " in result.stderr
    assert "finished after step 30" in result.stderr
    added = unmix("models", "add", "runs/mine/mine.safetensors", "--config", "runs/mine/mine.json")
    assert added.exit_code == 0, added.stderr
    stems = toys.stems_of(99, RATE)
    soundfile.write(tmp_path / "new.wav", stems.sum(0).T, RATE, subtype="FLOAT")
    separated = unmix("new.wav", "-m", "mine", "--device", "cpu")
    assert separated.exit_code == 0, separated.stderr
    vocals, rate = soundfile.read(tmp_path / "separated/new/vocals.wav", dtype="float32")
    assert rate == RATE
    error = np.sum((vocals.T - stems[0]) ** 2)
    assert 10 * np.log10(np.sum(stems[0] ** 2) / error) > 10
    assert "plain SDR, median of 2 validation passages" in unmix("models", "info", "mine").stdout


def test_resume_and_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["train", "mine.toml", "--device", "cpu", "--steps", "4", "-q"]
    assert unmix(*short, "-o", "out").exit_code == 0
    again = unmix(*short, "-o", "out")
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert unmix(*short[:-2], "6", "-o", "out", "--resume").exit_code == 0
    assert checkpoints.load_checkpoint(tmp_path / "out" / checkpoints.FILE)["standing"]["step"] == 6
    assert unmix(*short, "-o", "out", "--overwrite").exit_code == 0
    assert checkpoints.load_checkpoint(tmp_path / "out" / checkpoints.FILE)["standing"]["step"] == 4
    assert unmix(*short, "--resume", "--overwrite").exit_code == 2
    # the folder says what the recipe was, wherever one stands
    monkeypatch.chdir(tmp_path / "songs")
    assert unmix("train", "../out", "--resume", "--steps", "7", "--device", "cpu").exit_code == 0
    assert checkpoints.load_checkpoint(tmp_path / "out" / checkpoints.FILE)["standing"]["step"] == 7
    monkeypatch.chdir(tmp_path)
    # in a folder without a run, --resume begins one
    assert unmix(*short, "-o", "fresh", "--resume").exit_code == 0


def test_a_session_that_waits_is_no_failure(tmp_path: Path) -> None:
    result = unmix("train", "mine.toml", "--device", "cpu", "--stop-after", "0.0001")
    assert result.exit_code == 0
    assert "stopped; --resume goes on" in result.stderr


def test_an_interrupted_run_says_so_by_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = run.Trainer.run

    def stopped(self: Any, **settings: Any) -> bool:
        self.stop_requested = True
        return begin(self, **settings)

    monkeypatch.setattr(run.Trainer, "run", stopped)
    assert unmix("train", "mine.toml", "--device", "cpu").exit_code == 130


def test_the_command_line_lies_over_the_recipe(tmp_path: Path) -> None:
    toys.songs(tmp_path / "more", 2)
    shown = unmix(
        "train", "mine.toml", "--show", "--seed", "5", "--minutes", "2", "--data", "more", "--validation", "songs",
        "--init", "w.safetensors", "--set", "training.batch_size=7", "--set", "model.config.hidden=4",
    )  # fmt: skip
    values = json.loads(shown.stdout)
    assert values["training"]["seed"] == 5
    assert values["training"]["minutes"] == 2.0
    assert values["training"]["batch_size"] == 7
    assert values["model"]["config"] == {"hidden": 4}
    assert values["model"]["init"] == "w.safetensors"
    assert (values["data"]["train"], values["data"]["validation"]) == (["more"], ["songs"])
    assert not (tmp_path / "runs").exists()


def test_init_goes_on_from_a_model_of_the_registry() -> None:
    short = ["train", "mine.toml", "--device", "cpu", "--steps", "2"]
    assert unmix(*short).exit_code == 0
    assert unmix("models", "add", "runs/mine/mine.safetensors", "--config", "runs/mine/mine.json").exit_code == 0
    reached = json.loads(Path("runs/mine/mine.json").read_text())["scores"][0]["values"]
    result = unmix(*short, "--init", "mine", "-o", "two")
    assert result.exit_code == 0, result.stderr
    began = result.stderr.partition("step 0: validation SDR ")[2]
    assert f"vocals {reached['vocals']:.2f}, other {reached['other']:.2f}" in began


def test_the_list_of_recipes() -> None:
    listed = unmix("train", "--list")
    assert listed.exit_code == 0
    assert "cc0_demo" in listed.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "which RECIPE?"),
        (["nothing"], "there is no recipe 'nothing'"),
        (["no.toml"], "can't be read"),
        (["mine.toml", "--set", "training.stepps=1"], "Did you mean 'steps'"),
        (["mine.toml", "--data", "empty"], "no tracks"),
        (["mine.toml", "--set", "data.hold_out=nobody"], "no track is called 'nobody'"),
        (["mine.toml", "--set", "model.architecture=repet_sim"], "can't be trained"),
        (["mine.toml", "--init", "nothing"], "no model"),
        (["mine.toml", "--device", "cuda:99"], "not available"),
        (["cc0_demo"], "--data FOLDER"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    result = unmix("train", *args)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "defect" not in result.stderr


# ---------------------------------------------------------------- data


def test_tracks_to_learn_from_and_to_measure_on(tmp_path: Path) -> None:
    songs = str(tmp_path / "songs")
    (tmp_path / "songs/song0/track.json").write_text('{"split": "validation"}')

    def names(**settings: Any) -> list[list[str]]:
        return [[track.name for track in found] for found in split_tracks(DataSection(train=(songs,), **settings))]

    assert names() == [["song1", "song2"], ["song0"]]
    assert names(hold_out=("song1",)) == [["song2"], ["song0", "song1"]]
    (tmp_path / "songs/song0/track.json").unlink()
    assert names() == [["song0", "song1", "song2"], []]
    assert names(hold_out_count=1) == [["song0", "song1"], ["song2"]]
    other = toys.songs(tmp_path / "other", 2)
    assert names(validation=(str(other),)) == [["song0", "song1", "song2"], ["song0", "song1"]]
    both = DataSection(train=(songs, str(other)), tracks={"other/song1": {"weight": 0}})
    assert [track.name for track in split_tracks(both)[0]] == [
        "songs/song0",
        "songs/song1",
        "songs/song2",
        "other/song0",
    ]
    with pytest.raises(InputError, match="left to learn from"):
        names(hold_out=("song0", "song1", "song2"))
    with pytest.raises(OptionError, match="nothing is given"):
        split_tracks(DataSection())


def test_passages_are_spread_evenly_and_true(tmp_path: Path) -> None:
    (track, *_), _ = split_tracks(DataSection(train=(str(tmp_path / "songs"),)))
    passages = cut_passages(track, toys.STEMS, RATE, 0.5, 2)
    assert [passage.name for passage in passages] == ["song0 at 0.4 s", "song0 at 1.1 s"]
    mixture, references = passages[1].read()
    stems = toys.stems_of(0, 2 * RATE)[..., 9000:13000]
    np.testing.assert_allclose(references["vocals"], stems[0], atol=2**-15)
    np.testing.assert_allclose(mixture, stems.sum(0), atol=2**-14)
    assert len(cut_passages(track, toys.STEMS, RATE, 0.5, 99)) == 4  # no more than fit
    (whole,) = cut_passages(track, toys.STEMS, RATE, 0.0, 1)
    assert whole.read()[0].shape == (2, 2 * RATE)
