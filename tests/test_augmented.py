"""Test-time augmentation: what it averages, and that everything else about a model stays."""

from __future__ import annotations

import json
from pathlib import Path

import cli_toys
import numpy as np
import pytest
import torch
from cli_toys import song
from click.testing import CliRunner
from numpy.typing import NDArray
from toys import Halves, Identity, Stream

from unmixcli.cli import cli
from unmixcli.models import architecture_class
from unmixcli.models.augmented import Augmented
from unmixcli.models.base import SeparationModel
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.registry import load_registry
from unmixcli.runner import Runner
from unmixcli.separator import Separator
from unmixcli.stems import plan_stems


class Uneven(SeparationModel):
    """Neither linear nor the same for both channels; counts its calls."""

    stems = ("vocals", "other")
    segment_length = 4000
    edge = 50
    fixed_segment = False
    overlap = 0.1
    has_weights = False
    calls = 0

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        left = mixture * torch.tensor([0.3, 0.9])[: mixture.shape[1], None]
        return torch.stack((left.square() + left, mixture.clamp_min(0)), dim=1)


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(3, 2, 500, generator=torch.Generator().manual_seed(0))


def test_the_average_by_hand(noise: torch.Tensor) -> None:
    model = Uneven().eval()
    kept = noise.clone()
    expected = (model(noise) + model(noise[:, [1, 0]])[:, :, [1, 0]] - model(-noise)) / 3
    found = Augmented(model)(noise)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(noise, kept), "the input was edited"
    assert not torch.allclose(found, model(noise), atol=0.01)


def test_an_equivariant_model_stays_as_it_is(noise: torch.Tensor) -> None:
    for model in (Identity(), Halves()):
        assert torch.allclose(Augmented(model)(noise), model(noise), atol=1e-6)


def test_only_passes_that_differ_are_computed(noise: torch.Tensor) -> None:
    model = Uneven()
    augmented = Augmented(model)
    same = noise[:, :1].expand(-1, 2, -1)
    expected = (model(same) + model(same).flip(2) - model(-same)) / 3
    model.calls = 0
    assert torch.allclose(augmented(same), expected, atol=1e-6)
    assert model.calls == 2
    model.calls = 0
    expected = (model(noise[:, :1]) - model(-noise[:, :1])) / 2
    model.calls = 0
    assert torch.allclose(augmented(noise[:, :1]), expected, atol=1e-6)
    assert model.calls == 2
    augmented(noise)
    assert model.calls == 5


@pytest.mark.parametrize("name", ["htdemucs", "harmonic_percussive", "tasnet_v2"])
def test_what_the_pipeline_asks_stays(name: str) -> None:
    entry = load_registry(user=False).get(name)
    with torch.device("meta"):
        model = architecture_class(entry.architecture).from_config(entry.config, entry.stems[:1]).eval()
    augmented = Augmented(model)
    for attribute in SeparationModel.__annotations__:
        assert getattr(augmented, attribute) == getattr(model, attribute), attribute
    for used in (1, 1000, model.segment_length - 2 * model.edge):
        assert augmented.context(used) == model.context(used)
    assert not augmented.training


def test_streamed_with_shifts(rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, 15000)).astype(np.float32)
    plan = plan_stems(Uneven.stems, covers_mixture=True, residual="ignore", all_for_free=True)

    def separate(model: SeparationModel, samples: NDArray, **fields: int) -> NDArray:
        runner = Runner(model, torch.device("cpu"))
        blocks = separate_blocks(Stream(samples, 44100), runner, plan, Options(residual="ignore", **fields))
        return np.stack(
            [np.concatenate(parts, axis=1) for parts in zip(*(block.values() for block in blocks), strict=True)]
        )

    for shifts in (0, 2):
        found = separate(Augmented(Uneven()), mixture, shifts=shifts)
        plain, negative = (separate(Uneven(), sign * mixture, shifts=shifts) for sign in (1, -1))
        swapped = separate(Uneven(), mixture[::-1], shifts=shifts)[:, ::-1]
        np.testing.assert_allclose(found, (plain + swapped - negative) / 3, atol=1e-5)


def test_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli_toys.register()
    monkeypatch.chdir(tmp_path)
    song(tmp_path / "a.wav")
    assert isinstance(Separator("toy", tta=True).runner.model, Augmented)
    assert not isinstance(Separator("toy").runner.model, Augmented)
    for options in ([], ["--tta", "--overwrite"]):
        done = CliRunner().invoke(cli, ["a.wav", "-m", "toy", "--offline", *options])
        assert done.exit_code == 0, done.output
    lines = map(json.loads, Path("separated/.unmix-done.jsonl").read_text().splitlines())
    assert [line["options"].get("tta") for line in lines if line["state"] == "settings"] == [None, True]
