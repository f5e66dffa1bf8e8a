"""REPET-SIM against a slow plain version of the paper, and what it is for: finding what does not repeat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unmixcli.models.repet_sim import RepetSim, bins_below, repeating_magnitude, similar_frames_of, voice_mask


def plain_similar_frames(spectrum: NDArray[np.float64], count: int, distance: int) -> list[list[int]]:
    """Rafii and Pardo 2012, section 2.2, one number after the other."""
    norm = np.linalg.norm(spectrum, axis=0)
    unit = spectrum / np.where(norm > 0, norm, 1)
    similarity = unit.T @ unit
    frames = spectrum.shape[1]
    result = []
    for frame in range(frames):
        row = similarity[frame]
        found = []
        for other in range(frames):
            near = range(max(0, other - distance + 1), min(frames, other + distance))
            if other == frame or (row[other] > 0 and all(row[other] >= row[i] for i in near)):
                found.append(other)
        found.sort(key=lambda other: (other != frame, -row[other]))
        result.append(found[:count])
    return result


def plain_repeating(magnitude: NDArray[np.float32], count: int, distance: int) -> NDArray[np.float32]:
    chosen = plain_similar_frames(magnitude.mean(axis=0, dtype=np.float64), count, distance)
    result = np.empty_like(magnitude)
    for frame, others in enumerate(chosen):
        ordered = np.sort(magnitude[:, :, others], axis=-1)
        result[:, :, frame] = np.minimum(ordered[:, :, (len(others) - 1) // 2], magnitude[:, :, frame])
    return result


@pytest.mark.parametrize(
    ("frames", "count", "distance"), [(120, 9, 5), (60, 31, 4), (30, 7, 40), (1, 5, 3), (700, 5, 90)]
)
def test_is_the_papers(frames: int, count: int, distance: int, rng: np.random.Generator) -> None:
    magnitude = rng.random((2, 33, frames)).astype(np.float32) ** 2
    found = repeating_magnitude(torch.from_numpy(magnitude), similar_frames=count, distance=distance)
    np.testing.assert_array_equal(found.numpy(), plain_repeating(magnitude, count, distance))


def test_an_even_number_of_frames_counts_as_one_less(rng: np.random.Generator) -> None:
    magnitude = torch.from_numpy(rng.random((1, 20, 200)).astype(np.float32))
    even, odd = (repeating_magnitude(magnitude, similar_frames=count, distance=3) for count in (8, 7))
    assert torch.equal(even, odd)


def test_a_frame_is_its_own_first_neighbour(rng: np.random.Generator) -> None:
    spectrum = torch.from_numpy(rng.random((20, 100)).astype(np.float32))
    spectrum[:, 50] = spectrum[:, 20]  # as similar as the frame itself
    chosen, valid = similar_frames_of(spectrum, 5, 10)
    assert torch.equal(chosen[:, 0], torch.arange(100))
    assert valid[:, 0].all()


def test_mask_is_a_mask(rng: np.random.Generator) -> None:
    magnitude = torch.from_numpy(rng.random((2, 40, 90)).astype(np.float32))
    magnitude[:, :, 30:40] = 0
    mask = voice_mask(magnitude, similar_frames=7, distance=4, low_bins=3)
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert mask[:, :3].abs().max() == 0
    assert mask[:, :, 30:40].abs().max() == 0


def test_bins_below() -> None:
    # bins of 2048 at 44.1 kHz lie 21.5 Hz apart: 0, 21.5, 43.1, 64.6, 86.1 | 107.7
    assert bins_below(100, 2048, 44100) == 5
    assert bins_below(0, 2048, 44100) == 0


def test_finds_the_voice_over_a_loop(rng: np.random.Generator) -> None:
    """A one-second loop of chords and noise, twenty times, and a voice that never sings the same twice."""
    sample_rate = 16000
    t = np.arange(sample_rate) / sample_rate
    notes = rng.choice([220.0, 277.2, 329.6, 440.0, 554.4], size=8)
    loop = np.concatenate([0.3 * np.sin(2 * np.pi * f * t[:2000]) for f in notes])
    loop += 0.05 * rng.standard_normal(sample_rate)
    accompaniment = np.tile(loop, 20)
    pitch = np.repeat(rng.uniform(300, 3000, 80), sample_rate // 4)
    voice = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate)
    voice[: 2 * sample_rate] = 0
    sources = torch.from_numpy(np.stack([voice, accompaniment]).astype(np.float32))[:, None].expand(-1, 2, -1)
    model = RepetSim.from_config({"sample_rate": sample_rate, "n_fft": 1024, "hop": 512}, ["vocals", "accompaniment"])
    estimates = model(sources.sum(dim=0)[None])[0]
    for source, estimate in zip(sources, estimates, strict=True):
        error = (estimate - source).square().sum()
        before = (sources.sum(dim=0) - source).square().sum()
        assert 10 * torch.log10(before / error) > 5  # dB better than the mixture
