"""PCA and ICA over channels: exact where their model holds, and whole where it can't."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.models.ica import ICA, fast_ica
from unmixcli.models.masking import ClassicalMethod
from unmixcli.models.pca import PCA, principal_axes

RATE = 16000


@pytest.fixture(scope="module")
def sources() -> NDArray[np.float32]:
    """Two voice-like signals that have nothing in common, [2, T]."""
    rng = np.random.default_rng(5)
    t = np.arange(6 * RATE) / RATE
    made = []
    for _ in range(2):
        pitch = np.repeat(rng.uniform(120, 400, 24), RATE // 4)
        loud = np.repeat(rng.random(24) ** 2, RATE // 4)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        made.append(loud * sum(np.sin(k * phase) / k for k in range(1, 6)) + 0.001 * rng.standard_normal(len(t)))
    return np.stack(made).astype(np.float32)


def best_sdr(images: Tensor, estimates: Tensor) -> list[float]:
    """SDR of each image, dB, with the estimates in the better order."""

    def sdr(order: tuple[int, int]) -> list[float]:
        return [
            float(10 * torch.log10(image.square().sum() / (estimates[n] - image).square().sum()))
            for image, n in zip(images, order, strict=True)
        ]

    return max(sdr((0, 1)), sdr((1, 0)), key=min)


def mixed(sources: NDArray[np.float32], matrix: list[list[float]]) -> Tensor:
    """The images of the two sources in the two channels, [2, 2, T]."""
    return torch.from_numpy(np.einsum("cs,st->sct", np.array(matrix, np.float32), sources))


@pytest.mark.parametrize("matrix", [[[1, 0.5], [0.6, 1]], [[0.9, 1], [1, 0.8]], [[1, 0.3], [-0.4, 1]]])
@pytest.mark.parametrize("swapped", [False, True])
def test_ica_undoes_an_instantaneous_mixture(
    matrix: list[list[float]], swapped: bool, sources: NDArray[np.float32]
) -> None:
    images = mixed(sources, matrix[::-1] if swapped else matrix)
    assert min(best_sdr(images, ICA()(images.sum(dim=0)[None])[0])) > 20


def test_ica_gives_the_left_source_first(sources: NDArray[np.float32]) -> None:
    images = mixed(sources, [[1, 0.2], [0.2, 1]])
    estimates = ICA()(images.sum(dim=0)[None])[0]
    assert estimates[0, 0].square().sum() > 10 * estimates[0, 1].square().sum()
    assert torch.allclose(ICA()(images.sum(dim=0).flip(0)[None])[0].flip(0, 1), estimates, atol=1e-4)


def test_ica_finds_scikit_learns_directions(sources: NDArray[np.float32]) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    mixture = np.einsum("cs,st->ct", np.array([[1, 0.5], [0.6, 1]]), sources.astype(np.float64))
    mixture -= mixture.mean(axis=1, keepdims=True)
    powers, vectors = principal_axes(torch.from_numpy(mixture))
    white = (vectors.T / powers.sqrt()[:, None]).numpy() @ mixture
    ours = fast_ica(torch.from_numpy(white), 500).numpy()
    theirs = decomposition.FastICA(whiten=False, tol=1e-10, max_iter=500, random_state=0).fit(white.T).components_
    # Rows in any order and sign: the products are a permutation. Both stop when a round turns less than about 1e-5.
    np.testing.assert_allclose(np.sort(np.abs(ours @ theirs.T), axis=None), [0, 0, 1, 1], atol=1e-4)


def test_pca_undoes_a_rotation_of_sources_of_unequal_power(sources: NDArray[np.float32]) -> None:
    level = np.sqrt((sources**2).mean(axis=1, keepdims=True))
    # Sources that are uncorrelated to the last digit, 8 dB apart.
    first, second = sources / level
    second = second - first * (first @ second) / (first @ first)
    images = mixed(np.stack([first, 10 ** (-8 / 20) * second]), [[0.8, -0.6], [0.6, 0.8]])
    estimates = PCA()(images.sum(dim=0)[None])[0]
    assert min(best_sdr(images, estimates)) > 20
    assert estimates[0].square().sum() > 5 * estimates[1].square().sum()


def test_pca_alone_does_not_separate_what_was_panned(sources: NDArray[np.float32]) -> None:
    """The help says so."""
    images = mixed(sources, [[1, 0.5], [0.6, 1]])
    assert min(best_sdr(images, PCA()(images.sum(dim=0)[None])[0])) < 5


def test_the_directions_are_those_of_the_covariance(music: NDArray[np.float32]) -> None:
    powers, vectors = principal_axes(torch.from_numpy(music))
    expected = np.linalg.eigh(music.astype(np.float64) @ music.T.astype(np.float64) / music.shape[1])
    # divided by the peak, which the powers are in the square of
    np.testing.assert_allclose(powers.numpy() * np.abs(music).max() ** 2, expected[0], rtol=1e-5)
    np.testing.assert_allclose(np.abs(vectors.numpy()), np.abs(expected[1]), atol=1e-6)


@pytest.mark.parametrize("model", [ICA(), PCA()], ids=["ica", "pca"])
class TestBoth:
    def test_stems_sum_to_the_mixture(self, model: ClassicalMethod, music: NDArray[np.float32]) -> None:
        mixture = torch.from_numpy(music)[None]
        estimates = model(mixture)
        assert model.covers_mixture
        assert (estimates.sum(dim=1) - mixture).abs().max() < 1e-6
        assert torch.equal(model(mixture), estimates)

    def test_mono_is_all_in_the_first(self, model: ClassicalMethod, music: NDArray[np.float32]) -> None:
        mono = torch.from_numpy(music[:1]).expand(2, -1)
        estimates = model(mono[None])[0]
        assert (estimates[0] - mono).abs().max() < 1e-6
        assert estimates[1].abs().max() < 1e-6

    @pytest.mark.parametrize("level", [0.0, 1e-20, 1e3])
    def test_any_level(self, model: ClassicalMethod, level: float, music: NDArray[np.float32]) -> None:
        mixture = torch.from_numpy(music)[None, :, :44100]
        assert (model(mixture * level) - level * model(mixture)).abs().max() <= 1e-4 * level
