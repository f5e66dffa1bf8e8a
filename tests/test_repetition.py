"""REPET, 2DFT and RPCA against slow plain versions of their papers, and what they are for: a voice over a loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.models.ft2d import FT2D, voice_bins
from unmixcli.models.masking import MaskingMethod
from unmixcli.models.repet import Repet, beat_spectrum, repeating_at, repeating_period
from unmixcli.models.rpca import RPCA, low_rank_and_sparse

RATE = 16000
SMALL = {"sample_rate": RATE, "n_fft": 1024, "hop": 512}


@pytest.fixture(scope="module")
def song() -> Tensor:
    """A loop of 1.024 s (32 frames) twenty times, and a voice that never sings the same twice: [2, 2, T]."""
    rng = np.random.default_rng(3)
    length = 32 * 512
    t = np.arange(length) / RATE
    notes = rng.choice([220.0, 277.2, 329.6, 440.0, 554.4], size=8)
    loop = np.concatenate([0.3 * np.sin(2 * np.pi * f * t[: length // 8]) for f in notes])
    loop += 0.05 * rng.standard_normal(length)
    accompaniment = np.tile(loop, 20)
    pitch = np.repeat(rng.uniform(300, 3000, 80), length // 4)
    voice = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    voice[: 2 * RATE] = 0
    return torch.from_numpy(np.stack([voice, accompaniment]).astype(np.float32))[:, None].expand(-1, 2, -1)


def gain_db(model: MaskingMethod, song: Tensor) -> list[float]:
    """How much better than the mixture each stem is."""
    mixture = song.sum(dim=0)
    estimates = model(mixture[None])[0]
    return [
        float(10 * torch.log10((mixture - source).square().sum() / (estimate - source).square().sum()))
        for source, estimate in zip(song, estimates, strict=True)
    ]


@pytest.mark.parametrize(
    ("model", "least"), [(Repet(SMALL), 8.0), (FT2D(SMALL), 5.0), (RPCA(SMALL), 4.0)], ids=["repet", "ft2d", "rpca"]
)
def test_finds_the_voice_over_a_loop(model: MaskingMethod, least: float, song: Tensor) -> None:
    assert min(gain_db(model, song)) > least


# ---------------------------------------------------------------- REPET


def plain_beat_spectrum(magnitude: NDArray[np.float64]) -> NDArray[np.float64]:
    power = (magnitude**2).mean(axis=0)
    frames = power.shape[1]
    beat = np.array([np.mean(power[:, : frames - lag] * power[:, lag:]) for lag in range(frames)])
    return beat / beat[0]


def test_beat_spectrum_is_the_papers(rng: np.random.Generator) -> None:
    magnitude = rng.random((2, 300, 70))
    found = beat_spectrum(torch.from_numpy(magnitude.astype(np.float32)))
    np.testing.assert_allclose(found.numpy(), plain_beat_spectrum(magnitude), rtol=1e-4)  # FFT in single precision


def test_period_of_a_loop() -> None:
    magnitude = torch.rand(1, 40, 13, generator=torch.Generator().manual_seed(0)).repeat(1, 1, 9)
    assert repeating_period(beat_spectrum(magnitude), least=4, most=38) in (13, 26)
    assert repeating_period(beat_spectrum(magnitude), least=4, most=20) == 13


@pytest.mark.parametrize("frames", [0, 5, 30])
def test_a_piece_without_three_periods_has_the_least_one(frames: int) -> None:
    assert repeating_period(torch.ones(frames), least=10, most=100) == 10


@pytest.mark.parametrize(("frames", "period"), [(50, 7), (21, 7), (5, 7), (1, 3)])
def test_median_over_periods_is_the_papers(frames: int, period: int, rng: np.random.Generator) -> None:
    magnitude = rng.random((2, 11, frames)).astype(np.float32)
    expected = np.empty_like(magnitude)
    for frame in range(frames):
        model = np.median(magnitude[..., frame % period :: period], axis=-1)
        expected[..., frame] = np.minimum(model, magnitude[..., frame])
    np.testing.assert_allclose(repeating_at(torch.from_numpy(magnitude), period).numpy(), expected, rtol=1e-6)


# ---------------------------------------------------------------- 2DFT


def plain_voice_bins(magnitude: NDArray[np.float64], neighbours: int) -> NDArray[np.bool_]:
    """With the full transform and SciPy's filters, as nussl's FT2D does it."""
    transform = np.fft.fft2(magnitude)
    picture = np.abs(np.fft.fftshift(transform))
    highest = scipy.ndimage.maximum_filter(picture, (1, neighbours))
    lowest = scipy.ndimage.minimum_filter(picture, (1, neighbours))
    peaks = np.fft.ifftshift((picture == highest) & (highest - lowest > picture.std()))
    repeating, rest = (np.abs(np.fft.ifft2(transform * kept)) for kept in (peaks, ~peaks))
    return rest > repeating


@pytest.mark.parametrize("shape", [(65, 120), (64, 121)])
def test_peaks_are_the_papers(shape: tuple[int, int], rng: np.random.Generator) -> None:
    loop = np.tile(rng.random((shape[0], 15)), 9)[:, : shape[1]]
    magnitude = loop + 4 * rng.random(shape) ** 6
    found = voice_bins(torch.from_numpy(magnitude), 25).numpy()
    expected = plain_voice_bins(magnitude, 25)
    # The full transform of a real picture is its own mirror image only up to rounding: there a peak may be lost.
    assert (found != expected).mean() < 0.01
    assert 0.05 < expected.mean() < 0.95


# ---------------------------------------------------------------- RPCA


def plain_rpca(matrix: NDArray[np.float64], rounds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lin, Chen and Ma, algorithm 5, with singular value decompositions."""
    weight = 1 / np.sqrt(max(matrix.shape))
    spectral = np.linalg.svd(matrix, compute_uv=False)[0]
    y = matrix / max(spectral, np.abs(matrix).max() / weight)
    mu, low, sparse = 1.25 / spectral, np.zeros_like(matrix), np.zeros_like(matrix)
    for _ in range(rounds):
        u, s, v = np.linalg.svd(matrix - sparse + y / mu, full_matrices=False)
        low = (u * np.maximum(s - 1 / mu, 0)) @ v
        rest = matrix - low + y / mu
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / mu, 0)
        y = y + mu * (matrix - low - sparse)
        mu *= 1.5
    return low, sparse


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_is_the_published_algorithm(shape: tuple[int, int], rng: np.random.Generator) -> None:
    matrix = rng.random((shape[0], 3)) @ rng.random((3, shape[1])) + (rng.random(shape) > 0.95)
    for found, expected in zip(
        low_rank_and_sparse(torch.from_numpy(matrix), iterations=15, tolerance=0), plain_rpca(matrix, 15), strict=True
    ):
        # squares of singular values instead of the values themselves: half of double precision's digits are left
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-7)


def test_low_rank_and_sparse_parts_are_found(rng: np.random.Generator) -> None:
    """What the theory promises (Candès et al., 2011): both parts exactly."""
    low = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 90))
    sparse = np.where(rng.random((60, 90)) > 0.95, 5 * rng.standard_normal((60, 90)), 0)
    found = low_rank_and_sparse(torch.from_numpy(low + sparse))
    np.testing.assert_allclose(found[0].numpy(), low, atol=1e-4)
    np.testing.assert_allclose(found[1].numpy(), sparse, atol=1e-4)


def test_silence_has_neither() -> None:
    low, sparse = low_rank_and_sparse(torch.zeros(4, 5, dtype=torch.float64))
    assert not low.any()
    assert not sparse.any()
