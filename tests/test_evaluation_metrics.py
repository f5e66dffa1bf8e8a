"""Metrics against museval, a plain least-squares solution, and closed forms."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.evaluation import metrics
from unmixcli.evaluation.metrics import References, bss_eval, bss_eval_v4, median, to_16_bit, weighted_mean
from unmixcli.evaluation.projection import correlations, windows_of

RATE = 4000
TAPS = 64  # short filters where their number doesn't matter
COLUMNS = ("sdr", "isr", "sir", "sar")


@pytest.fixture(scope="module")
def museval() -> ModuleType:
    """museval's metrics without its package, whose imports want an ffmpeg program."""
    package = importlib.util.find_spec("museval")
    if package is None or package.origin is None:
        pytest.skip("museval is not installed")
    spec = importlib.util.spec_from_file_location("museval_metrics", Path(package.origin).with_name("metrics.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sources(count: int = 2, channels: int = 2, seconds: float = 3.3) -> tuple[list[NDArray], list[NDArray]]:  # type: ignore[type-arg]
    """Coloured noise as references; estimates with leakage, an echo and noise."""
    rng = np.random.default_rng(3)
    length = int(seconds * RATE)
    references = []
    for index in range(count):
        noise = rng.standard_normal((channels, length))
        kernel = np.exp(-np.arange(40) / (3 + 5 * index))
        references.append(np.stack([np.convolve(row, kernel)[:length] for row in noise]) * 0.05)
    mixture = np.sum(references, axis=0)
    estimates = []
    for index, reference in enumerate(references):
        echo = 0.3 * np.roll(reference, 7 * (index + 1), axis=-1)
        noise = 0.01 * rng.standard_normal(reference.shape)
        estimates.append(0.8 * reference + echo + 0.1 * (mixture - reference) + noise)
    as_files = [[to_16_bit(signal.astype(np.float32)) for signal in signals] for signals in (references, estimates)]
    return as_files[0], as_files[1]


def _for_museval(signals: list[NDArray]) -> NDArray:  # type: ignore[type-arg]
    return np.stack(signals).transpose(0, 2, 1).astype(np.float64)


@pytest.mark.parametrize(("count", "channels"), [(2, 2), (3, 1)])
@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize("sources", [False, True])
def test_agrees_with_museval(museval: ModuleType, count: int, channels: int, framewise: bool, sources: bool) -> None:
    references, estimates = _sources(count, channels)
    references[1][:, RATE : 2 * RATE] = 0  # a frame that isn't defined
    theirs = museval.bss_eval(
        _for_museval(references), _for_museval(estimates), window=RATE, hop=RATE,
        filters_len=TAPS, framewise_filters=framewise, bsseval_sources_version=sources,
    )  # fmt: skip
    prepared = References(references, filter_length=TAPS)
    ours = bss_eval(prepared, estimates, window=RATE, framewise_filters=framewise, sources=sources)
    for name, expected in zip(COLUMNS, theirs[:4], strict=True):
        # The same numbers by another order of operations, in float64.
        np.testing.assert_allclose(getattr(ours, name), expected, atol=1e-5, equal_nan=True)
    assert np.isnan(ours.sdr[:, 1]).all()
    assert np.isfinite(ours.sdr[:, [0, 2]]).all()


def test_agrees_with_museval_v4_as_it_is_used(museval: ModuleType) -> None:
    references, estimates = _sources(2, 1)
    theirs = museval.bss_eval(_for_museval(references), _for_museval(estimates), window=RATE, hop=RATE)
    ours = bss_eval_v4(references, estimates, sample_rate=RATE)
    for name, expected in zip(COLUMNS, theirs[:4], strict=True):
        np.testing.assert_allclose(getattr(ours, name), expected, atol=1e-5)


# What mir_eval 0.8.2 gives for `_sources(2, 1)`: bss_eval_sources(…, compute_permutation=False).
MIR_EVAL_V3 = [[13.02044, 17.74475], [15.61907, 22.00228], [16.60303, 19.81455]]


def test_agrees_with_mir_eval_v3() -> None:
    references, estimates = _sources(2, 1)
    ours = bss_eval(references, estimates, sources=True)
    found = [[float(v) for v in getattr(ours, name)[:, 0]] for name in ("sdr", "sir", "sar")]
    np.testing.assert_allclose(found, MIR_EVAL_V3, atol=1e-4)


@pytest.mark.slow
def test_agrees_with_museval_on_real_songs(museval: ModuleType, shared_data: Path) -> None:
    """The first twelve seconds of every validation song; docs/benchmarks/evaluation.py does whole ones."""
    from unmixcli.evaluation.folders import find_tracks
    from unmixcli.evaluation.oracles import oracle_blocks
    from unmixcli.evaluation.spool import collect, read, total

    for places in find_tracks(shared_data / "validation").values():
        references = [read(place).samples[:, : 12 * 44100] for place in places.values()]
        mixture = total(references)
        estimates = collect(oracle_blocks("irm1", mixture, references), len(references))
        theirs = museval.bss_eval(_for_museval(references), _for_museval(estimates), window=44100, hop=44100)
        ours = bss_eval_v4(references, estimates, sample_rate=44100)
        for name, expected in zip(COLUMNS, theirs[:4], strict=True):
            np.testing.assert_allclose(getattr(ours, name), expected, atol=0.01, equal_nan=True)


def test_projection_is_the_plain_least_squares_one() -> None:
    """Every delayed reference as a column of a matrix, solved without any FFT."""
    rng = np.random.default_rng(1)
    references = [rng.standard_normal((1, 300)).astype(np.float32) for _ in range(2)]
    estimate = (references[0] + 0.5 * references[1] + 0.3 * rng.standard_normal((1, 300))).astype(np.float32)
    delays = 16
    padded = np.pad(estimate[0].astype(np.float64), (0, delays - 1))

    def columns(signal: NDArray) -> NDArray:  # type: ignore[type-arg]
        return np.stack([np.pad(signal[0].astype(np.float64), (d, delays - 1 - d)) for d in range(delays)], axis=1)

    own = columns(references[0])
    every = np.concatenate([own, columns(references[1])], axis=1)
    p = own @ np.linalg.lstsq(own, padded, rcond=None)[0]
    P = every @ np.linalg.lstsq(every, padded, rcond=None)[0]
    expected = [
        10 * np.log10(p @ p / ((padded - p) @ (padded - p))),
        10 * np.log10(p @ p / ((P - p) @ (P - p))),
        10 * np.log10(P @ P / ((padded - P) @ (padded - P))),
    ]
    found = bss_eval(References(references, filter_length=delays), [estimate], targets=[0], sources=True)
    np.testing.assert_allclose([found.sdr[0, 0], found.sir[0, 0], found.sar[0, 0]], expected, atol=1e-9)


def test_windows_longer_than_a_block_agree_with_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    references, estimates = _sources(2, 1)
    whole = bss_eval(References(references, filter_length=TAPS), estimates)
    monkeypatch.setattr("unmixcli.evaluation.projection._BLOCK", 1777)
    pieces = bss_eval(References(references, filter_length=TAPS), estimates)
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(pieces, name), getattr(whole, name), atol=1e-9)


@pytest.mark.parametrize("length", [1, 5, 511, 7681, 7682, 20000])
def test_correlations_of_any_length(length: int, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 1, length)).astype(np.float32)
    found = correlations([a], [b], 0, length)[0, 0]
    x, y = a[0].astype(np.float64), np.pad(b[0].astype(np.float64), (0, 512))
    expected = [x @ y[lag : lag + length] for lag in range(512)]
    np.testing.assert_allclose(found, expected, atol=1e-8 * length)


