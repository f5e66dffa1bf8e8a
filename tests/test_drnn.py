"""The networks of Huang et al. and their descendant with gates, and what all networks on magnitudes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch

from unmixcli.errors import CheckpointError
from unmixcli.models.drnn import DRNN, MASKS, VARIANTS
from unmixcli.models.gru_masks import GRUMasks
from unmixcli.models.magnitude_network import MagnitudeNetwork, joined_frames
from unmixcli.training.losses import Loss, Objective
from unmixcli.training.recipe import read_recipe
from unmixcli.training.run import build_network

STEMS = ("accompaniment", "vocals")
SMALL: dict[str, Any] = {"n_fft": 256, "hop": 128, "sample_rate": 8000, "hidden": 12}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("kind", "config", "count"),
    [
        (DRNN, {"variant": "dnn"}, 4_569_026),
        (DRNN, {}, 5_569_026),
        (DRNN, {"variant": "srnn"}, 7_569_026),
        (GRUMasks, {}, 1_643_010 + 3 * 3 * 256),  # torch's second bias of every gate
    ],
)
def test_published_sizes(kind: type[MagnitudeNetwork], config: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = kind.from_config(config, STEMS)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_the_recurrent_layer_is_the_papers() -> None:
    model = DRNN(SMALL | {"variant": "drnn2"}, STEMS)
    inputs, loop = noise(2, 5, 12), model.loops["2"]
    state = torch.zeros(2, 12)
    for frame, found in zip(inputs.unbind(1), model._walk(inputs, loop).unbind(1), strict=True):
        state = torch.relu(frame + state @ loop.weight.T)
        torch.testing.assert_close(found, state)
    assert list(model.loops) == ["2"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_a_recurrent_network_remembers(variant: str) -> None:
    model = DRNN(SMALL | {"variant": variant, "context": 1}, STEMS)
    frames = noise(1, 8, 129).abs()
    changed = frames.clone()
    changed[:, 0] = 0
    moved = (model.masks(frames) - model.masks(changed))[:, 4:].abs().max()
    assert (moved > 0) == (variant != "dnn")


def test_neighbours_are_joined_and_ends_repeated() -> None:
    frames = torch.arange(4.0)[None, :, None]
    assert joined_frames(frames, 1)[0].tolist() == [[0], [1], [2], [3]]
    assert joined_frames(frames, 3)[0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_masks_add_to_one() -> None:
    outputs = noise(2, 5, 2, 9)
    outputs[0, 0] = 0  # nothing is known of these bins: shared out evenly
    for name in ("abs", "square"):
        masks = MASKS[name](outputs)
        torch.testing.assert_close(masks.sum(2), torch.ones(2, 5, 9))
        assert masks.min() >= 0
        assert (masks[0, 0] == 0.5).all()
    soft = MASKS["soft"](outputs.abs())
    torch.testing.assert_close(soft[1], MASKS["abs"](outputs)[1])
    torch.testing.assert_close(MASKS["square"](outputs)[1], MASKS["abs"](outputs.square())[1])


@pytest.mark.parametrize("kind", [DRNN, GRUMasks])
def test_estimates_add_to_the_mixture(kind: type[MagnitudeNetwork]) -> None:
    mixture = 0.1 * noise(2, 1, 5001)
    estimates = kind.from_config(SMALL, STEMS).eval()(mixture)
    residual = (estimates.sum(1) - mixture).square().mean() / mixture.square().mean()
    assert 10 * torch.log10(residual) < -100


def test_spectra_are_those_of_scipy() -> None:
    model = DRNN(SMALL | {"window": "hamming"}, STEMS)
    wave = noise(1, 1024)
    found = model.training_spectra(wave)[0] * model.window.square().sum().sqrt() / model.window.sum()
    _, _, theirs = scipy.signal.stft(wave[0].numpy(), window="hamming", nperseg=256, noverlap=128)
    np.testing.assert_allclose(found.numpy(), theirs, atol=1e-6)
    sine = DRNN(SMALL, STEMS).window
    torch.testing.assert_close(sine, torch.sin(torch.pi * torch.arange(256) / 256))


def test_training_sees_the_level_that_the_pipeline_gives() -> None:
    model = DRNN(SMALL, STEMS)
    torch.nn.init.normal_(model.layers[0].bias)  # zero at first: then the level makes no difference
    wave = noise(1, 1, 4000)
    wave = wave / wave.std(correction=0)
    evened = model.eval()(wave)
    louder = model.train()(0.01 * wave)
    torch.testing.assert_close(louder / 0.01, evened, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.eval()(0.01 * wave) / 0.01, evened, atol=1e-3)


@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize("context", [1, 3, 5])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_takes_a_step(variant: str, context: int, kind: str) -> None:
    mask = list(MASKS)[context // 2]
    torch.manual_seed(1)
    model = DRNN(SMALL | {"variant": variant, "context": context, "mask": mask}, STEMS).train()
    objective = Objective((Loss(kind, "magnitude", discriminative=0.05),))
    references = 0.1 * noise(2, 2, 1, 4000)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        outputs = model.training_outputs(references.sum(1), objective.wanted)
        loss, _ = objective(outputs, references, None, model)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    if mask != "soft":  # its masks have poles
        assert losses[-1] < losses[0]


def test_the_discriminative_loss_is_a_regression_on_a_sharper_target() -> None:
    """D(y1, s1) - g D(y1, s2) for squares has its gradient towards (s1 - g s2) / (1 - g)."""
    gamma, s = 0.2, noise(1, 2, 1, 50)
    y = noise(1, 2, 1, 50).neg().requires_grad_()
    from unmixcli.training.losses import discriminative, mse

    (found,) = torch.autograd.grad(discriminative(mse, y, s, gamma).sum(), y)
    target = (s - gamma * s.flip(1)) / (1 - gamma)
    (expected,) = torch.autograd.grad((1 - gamma) * mse(y, target).sum(), y)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"variant": "drnn4"}, "variant is 'drnn4', expected dnn"),
        ({"context": 2}, "context is 2"),
        ({"mask": "binary"}, "mask is 'binary'"),
        ({"hidden": 0}, "hidden is 0"),
        ({"hop": 1000}, "hop is 1000"),
        ({"window": "kaiser"}, "window is 'kaiser'"),
        ({"width": 3}, "has no width"),
        ({"n_fft": 1023}, "n_fft is 1023"),
    ],
)
def test_settings_that_cannot_be(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        DRNN(config, STEMS)


def test_stems_it_does_not_give() -> None:
    with pytest.raises(CheckpointError, match="drums"):
        DRNN(SMALL, ("drums",))
    one = DRNN(SMALL, ("vocals",))
    both = DRNN(SMALL, STEMS)
    both.load_state_dict(one.state_dict())
    mixture = noise(1, 1, 3000)
    torch.testing.assert_close(one.eval()(mixture)[:, 0], both.eval()(mixture)[:, 1])
    assert both.covers_mixture
    assert not one.covers_mixture


@pytest.mark.parametrize(
    ("name", "count"),
    [("drnn2", 5_569_026), ("gru_masks", 1_645_314)],
)
def test_recipes_build_the_published_networks(name: str, count: int) -> None:
    recipe = read_recipe(name)
    with torch.device("meta"):
        model = build_network(recipe.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.stems == STEMS
