"""Post-filters: norbert's own values, sums, scale of real data, and windows over a stream."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.errors import OptionError
from unmixcli.options import Options
from unmixcli.postfilters import POSTFILTERS, postfilter_function
from unmixcli.postfilters.logit import sharpened
from unmixcli.postfilters.spectra import analyse, frame_size, load_norbert, synthesise, with_residual
from unmixcli.postfilters.windowed import apply_windowed

RATE = 44100


@pytest.fixture
def estimates(music: NDArray[np.float32], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A mixture [2, T] and four noisy estimates [4, 2, T] of its parts: louder than full scale, as music gets."""
    mixture = 3 * torch.from_numpy(music[:, : RATE + 7])
    shares = torch.from_numpy(rng.dirichlet(np.ones(4), size=(2, 1)).T.astype(np.float32)).permute(0, 2, 1)
    noise = torch.from_numpy(rng.standard_normal((4, *mixture.shape)).astype(np.float32))
    return mixture, shares * mixture + 0.01 * noise


def level(signal: Tensor, reference: Tensor) -> float:
    """dB of a signal relative to another."""
    return float(10 * torch.log10(signal.square().sum() / reference.square().sum()))


def test_options_offer_what_there_is() -> None:
    for name in POSTFILTERS:
        assert Options(postfilter=name).postfilter == name  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="known are none, softmask"):
        postfilter_function("magic")


@pytest.mark.parametrize("name", [name for name in POSTFILTERS if name != "logit"])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_sources_sum_to_the_mixture(name: str, iterations: int, estimates: tuple[Tensor, Tensor]) -> None:
    mixture, given = estimates
    before = mixture.clone(), given.clone()
    filtered = postfilter_function(name)(mixture, given, sample_rate=RATE, iterations=iterations, residual=False)
    assert filtered.shape == given.shape
    assert filtered.dtype == torch.float32
    assert torch.equal(mixture, before[0])
    assert torch.equal(given, before[1])
    if name == "em" and iterations == 0:
        assert level(filtered - given, mixture) < -100
        return
    assert level(filtered - given, mixture) > -60  # it does something
    assert level(filtered.sum(dim=0) - mixture, mixture) < -90


@pytest.mark.parametrize("name", ["wiener", "em"])
def test_mono_in_two_channels(name: str, estimates: tuple[Tensor, Tensor]) -> None:
    """Covariances of equal channels are all but singular: the sum tells whether they were inverted well."""
    mixture, given = (signal[..., :1, :].expand_as(signal) for signal in estimates)
    filtered = postfilter_function(name)(mixture, given, sample_rate=RATE, iterations=2, residual=False)
    assert level(filtered.sum(dim=0) - mixture, mixture) < -80
    assert level(filtered[:, 0] - filtered[:, 1], mixture) < -80


def test_values_are_norberts(estimates: tuple[Tensor, Tensor]) -> None:
    """Through waves and back, what norbert gives for the same spectra; at the scale of real spectra (above 100)."""
    mixture, given = estimates
    norbert = load_norbert()
    x, y = analyse(mixture, given, RATE)
    assert np.abs(x).max() > 100
    expected = {
        "softmask": norbert.softmask(np.abs(y), x),
        "wiener": norbert.wiener(np.abs(y), x.copy(), iterations=1),
        "em": norbert.expectation_maximization(y / np.abs(x).max() * 10, x / np.abs(x).max() * 10, 1)[0]
        * np.abs(x).max()
        / 10,
    }
    for name, spectra in expected.items():
        filtered = postfilter_function(name)(mixture, given, sample_rate=RATE, iterations=1, residual=False)
        waves = synthesise(spectra, 4, RATE, mixture.shape[-1])
        assert level(filtered - waves, mixture) < -100


@pytest.mark.parametrize("name", ["wiener", "em"])
@pytest.mark.parametrize("gain", [1e-6, 1e3])
def test_loudness_does_not_matter(name: str, gain: float, estimates: tuple[Tensor, Tensor]) -> None:
    """norbert regularizes in absolute terms: without a common level a quiet song would be filtered otherwise."""
    function = postfilter_function(name)
    mixture, given = estimates
    normal = function(mixture, given, sample_rate=RATE, iterations=1, residual=False)
    scaled = function(gain * mixture, gain * given, sample_rate=RATE, iterations=1, residual=False)
    assert level(scaled / gain - normal, mixture) < -90


@pytest.mark.parametrize("name", POSTFILTERS)
def test_residual_takes_what_no_stem_explains(name: str, rng: np.random.Generator) -> None:
    """One good estimate of a tone, none of a louder noise beside it: without the residual the tone gets the noise."""
    t = torch.arange(2 * RATE) / RATE
    tone = (0.3 * torch.sin(2 * torch.pi * 441 * t)).expand(2, -1)
    noise = 0.2 * torch.from_numpy(rng.standard_normal((2, len(t))).astype(np.float32))
    given = torch.stack((tone, 0.001 * noise.flip(-1)))
    errors = []
    for residual in (False, True):
        filtered = postfilter_function(name)(tone + noise, given, sample_rate=RATE, iterations=1, residual=residual)
        assert filtered.shape == given.shape
        errors.append(level(filtered.sum(dim=0) - tone, tone))
    assert errors[1] < errors[0] - 4


