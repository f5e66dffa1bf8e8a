"""Networks of cross products."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unmixcli.errors import CheckpointError
from unmixcli.models.vpnn import COLOUR_STEP, VPNN, VectorProduct, from_colour, to_colour
from unmixcli.training.recipe import read_recipe
from unmixcli.training.run import build_network

STEMS = ("accompaniment", "vocals")
SMALL: dict[str, Any] = {"n_fft": 256, "hop": 64, "sample_rate": 8000, "hidden": 16}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("vector", ["colour", "window"])
def test_published_size(vector: str) -> None:
    with torch.device("meta"):
        model = VPNN({"vector": vector}, STEMS)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_944_454


def test_a_layer_is_a_sum_of_cross_products() -> None:
    layer = VectorProduct(7, 4).double()
    torch.nn.init.normal_(layer.bias)
    x = noise(2, 3, 7)
    w = layer.weight.movedim(0, -1)  # [outputs, inputs, 3]
    a = x.movedim(1, -1)  # [batch, inputs, 3]
    products = torch.linalg.cross(w[None].expand(2, -1, -1, -1), a[:, None].expand(-1, 4, -1, -1))
    expected = (products.sum(2) + layer.bias.T).movedim(-1, 1)
    torch.testing.assert_close(layer(x), expected, atol=1e-9, rtol=0)


def test_a_rotation_of_inputs_and_weights_rotates_the_result() -> None:
    rotation, _ = torch.linalg.qr(noise(3, 3))
    rotation = rotation * torch.linalg.det(rotation)
    layer = VectorProduct(7, 4).double()
    x = noise(2, 3, 7)
    before = layer(x).detach()
    layer.weight.data = torch.einsum("ij,joc->ioc", rotation, layer.weight.data)
    torch.testing.assert_close(layer(torch.einsum("ij,bjc->bic", rotation, x)), rotation @ before)


def test_colours_and_back() -> None:
    x = torch.linspace(0, 1, 1001)
    colours = to_colour(x)
    assert colours.min() == 0
    assert colours.max() == 1
    torch.testing.assert_close(from_colour(colours), x, atol=1e-6, rtol=0)
    full = to_colour(torch.tensor([COLOUR_STEP, 2 * COLOUR_STEP, 1.0]))
    torch.testing.assert_close(full, torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1]]), atol=1e-6, rtol=0)


def test_a_window_is_the_frame_before_this_and_the_next() -> None:
    """A change of frame 4 is seen in frames 3, 4 and 5 and nowhere else, and differently in each of them."""
    model = VPNN(SMALL | {"vector": "window"}, STEMS)
    frames = noise(1, 9, 129).abs().float() / 5
    changed = frames.clone()
    changed[:, 4] = 0
    moved = (model.masks(frames) - model.masks(changed)).abs().amax((0, 2, 3))
    assert [bool(value > 0) for value in moved] == [False] * 3 + [True] * 3 + [False] * 3
    alone = torch.zeros(1, 9, 129)
    alone[:, 4] = frames[:, 4]
    masks = model.masks(alone)[0]
    assert not torch.allclose(masks[3], masks[5], atol=1e-6)


@pytest.mark.parametrize("vector", ["colour", "window"])
def test_estimates_add_to_the_mixture_and_follow_its_level(vector: str) -> None:
    model = VPNN(SMALL | {"vector": vector}, STEMS)
    mixture = 0.1 * noise(2, 1, 5001).float()
    level = model.level(mixture)
    assert (model.training_spectra(mixture).abs().amax((1, 2, 3)) == level).all()
    estimates = model.eval()(mixture / level[:, None, None])
    torch.testing.assert_close(estimates.sum(1), mixture / level[:, None, None], atol=1e-6, rtol=0)
    torch.testing.assert_close(model.train()(mixture) / level[:, None, None, None], estimates, atol=1e-6, rtol=0)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(CheckpointError, match="vector is 'color', expected colour, window"):
        VPNN({"vector": "color"}, STEMS)
    with pytest.raises(CheckpointError, match="activation is 'tanh'"):
        VPNN({"activation": "tanh"}, STEMS)


@pytest.mark.parametrize("name", ["cvpnn", "wvpnn"])
def test_recipes_build_the_published_networks(name: str) -> None:
    recipe = read_recipe(name)
    with torch.device("meta"):
        model = build_network(recipe.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_944_454
    assert recipe.model.config["vector"] == {"c": "colour", "w": "window"}[name[0]]