def test_silent_reference_is_not_defined_and_does_not_spoil_the_rest() -> None:
    references, estimates = _sources(3, 1)
    quiet = [references[0], np.zeros_like(references[1]), references[2]]
    scores = bss_eval_v4(References(quiet, filter_length=TAPS), estimates, sample_rate=RATE)
    rest = References([references[0], references[2]], filter_length=TAPS)
    alone = bss_eval_v4(rest, [estimates[0], estimates[2]], sample_rate=RATE)
    assert np.isnan(scores.sdr[1]).all()
    np.testing.assert_array_equal(scores.sir[[0, 2]], alone.sir)
    assert np.isnan(metrics.si_sdr(quiet[1], estimates[1]))
    assert np.isnan(metrics.plain_sdr(quiet[1], estimates[1]))


def test_silent_estimate_is_not_defined_and_does_not_spoil_the_rest() -> None:
    references, estimates = _sources()
    estimates[0] = np.zeros_like(estimates[0])
    scores = bss_eval_v4(References(references, filter_length=TAPS), estimates, sample_rate=RATE)
    assert np.isnan(scores.sdr[0]).all()
    assert np.isfinite(scores.sdr[1]).all()


def test_all_silent() -> None:
    nothing = [np.zeros((2, RATE), np.float32)] * 2
    assert np.isnan(bss_eval_v4(nothing, nothing, sample_rate=RATE).sdr).all()