def test_residual_model_subtracts_what_it_scales(rng: np.random.Generator) -> None:
    """norbert 0.2.1 subtracts the sources as given but returns them scaled: a model of half the level still fits."""
    x = rng.standard_normal((40, 9, 2)) + 1j * rng.standard_normal((40, 9, 2))
    magnitudes = np.abs(x)[..., None] * 0.5
    scaled, residual = np.split(with_residual(magnitudes, x), [1], axis=-1)
    np.testing.assert_allclose(scaled[..., 0], np.abs(x), rtol=1e-9)
    np.testing.assert_allclose(residual, 0, atol=1e-9)


@pytest.mark.parametrize("name", POSTFILTERS)
def test_one_stem_is_weighed_against_the_rest(name: str, estimates: tuple[Tensor, Tensor]) -> None:
    mixture, given = estimates
    one = given[:1]
    alone = postfilter_function(name)(mixture, one, sample_rate=RATE, iterations=1, residual=False)
    both = torch.cat((one, mixture[None] - one))
    pair = postfilter_function(name)(mixture, both, sample_rate=RATE, iterations=1, residual=False)
    assert alone.shape == one.shape
    assert torch.equal(alone, pair[:1])


@pytest.mark.parametrize("name", POSTFILTERS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("length", [1, 100, 5000])
def test_silence_and_short_windows(name: str, residual: bool, length: int) -> None:
    silence = torch.zeros(2, length)
    function = postfilter_function(name)
    for signal in (silence, silence + 0.5):
        for stems in (1, 3):
            given = signal.expand(stems, -1, -1) / 3
            filtered = function(signal, given, sample_rate=RATE, iterations=1, residual=residual)
            assert filtered.shape == given.shape
            assert torch.isfinite(filtered).all()
    assert function(silence, silence[None], sample_rate=RATE, iterations=1, residual=residual).abs().max() == 0


def test_norbert_comes_without_its_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_norbert().__name__ == "norbert"


@pytest.mark.parametrize(("rate", "size"), [(8000, 1024), (16000, 2048), (44100, 4096), (48000, 4096), (96000, 8192)])
def test_frames_last_as_long_at_every_rate(rate: int, size: int) -> None:
    assert frame_size(rate) == size


# ---------------------------------------------------------------- windows


def stream(mixture: Tensor, estimates: Tensor, cuts: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    edges = [0, *cuts, mixture.shape[-1]]
    for start, stop in itertools.pairwise(edges):
        yield mixture[..., start:stop], estimates[..., start:stop]


def joined(blocks: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    mixtures, estimates = zip(*blocks, strict=True)
    return torch.cat(mixtures, dim=-1), torch.cat(estimates, dim=-1)


def noise(groups: int, stems: int, length: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(length)
    return torch.randn(groups, 2, length, generator=draw), torch.randn(groups, stems, 2, length, generator=draw)


def halve(mixture: Tensor, estimates: Tensor, *, sample_rate: int, iterations: int, residual: bool) -> Tensor:
    """A post-filter whose result is plain to see."""
    return estimates / 2


SMALL = {"sample_rate": 8000, "window_seconds": 0.25}  # windows of 2000 samples, 1500 apart


@pytest.mark.parametrize("length", [1, 499, 500, 501, 1499, 1500, 1501, 1999, 2000, 2001, 6017])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_give_back_the_stream(length: int, overlap: float) -> None:
    mixture, given = noise(2, 3, length)
    same, halved = joined(apply_windowed(stream(mixture, given, []), halve, overlap=overlap, **SMALL))
    assert torch.equal(same, mixture)
    assert (halved - given / 2).abs().max() < 1e-6


def test_nothing_gives_nothing() -> None:
    assert sum(block.shape[-1] for block, _ in apply_windowed(iter([]), "wiener", **SMALL)) == 0
    empty = noise(1, 2, 0)
    assert sum(block.shape[-1] for block, _ in apply_windowed(iter([empty, empty]), "wiener", **SMALL)) == 0


@pytest.mark.parametrize("name", POSTFILTERS)
def test_cutting_the_stream_changes_no_bit(name: str) -> None:
    mixture, given = noise(2, 2, 6017)
    whole = joined(apply_windowed(stream(mixture, given, []), name, **SMALL))
    for cuts in ([1, 1, 2, 1999, 2000, 4001], list(range(313, 6017, 313)), [6016]):
        parts = joined(apply_windowed(stream(mixture, given, cuts), name, **SMALL))
        assert torch.equal(parts[0], mixture)
        assert torch.equal(parts[1], whole[1])


def test_a_filter_sees_each_group_alone() -> None:
    mixture, given = noise(3, 2, 3000)
    together = joined(apply_windowed(stream(mixture, given, []), "em", **SMALL))[1]
    for group in range(3):
        one = slice(group, group + 1)
        alone = joined(apply_windowed(stream(mixture[one], given[one], []), "em", **SMALL))[1]
        assert torch.equal(together[one], alone)


def test_filtered_windows_sum_to_the_mixture() -> None:
    mixture, given = noise(1, 3, 6017)
    filtered = joined(apply_windowed(stream(mixture, given, []), "wiener", **SMALL))[1]
    assert level(filtered.sum(dim=1) - mixture, mixture) < -90


def test_a_region_equals_that_part_of_the_whole() -> None:
    mixture, given = noise(1, 2, 12000)
    asked: list[tuple[int, int]] = []
    filtered_windows = 0

    def counted(*arguments: Tensor, sample_rate: int, iterations: int, residual: bool) -> Tensor:
        nonlocal filtered_windows
        filtered_windows += 1
        em = postfilter_function("em")
        return em(*arguments, sample_rate=sample_rate, iterations=iterations, residual=residual)

    def needed(start: int, stop: int) -> bool:
        asked.append((start, stop))
        return start < 6000 and stop > 5000

    whole = joined(apply_windowed(stream(mixture, given, []), "em", **SMALL))[1]
    part = joined(apply_windowed(stream(mixture, given, [7000]), counted, needed=needed, **SMALL))[1]
    assert torch.equal(part[..., 5000:6000], whole[..., 5000:6000])
    assert asked == [(start, min(start + 2000, 12000)) for start in range(0, 12000, 1500)]
    assert filtered_windows == 1  # [4500, 6500): its neighbours end at 5000 and start at 6000
    assert (part[..., :3000] - given[..., :3000]).abs().max() < 1e-6


def test_memory_is_one_window() -> None:
    """Only a window is read ahead of what is given back, however long the stream."""
    read = 0

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal read
        while True:
            read += 100
            yield torch.zeros(1, 2, 100), torch.zeros(1, 2, 2, 100)

    given = 0
    for mixture, _ in apply_windowed(endless(), halve, **SMALL):
        given += mixture.shape[-1]
        assert read - given <= 2000 + 1500 + 100
        if given > 20000:
            break


def test_options_reach_the_filter() -> None:
    seen: list[dict[str, object]] = []

    def watch(mixture: Tensor, estimates: Tensor, **options: object) -> Tensor:
        seen.append(options)
        return estimates

    joined(apply_windowed(stream(*noise(1, 2, 100), []), watch, iterations=3, residual=True, **SMALL))
    assert seen == [{"sample_rate": 8000, "iterations": 3, "residual": True}]


# ---------------------------------------------------------------- logit


def test_sharpened_masks() -> None:
    """1 / (1 + exp(-slope (M - threshold))), analytically, and between 0 and 1."""
    masks = np.array([0.0, 0.3, 0.5, 0.6, 1.0])
    expected = [1 / (1 + np.exp(9.0)), 1 / (1 + np.exp(4.5)), 1 / (1 + np.exp(1.5)), 0.5, 1 / (1 + np.exp(-6.0))]
    np.testing.assert_allclose(sharpened(masks), expected, rtol=1e-9)
    hard = sharpened(np.linspace(0, 1, 1001), 5000.0, 0.5)
    assert hard.min() >= 0
    assert hard.max() <= 1
    np.testing.assert_array_equal(hard[[0, 400, 600, 1000]].round(12), [0, 0, 1, 1])


def test_logit_masks_the_mixture(estimates: tuple[Tensor, Tensor]) -> None:
    """The masks of softmask.py through the function; they no longer add up to one."""
    mixture, given = estimates
    x, y = analyse(mixture, given, RATE)
    ratios = np.abs(y) / np.abs(y).sum(axis=-1, keepdims=True)
    expected = synthesise(x[..., None] / (1 + np.exp(-15 * (ratios - 0.6))), 4, RATE, mixture.shape[-1])
    filtered = postfilter_function("logit")(mixture, given, sample_rate=RATE, iterations=1, residual=False)
    assert level(filtered - expected, mixture) < -100
    assert level(filtered.sum(dim=0) - mixture, mixture) > -20


def test_logit_takes_the_other_stem_away() -> None:
    """An estimate that holds 30 % of another tone beside its own: that tone falls by more than 20 dB."""
    t = torch.arange(RATE) / RATE
    low, high = ((0.3 * torch.sin(2 * torch.pi * f * t)).expand(2, -1) for f in (441.0, 4410.0))
    given = torch.stack((0.7 * low + 0.3 * high, 0.3 * low + 0.7 * high))
    leaks = []
    for name in ("softmask", "logit"):
        filtered = postfilter_function(name)(low + high, given, sample_rate=RATE, iterations=1, residual=False)
        spectrum = torch.fft.rfft(filtered[0, 0]).abs()
        leaks.append(float(20 * torch.log10(spectrum[4410] / spectrum[441])))
    assert leaks[0] > -8
    assert leaks[1] < leaks[0] - 20


@pytest.mark.parametrize(("slope", "threshold"), [(0.0, 0.5), (-1.0, 0.5), (10.0, 1.5), (float("nan"), 0.5)])
def test_logit_settings_out_of_range(slope: float, threshold: float) -> None:
    with pytest.raises(OptionError, match="slope"):
        sharpened(np.zeros(1), slope, threshold)
