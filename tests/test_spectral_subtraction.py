"""Spectral subtraction: steady noise goes, what comes and goes stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unmixcli.errors import CheckpointError
from unmixcli.models.spectral_subtraction import SpectralSubtraction, background

RATE = 44100


def test_noise_under_notes_is_taken_out(rng: np.random.Generator) -> None:
    t = np.arange(8 * RATE) / RATE
    notes = 0.3 * np.sin(2 * np.pi * 440 * t) * (np.sin(2 * np.pi * 1.5 * t) > 0)
    noise = 0.03 * rng.standard_normal((2, len(t)))
    clean = torch.from_numpy(np.stack([notes, notes]).astype(np.float32))
    hiss = torch.from_numpy(noise.astype(np.float32))
    estimates = SpectralSubtraction()((clean + hiss)[None])[0]
    before = hiss.square().sum()
    after = (estimates[0] - clean).square().sum()
    assert 10 * torch.log10(before / after) > 8
    assert 10 * torch.log10(hiss.square().sum() / (estimates[1] - hiss).square().sum()) > 6


def test_the_noise_is_measured_through_the_notes(rng: np.random.Generator) -> None:
    """Power with an exponential distribution of mean 4; a third of the frames is far louder."""
    power = torch.from_numpy(rng.exponential(4.0, (1, 200, 6000)))
    power[..., ::3] += 1e3
    # the quietest tenth is then among two thirds of the frames
    found = background(power, 0.1 * 2 / 3) * -np.log1p(-0.1 * 2 / 3) / -np.log1p(-0.1)
    assert float(found.mean()) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("config", [{"quantile": 0.0}, {"quantile": 1.0}, {"floor": 1.5}])
def test_settings_out_of_range(config: dict[str, float]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(config))):
        SpectralSubtraction(config)
