"""The river's promises: identity, exact length, independence of blocks, regions, sums, channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from toys import Halves, Identity, Stream

from unmixcli.errors import InputError, OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.options import Options
from unmixcli.pipeline import Report, model_grid, separate_blocks
from unmixcli.runner import Runner
from unmixcli.stems import plan_stems

L = Identity.segment_length


def separate(
    model: SeparationModel, source: Stream, report: Report | None = None, **fields: object
) -> dict[str, NDArray]:
    options = Options(**fields)  # type: ignore[arg-type]
    plan = plan_stems(
        model.stems,
        covers_mixture=model.covers_mixture,
        residual=options.residual,
        stems=options.stems,
        all_for_free=True,
    )
    runner = Runner(model, torch.device("cpu"), batch_size=options.batch_size)
    blocks = list(separate_blocks(source, runner, plan, options, report=report))
    empty = np.zeros((source.channels, 0), np.float32)
    return {name: np.concatenate([empty, *(block[name] for block in blocks)], axis=1) for name in plan.names}


@pytest.mark.parametrize("sample_rate", [8000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_identity_model_gives_the_mixture(sample_rate: int, channels: int, rng: np.random.Generator) -> None:
    for length in (0, 1, L - 1, L, L + 1, 3 * L + 17):
        mixture = (0.3 * rng.standard_normal((channels, length))).astype(np.float32)
        for blocks in ((1009,), (1, 700, 13)):
            result = separate(Identity(), Stream(mixture, sample_rate, blocks))["all"]
            assert result.shape == mixture.shape
            np.testing.assert_allclose(result, mixture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_identity_without_residual_at_the_model_s_rate(channels: int, rng: np.random.Generator) -> None:
    for length in (1, L - 1, L, L + 1, 3 * L + 17):
        mixture = (0.3 * rng.standard_normal((channels, length))).astype(np.float32)
        result = separate(Identity(), Stream(mixture, 44100), residual="ignore")["all"]
        np.testing.assert_allclose(result, mixture, atol=1e-6, rtol=0)


def test_there_and_back_at_another_rate_keeps_what_lies_below_both_limits() -> None:
    rate = 48000
    t = np.arange(rate) / rate
    mixture = np.sin(2 * np.pi * 1000 * t).astype(np.float32)[None]
    result = separate(Identity(), Stream(mixture, rate), residual="ignore")["all"]
    error = (result - mixture)[:, 2000:-2000]
    # VHQ resampling twice: better than 100 dB in the passband
    assert 10 * np.log10((mixture**2).mean() / (error**2).mean()) > 100


@pytest.mark.parametrize("sample_rate", [44100, 48000])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_result_does_not_depend_on_the_cut_into_blocks(
    sample_rate: int, batch_size: int, rng: np.random.Generator
) -> None:
    mixture = rng.standard_normal((2, 33333)).astype(np.float32)
    results = [
        separate(Halves(), Stream(mixture, sample_rate, blocks), batch_size=batch_size)
        for blocks in ((33333,), (1, 4096, 777), (65536,))
    ]
    for other in results[1:]:
        assert all(np.array_equal(results[0][name], other[name]) for name in results[0])


def test_a_model_s_context_is_real_so_that_no_seam_is_left(rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, 30000)).astype(np.float32)
    model = Halves()
    whole = model(torch.from_numpy(mixture)[None])[0, 0].numpy()
    result = separate(model, Stream(mixture, 44100), residual="ignore")["vocals"]
    middle = slice(model.edge, -model.edge)  # at the ends: mirrored here, zeros there
    np.testing.assert_allclose(result[:, middle], whole[:, middle], atol=1e-6, rtol=0)


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_stems_sum_to_the_mixture_and_the_residual_is_reported(sample_rate: int, music: NDArray) -> None:
    report = Report()
    result = separate(Halves(), Stream(music, sample_rate), report)
    error = sum(result.values()) - music
    assert 20 * np.log10(np.abs(error).max()) < -90
    # Halves leaves a fifth of the mixture over
    assert report.residual_db == pytest.approx(20 * np.log10(0.2), abs=0.1)


@pytest.mark.parametrize("sample_rate", [44100, 48000])
@pytest.mark.parametrize("postfilter", ["none", "wiener"])
@pytest.mark.parametrize("shifts", [0, 2])
def test_a_region_equals_the_same_part_of_the_full_run(
    sample_rate: int, postfilter: str, shifts: int, rng: np.random.Generator
) -> None:
    mixture = (0.1 * rng.standard_normal((2, 3 * sample_rate))).astype(np.float32)
    fields = {"postfilter": postfilter, "shifts": shifts}
    full = separate(Halves(), Stream(mixture, sample_rate), **fields)
    part = separate(Halves(), Stream(mixture, sample_rate), start=1.25, end=2.1, **fields)
    first, last = round(1.25 * sample_rate), round(2.1 * sample_rate)
    for name in full:
        assert np.array_equal(part[name], full[name][:, first:last])


def test_segments_outside_a_region_are_not_computed(rng: np.random.Generator) -> None:
    seen = []

    class Counting(Halves):
        def forward(self, mixture: Tensor) -> Tensor:
            seen.append(mixture.shape[-1])
            return super().forward(mixture)

    mixture = rng.standard_normal((2, 441000)).astype(np.float32)
    separate(Counting(), Stream(mixture, 44100), start=5.0, end=5.1)
    assert 1 <= len(seen) <= 5


def test_a_region_behind_the_end_is_an_error(music: NDArray) -> None:
    with pytest.raises(InputError, match=r"starts at 4\.00 s, but the audio ends at 3\.00 s"):
        separate(Halves(), Stream(music, 44100), start=4.0)


def test_a_region_that_ends_behind_the_end_ends_there(music: NDArray) -> None:
    result = separate(Halves(), Stream(music, 44100), start=2.5, end=9.0)
    assert result["vocals"].shape[1] == music.shape[1] - round(2.5 * 44100)


def test_shifts_average_and_are_repeatable(rng: np.random.Generator) -> None:
    mixture = rng.standard_normal((2, 30000)).astype(np.float32)

    def run(seed: int) -> NDArray:
        return separate(Halves(), Stream(mixture, 44100), shifts=3, seed=seed, residual="ignore")["vocals"]

    plain = separate(Halves(), Stream(mixture, 44100), residual="ignore")["vocals"]
    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    # Halves is time-invariant, so away from the start (silence there, mirror here) shifting changes nothing
    np.testing.assert_allclose(run(1)[:, 300:], plain[:, 300:], atol=1e-5)


def test_track_normalization_gives_the_model_zero_mean_and_unit_level(rng: np.random.Generator) -> None:
    heard = []

    class Normalized(Identity):
        normalization = "track"

        def forward(self, mixture: Tensor) -> Tensor:
            heard.append(mixture[:, :, self.edge : -self.edge].clone())
            return super().forward(mixture)

    mixture = (0.05 * rng.standard_normal((2, 50000)) + 0.2).astype(np.float32)
    result = separate(Normalized(), Stream(mixture, 44100), residual="ignore", overlap=0)["all"]
    np.testing.assert_allclose(result, mixture, atol=1e-6)
    mono = torch.cat(heard, dim=-1).mean(dim=1)
    assert abs(float(mono.mean())) < 0.02
    assert float(mono.std()) == pytest.approx(1, abs=0.02)


def test_mono_stays_mono_and_needs_no_second_channel(rng: np.random.Generator) -> None:
    seen = []

    class Looking(Identity):
        def forward(self, mixture: Tensor) -> Tensor:
            seen.append(bool((mixture[:, 0] == mixture[:, 1]).all()))
            return super().forward(mixture)

    mixture = rng.standard_normal((1, 10000)).astype(np.float32)
    assert separate(Looking(), Stream(mixture, 44100))["all"].shape == mixture.shape
    assert all(seen)


def test_surround_goes_through_in_pairs(rng: np.random.Generator) -> None:
    class Swap(Identity):
        def forward(self, mixture: Tensor) -> Tensor:
            return mixture.flip(1).unsqueeze(1)

    mixture = rng.standard_normal((6, 10000)).astype(np.float32)
    result = separate(Swap(), Stream(mixture, 44100, layout="5.1"), residual="ignore")["all"]
    # left-right and the surrounds are pairs; centre and LFE stand alone
    np.testing.assert_allclose(result, mixture[[1, 0, 2, 3, 5, 4]], atol=1e-6)


def test_the_input_is_never_edited(music: NDArray) -> None:
    before = music.copy()
    separate(Halves(), Stream(music, 44100))
    assert np.array_equal(music, before)


def test_segment_length_is_checked() -> None:
    model = Halves()
    with pytest.raises(OptionError, match=r"needs at least 0\.01 s"):
        model_grid(model, Options(segment=0.005))
    assert model_grid(model, Options(segment=1.0)).length == 44100
    model.fixed_segment = True
    with pytest.raises(OptionError, match="works at exactly"):
        model_grid(model, Options(segment=1.0))


def test_an_error_in_the_source_comes_through(music: NDArray) -> None:
    class Broken(Stream):
        def blocks(self):  # type: ignore[no-untyped-def]
            yield self.samples[:, :1000]
            raise InputError("the disk is on fire")

    with pytest.raises(InputError, match="on fire"):
        separate(Halves(), Broken(music, 44100))
