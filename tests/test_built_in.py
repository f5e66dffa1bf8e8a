"""The model that comes with the program: it is there, whole, small, and it separates real music."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from unmixcli import Separator
from unmixcli.cache import file_path, hash_file
from unmixcli.checkpoint import FALLBACK, load_model
from unmixcli.cli import cli
from unmixcli.registry import load_registry

ROOT = Path(__file__).parents[1]
STEMS = ("vocals", "drums", "bass", "other")
# What issue and model card promise.
LARGEST_MB = 12.0
LARGEST_GFLOP = 4.0


def test_the_weights_are_in_the_package_and_whole() -> None:
    entry = load_registry(user=False).get("builtin")
    assert entry.name == FALLBACK
    (file,) = entry.files
    path = file_path(entry, file)
    assert path.parent == ROOT / "unmixcli" / "weights"
    assert file.size == path.stat().st_size <= LARGEST_MB * 1e6
    assert hash_file(path) == file.sha256
    model = load_model(entry, offline=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters


def test_arithmetic_stays_within_the_budget() -> None:
    """Two operations for a multiplication with an addition, the segments' edges counted in."""
    model = load_model(load_registry(user=False).get(FALLBACK), offline=True)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 2, model.segment_length))
    used = (model.segment_length - 2 * model.edge) / model.sample_rate
    gflop = counter.get_total_flops() / 1e9 / used
    assert 0.5 < gflop <= LARGEST_GFLOP


def test_without_a_network_it_separates_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run of a new user: four stems that add up to the song, and the fallback is said."""
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNMIX_CONFIG", str(tmp_path / "config"))
    song = ROOT / "docs" / "demo" / "caesium.ogg"
    result = CliRunner().invoke(
        cli, [str(song), "--offline", "-o", str(tmp_path / "out"), "--bit-depth", "32f", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "built-in unmix_small" in result.output
    mixture = soundfile.read(song, dtype="float32")[0]
    stems = {stem: soundfile.read(tmp_path / "out" / "caesium" / f"{stem}.wav", dtype="float32")[0] for stem in STEMS}
    assert all(audio.shape == mixture.shape for audio in stems.values())
    residual = mixture - sum(stems.values())
    assert np.square(residual).mean() < 1e-10 * np.square(mixture).mean()
    levels = {stem: 10 * np.log10(np.square(audio).mean() / np.square(mixture).mean()) for stem, audio in stems.items()}
    assert all(-30 < levels[stem] < 0 for stem in ("vocals", "drums", "other")), levels


def test_mono_is_not_all_bass() -> None:
    """A recording without a side (a third of old music) is separated as one with it: most of it is not the bass."""
    mixture = soundfile.read(ROOT / "docs" / "demo" / "caesium.ogg", dtype="float32")[0].T
    mono = np.repeat(mixture.mean(axis=0, keepdims=True), 2, axis=0)
    stems = Separator(FALLBACK, offline=True).separate(mono, sample_rate=44100).stems
    energies = {stem: float(np.square(audio).sum()) for stem, audio in stems.items()}
    assert energies["bass"] < 0.5 * sum(energies.values())
    for audio in stems.values():
        np.testing.assert_allclose(audio[0], audio[1], atol=1e-5)


def test_it_beats_the_mixture_on_real_songs(shared_data: Path) -> None:
    """The floor of the model card, on two songs only: whole tables are made by docs/benchmarks/validation.py."""
    separator = Separator(FALLBACK, offline=True)
    gains: dict[str, list[float]] = {stem: [] for stem in STEMS}
    for name in ("britpop", "country1"):
        folder = shared_data / "validation" / name
        truth = {stem: soundfile.read(folder / f"{stem}.flac", dtype="float32")[0].T for stem in STEMS}
        mixture = sum(truth.values(), start=np.zeros_like(truth["vocals"]))
        found = separator.separate(mixture, sample_rate=44100).stems
        for stem in STEMS:
            signal = np.square(truth[stem]).sum()
            after = 10 * np.log10(signal / np.square(truth[stem] - found[stem]).sum())
            gains[stem].append(after - 10 * np.log10(signal / np.square(truth[stem] - mixture).sum()))
    assert all(min(values) > 4 for values in gains.values()), gains


def test_the_model_card_states_what_the_registry_states() -> None:
    text = (ROOT / "docs" / "models" / "unmix_small.md").read_text(encoding="utf-8")
    entry = load_registry(user=False).get(FALLBACK)
    (file,) = entry.files
    assert file.sha256 is not None
    assert file.sha256 in text, "the card describes other weights"
    assert f"{entry.parameters:,}" in text
    for score in entry.scores:
        assert all(f"{value:.2f}" in text for value in score.values.values())


def test_its_recipe_builds_the_network() -> None:
    from unmixcli.training.recipe import read_recipe

    entry = load_registry(user=False).get(FALLBACK)
    recipe = read_recipe(FALLBACK)
    assert recipe.model.architecture == entry.architecture
    assert json.loads(json.dumps(dict(recipe.model.config))) == dict(entry.config)
    assert recipe.model.stems == entry.stems