def test_both_channels_alike_are_scored_as_mono() -> None:
    """The normal equations are singular; SDR, SIR and SAR must stay those of one channel."""
    references, estimates = _sources(2, 1)
    mono = bss_eval_v4(References(references, filter_length=TAPS), estimates, sample_rate=RATE)
    doubled = [[np.concatenate([s, s]) for s in signals] for signals in (references, estimates)]
    stereo = bss_eval_v4(References(doubled[0], filter_length=TAPS), doubled[1], sample_rate=RATE)
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(stereo, name), getattr(mono, name), atol=0.01)


def test_16_bit_rule_keeps_band_limited_references_meaningful() -> None:
    """Without rounding, references without highs leave the filters free there, and frame edges fill that band."""
    rng = np.random.default_rng(5)

    def low(level: float) -> NDArray:  # type: ignore[type-arg]
        spectrum = np.fft.rfft(rng.standard_normal((2, 4 * RATE)))
        spectrum[:, int(0.6 * spectrum.shape[1]) :] = 0
        return (level * np.fft.irfft(spectrum)).astype(np.float32)

    references = [low(0.1), low(0.1)]
    noise = low(0.01)
    estimates = [references[0] + 0.2 * references[1] + noise, references[1] + noise]
    raw = bss_eval_v4(references, estimates, sample_rate=RATE)
    rounded = bss_eval_v4(*([to_16_bit(x) for x in signals] for signals in (references, estimates)), sample_rate=RATE)
    assert median(rounded.sdr[0]) == pytest.approx(median(raw.sdr[0]), abs=0.01)
    assert median(raw.sar[0]) < 1.0  # the truth is 20
    assert median(rounded.sar[0]) > 8.0


def test_to_16_bit_is_on_the_grid_and_does_not_clip() -> None:
    samples = np.array([[0.1, -1.5, 1.0, 2**-17]], np.float32)
    rounded = to_16_bit(samples)
    np.testing.assert_array_equal(rounded * 32768, np.rint(samples * 32768))
    assert rounded[0, 1] == -1.5


def test_si_sdr_closed_form(rng: np.random.Generator) -> None:
    s = rng.standard_normal((2, 5000)).astype(np.float32)
    n = rng.standard_normal((2, 5000))
    n -= s * (n * s).sum() / (s.astype(np.float64) ** 2).sum()
    n *= np.sqrt((s.astype(np.float64) ** 2).sum() / (n**2).sum()) / 10  # 20 dB below
    estimate = (s + n).astype(np.float32)
    assert metrics.si_sdr(s, estimate) == pytest.approx(20.0, abs=1e-4)
    assert metrics.si_sdr(s, 0.25 * estimate) == pytest.approx(20.0, abs=1e-4)
    assert np.isnan(metrics.si_sdr(s, np.zeros_like(s)))


def test_plain_sdr_closed_form(rng: np.random.Generator) -> None:
    s = rng.standard_normal((2, 5000)).astype(np.float32)
    assert metrics.plain_sdr(s, 0.9 * s) == pytest.approx(20.0, abs=1e-4)
    assert metrics.plain_sdr(s, np.zeros_like(s)) == pytest.approx(0.0, abs=1e-6)
    energy = float((s.astype(np.float64) ** 2).sum())
    assert metrics.plain_sdr(s, s) == pytest.approx(10 * np.log10((energy + 1e-7) / 1e-7))


def test_averages_leave_out_what_is_not_defined() -> None:
    assert median([1.0, np.nan, 3.0, np.inf, 8.0]) == 3.0
    assert np.isnan(median([np.nan]))
    assert weighted_mean([1.0, 4.0, np.nan], [3.0, 1.0, 100.0]) == pytest.approx(7 / 4)
    assert np.isnan(weighted_mean([np.nan], [1.0]))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(25, [(0, 10), (10, 20)]), (30, [(0, 10), (10, 20), (20, 30)]), (10, [(0, 10)]), (4, [(0, 4)])],
)
def test_windows_are_museval_s(length: int, expected: list[tuple[int, int]]) -> None:
    assert windows_of(length, 10, 10) == expected


def test_shapes_that_do_not_fit() -> None:
    references, estimates = _sources()
    with pytest.raises(ValueError, match="an estimate of shape"):
        bss_eval(references, [estimates[0][:, :-1]], targets=[0])
    with pytest.raises(ValueError, match="references of shapes"):
        bss_eval([references[0], references[1][:1]], estimates)
    with pytest.raises(ValueError, match="estimates for the references"):
        bss_eval(references, estimates[:1], targets=[5])
