"""Harmonic-percussive separation against librosa, and on sounds that are plainly one or the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unmixcli.models.harmonic_percussive import HarmonicPercussive, percussive_mask
from unmixcli.spectrum import stft


@pytest.mark.parametrize(("frames", "bins", "power"), [(31, 31, 2.0), (17, 11, 1.0)])
def test_mask_is_librosas(music: NDArray[np.float32], frames: int, bins: int, power: float) -> None:
    """Our mask against `librosa.decompose.hpss`: the same medians, so only rounding of the powers is left."""
    from librosa.decompose import hpss

    magnitude = stft(torch.from_numpy(music[:, :50000]), 2048, 512).abs()
    ours = percussive_mask(magnitude, time_frames=frames, frequency_bins=bins, power=power)
    harmonic, percussive = hpss(magnitude.numpy(), kernel_size=(frames, bins), power=power, mask=True)
    np.testing.assert_allclose(ours.numpy(), percussive, atol=1e-5)
    np.testing.assert_allclose(1 - ours.numpy(), harmonic, atol=1e-5)


def test_clicks_are_drums_and_tones_are_the_rest() -> None:
    t = torch.arange(3 * 44100) / 44100
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * t)
    clicks = torch.zeros_like(t)
    clicks[5000::22050] = 1.0
    drums, rest = HarmonicPercussive()((tone + clicks).expand(1, 2, -1))[0]
    inside = slice(4096, -4096)  # the tone's own start and end are clicks
    assert (drums - clicks)[..., inside].square().sum() < 0.05 * clicks.square().sum()
    assert (rest - tone)[..., inside].square().sum() < 0.05 * tone.square().sum()


def test_segments_see_enough(music: NDArray[np.float32]) -> None:
    """Between its edges a segment gives what the whole signal gives."""
    model = HarmonicPercussive()
    whole = torch.from_numpy(np.tile(music, 2))[None]
    start = 40 * model.hop
    part = model(whole[..., start : start + 2 * model.edge + 44100])
    middle = slice(model.edge, -model.edge)
    difference = part[..., middle] - model(whole)[..., start : start + part.shape[-1]][..., middle]
    assert difference.abs().max() < 1e-4
