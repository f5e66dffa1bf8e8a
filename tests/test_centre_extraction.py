"""Centre extraction: closed forms."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from unmixcli.models.centre_extraction import CentreExtraction, centre_mask


def test_equal_channels_are_all_centre(music: NDArray[np.float32]) -> None:
    mixture = torch.from_numpy(music[:1]).expand(1, 2, -1)
    centre, sides = CentreExtraction()(mixture)[0]
    assert (centre - mixture[0]).abs().max() < 1e-6
    assert sides.abs().max() < 1e-6


def test_opposite_channels_are_all_sides(music: NDArray[np.float32]) -> None:
    one = torch.from_numpy(music[0])
    mixture = torch.stack((one, -one))[None]
    centre, sides = CentreExtraction()(mixture)[0]
    assert centre.abs().max() == 0
    assert torch.equal(sides, mixture[0])


def test_one_side_only_is_all_sides(music: NDArray[np.float32]) -> None:
    one = torch.from_numpy(music[0])
    centre, _ = CentreExtraction()(torch.stack((one, torch.zeros_like(one)))[None])[0]
    assert centre.abs().max() < 1e-4


def test_one_channel_is_all_centre(music: NDArray[np.float32]) -> None:
    mixture = torch.from_numpy(music[None, :1])
    assert (CentreExtraction()(mixture)[:, 0] - mixture).abs().max() < 1e-6


def test_centre_is_the_same_in_both_channels(music: NDArray[np.float32]) -> None:
    centre = CentreExtraction()(torch.from_numpy(music)[None])[0, 0]
    assert torch.equal(centre[0], centre[1])


def test_mask_leaves_uncorrelated_sides(rng: np.random.Generator) -> None:
    """The property the formula is derived from: what is left of the two channels is uncorrelated, bin by bin."""
    noise = rng.standard_normal((3, 2, 30, 40))
    common, left, right = torch.from_numpy(noise[:, 0] + 1j * noise[:, 1])
    spectrum = torch.stack((3 * common + left, 3 * common + right))
    mask = centre_mask(spectrum)
    centre = spectrum.mean(dim=0) * mask[0]
    product = ((spectrum[0] - centre) * (spectrum[1] - centre).conj()).real
    inside = mask[0] > 0
    assert inside.sum() > 100
    assert product[inside].abs().max() < 1e-9


def test_tones_by_place() -> None:
    """A centred and a hard-left tone at different frequencies come apart completely."""
    t = torch.arange(2 * 44100) / 44100
    middle, left = 0.3 * torch.sin(2 * torch.pi * 1000 * t), 0.3 * torch.sin(2 * torch.pi * 3000 * t)
    centre, sides = CentreExtraction()(torch.stack((middle + left, middle))[None])[0]
    inside = slice(8192, -8192)
    assert (centre - middle)[:, inside].abs().max() < 2e-3
    assert (sides[0] - left)[inside].abs().max() < 2e-3
    assert sides[1][inside].abs().max() < 2e-3
