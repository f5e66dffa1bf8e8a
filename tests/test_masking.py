"""What the classical separators promise alike, and the parts they share."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray

from unmixcli.errors import CheckpointError
from unmixcli.models import architecture_class
from unmixcli.models.masking import MaskingMethod, Median, median_filter, ratio_mask
from unmixcli.spectrum import istft, stft

NAMES = ("repet_sim", "harmonic_percussive", "centre_extraction", "classical_stems", "repet", "ft2d", "rpca", "nmf",
         "spectral_subtraction")  # fmt: skip
# Settings that take less time than the defaults.
QUICK: dict[str, dict[str, float]] = {
    "rpca": {"n_fft": 512, "hop": 256, "iterations": 20},
    "nmf": {"n_fft": 1024, "hop": 512, "iterations": 10},
}


def build(name: str, *stems: str, **config: float) -> MaskingMethod:
    cls = architecture_class(name)
    assert issubclass(cls, MaskingMethod)
    return cls.from_config(config, stems or cls.all_stems)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> MaskingMethod:
    return build(request.param, **QUICK.get(request.param, {}))


def test_keeps_the_contract(model: MaskingMethod, music: NDArray[np.float32]) -> None:
    mixture = torch.from_numpy(music)[None]
    before = mixture.clone()
    estimates = model(mixture)
    assert estimates.shape == (1, len(model.stems), 2, mixture.shape[-1])
    assert estimates.dtype == torch.float32
    assert torch.equal(mixture, before)
    assert torch.equal(model(mixture), estimates)
    assert not model.has_weights
    assert not list(model.parameters())
    assert model.segment_length > 2 * model.edge


def test_stems_sum_to_the_mixture(model: MaskingMethod, music: NDArray[np.float32]) -> None:
    mixture = torch.from_numpy(music)[None]
    estimates = model(mixture)
    assert model.covers_mixture
    assert (estimates.sum(dim=1) - mixture).abs().max() < 1e-6
    assert all(estimates[:, index].abs().max() > 0.01 for index in range(estimates.shape[1]))


@pytest.mark.parametrize("length", [1, 2, 511, 1024, 1025, 5000])
def test_any_length(model: MaskingMethod, length: int, rng: np.random.Generator) -> None:
    mixture = torch.from_numpy(rng.standard_normal((1, 2, length)).astype(np.float32))
    estimates = model(mixture)
    assert estimates.shape == (1, len(model.stems), 2, length)
    assert (estimates.sum(dim=1) - mixture).abs().max() < 1e-5


def test_items_of_a_batch_are_independent(model: MaskingMethod, music: NDArray[np.float32]) -> None:
    first = torch.from_numpy(music[:, :30000])
    batch = torch.stack((first, 3 * first.flip(-1)))
    assert torch.equal(model(batch)[:1], model(batch[:1]))


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-8, 1e3])
def test_any_level(model: MaskingMethod, level: float, music: NDArray[np.float32]) -> None:
    """Silence gives silence, and a quiet or loud song the same stems as a normal one."""
    mixture = torch.from_numpy(music)[None, :, :44100]
    estimates = model(mixture * level)
    assert torch.isfinite(estimates).all()
    assert estimates.abs().max() <= 2 * level
    if level > 1e-20:  # below that float32 has no digits left
        assert (estimates / level - model(mixture)).abs().max() < 2e-3


def test_subset_of_stems_is_the_same_as_all(model: MaskingMethod, music: NDArray[np.float32]) -> None:
    mixture = torch.from_numpy(music)[None, :, :30000]
    estimates = model(mixture)
    for index, stem in enumerate(model.stems):
        alone = type(model).from_config(model.config, [stem])
        assert alone.stems == (stem,)
        assert not alone.covers_mixture
        assert torch.equal(alone(mixture)[:, 0], estimates[:, index])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"frames": 3}, "no setting 'frames'"),
        ({"hop": 2.5}, "hop is 2.5"),
        ({"hop": "big"}, "hop is 'big'"),
        ({"hop": True}, "hop is True"),
        ({"hop": -1}, "hop is -1"),
        ({"hop": 0}, "hop is 0"),
        ({"hop": 4000, "n_fft": 4096}, "hop is 4000"),
        ({"n_fft": float("nan")}, "n_fft is nan"),
        ({"segment_seconds": 1.0, "edge_seconds": 0.5}, "segment_seconds is 1.0"),
        ({"overlap": 1.0}, "overlap is 1.0"),
    ],
)
def test_bad_settings_are_refused(model: MaskingMethod, config: dict[str, float], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        type(model).from_config(config, model.stems)


def test_unknown_stem_is_refused(model: MaskingMethod) -> None:
    with pytest.raises(CheckpointError, match="kazoo"):
        type(model).from_config({}, ["kazoo"])


@pytest.mark.parametrize("count", [1, 3, 5, 17, 25, 31, 61])
def test_median_network(count: int) -> None:
    values = torch.randn(count, 7, 300, generator=torch.Generator().manual_seed(count))
    median = Median(count)
    for _ in range(2):  # the second call uses the planes the first one sorted
        median.planes(values[0]).copy_(values)
        assert torch.equal(median(), values.median(dim=0).values)


def test_median_of_an_even_number_is_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        Median(4)


@pytest.mark.parametrize("shape", [(2, 40, 300), (1, 1, 1), (2, 5, 3), (1, 700, 100)])
@pytest.mark.parametrize("size", [3, 17, 31])
def test_median_filter_is_scipys(shape: tuple[int, ...], size: int, rng: np.random.Generator) -> None:
    image = rng.standard_normal(shape).astype(np.float32)
    for dim, kernel in ((-1, (1, 1, size)), (-2, (1, size, 1))):
        expected = scipy.ndimage.median_filter(image, size=kernel, mode="reflect")
        np.testing.assert_array_equal(median_filter(torch.from_numpy(image), size, dim).numpy(), expected)


def test_ratio_masks_add_up() -> None:
    part, rest = torch.tensor([0.0, 1.0, 0.0, 1e-30, 3.0]), torch.tensor([0.0, 0.0, 2.0, 1e-30, 1.0])
    assert torch.allclose(ratio_mask(part, rest), torch.tensor([0.5, 1.0, 0.0, 0.5, 0.9]))
    assert torch.allclose(ratio_mask(part, rest) + ratio_mask(rest, part), torch.ones(5))


@pytest.mark.parametrize("length", [1, 2, 1023, 1024, 4097, 44101])
@pytest.mark.parametrize(("n_fft", "hop"), [(4096, 1024), (2048, 1024), (2048, 512)])
def test_spectrum_and_back(length: int, n_fft: int, hop: int, rng: np.random.Generator) -> None:
    signal = torch.from_numpy(rng.standard_normal((3, 2, length)).astype(np.float32))
    assert (istft(stft(signal, n_fft, hop), n_fft, hop, length) - signal).abs().max() < 1e-5


def test_frames_hang_on_sample_zero(rng: np.random.Generator) -> None:
    """Cut on a multiple of the hop, a signal has the frames of the whole."""
    signal = torch.from_numpy(rng.standard_normal((2, 20000)).astype(np.float32))
    whole, part = stft(signal, 2048, 512), stft(signal[:, 4096:], 2048, 512)
    assert torch.allclose(whole[..., 10:30], part[..., 2:22], atol=1e-4)
