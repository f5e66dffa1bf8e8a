"""The resampler: exact totals, no delay, the same for every cut, and a filter that passes and stops what it should."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import soxr
from scipy.signal import resample_poly

from unmixcli.audio.resample import PIECE, Resampler, resample_blocks, resampled_length
from unmixcli.errors import OptionError

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000]


def _whole(x, in_rate, out_rate):
    return np.concatenate(list(resample_blocks([x], in_rate, out_rate, len(x))) or [x[:, :0]], axis=1)


@pytest.mark.parametrize("in_rate", RATES)
def test_totals_are_exact(in_rate, rng):
    for out_rate, length in itertools.product(RATES, (0, 1, 2, 1009)):
        x = rng.standard_normal((1, length)).astype(np.float32)
        expected = int(np.floor(length * out_rate / in_rate + 0.5))
        assert resampled_length(length, in_rate, out_rate) == expected
        assert _whole(x, in_rate, out_rate).shape == (1, expected)


@pytest.mark.parametrize("length", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
@pytest.mark.parametrize(("in_rate", "out_rate"), [(44100, 48000), (48000, 44100), (96000, 8000), (8000, 44100)])
def test_cutting_into_blocks_changes_nothing(in_rate, out_rate, length, rng):
    x = rng.standard_normal((2, length)).astype(np.float32)
    expected = _whole(x, in_rate, out_rate)
    for size in (1 if length < PIECE else 997, 4096, PIECE, 100000):
        blocks = [x[:, at : at + size] for at in range(0, length, size)]
        np.testing.assert_array_equal(
            np.concatenate(list(resample_blocks(blocks, in_rate, out_rate, 2)), axis=1), expected
        )


def test_input_is_untouched_and_may_be_reused(rng):
    x = rng.standard_normal((2, PIECE + 100)).astype(np.float32)
    kept = x.copy()
    resampler = Resampler(44100, 48000, 2)
    parts = []
    for at in range(0, x.shape[1], 1000):
        block = x[:, at : at + 1000].copy()
        parts.append(resampler.process(block))
        np.testing.assert_array_equal(block, kept[:, at : at + 1000])
        block[:] = 0  # the caller's buffer is his own again
    total = np.concatenate([*parts, resampler.finish()], axis=1)
    np.testing.assert_array_equal(total, _whole(kept, 44100, 48000))


def test_same_rate_passes_through(rng):
    block = rng.standard_normal((2, 100)).astype(np.float32)
    assert Resampler(48000, 48000, 2).process(block) is block


@pytest.mark.parametrize(("in_rate", "out_rate"), [(44100, 48000), (48000, 44100), (192000, 44100)])
def test_no_delay(in_rate, out_rate):
    """A click at a time both rates have (the hundredth part of a second) stays there."""
    x = np.zeros((1, in_rate), np.float32)
    x[0, in_rate // 100 * 50] = 1
    y = _whole(x, in_rate, out_rate)
    assert int(np.argmax(np.abs(y[0]))) == out_rate // 100 * 50


@pytest.mark.parametrize(("in_rate", "out_rate"), [(48000, 44100), (44100, 48000), (96000, 44100), (44100, 16000)])
def test_pass_band_and_stop_band(in_rate, out_rate):
    cutoff = min(in_rate, out_rate) / 2
    t = np.arange(2 * in_rate) / in_rate

    def level(frequency):
        x = np.sin(2 * np.pi * frequency * t)[None].astype(np.float32)
        y = _whole(x, in_rate, out_rate)[0, out_rate // 2 : -out_rate // 2]
        return 20 * np.log10(np.sqrt(2 * np.mean(y.astype(np.float64) ** 2)) + 1e-12)

    assert abs(level(1000)) < 0.01
    assert abs(level(0.9 * cutoff)) < 0.01
    if out_rate < in_rate:
        assert level(1.05 * cutoff) < -110


def test_agrees_with_soxr_at_once_and_with_scipy(rng):
    from scipy.signal import butter, sosfilt

    smooth = sosfilt(butter(8, 8000, fs=44100, output="sos"), rng.standard_normal((1, 50000)))
    x = smooth.astype(np.float32)
    y = _whole(x, 44100, 48000)
    np.testing.assert_allclose(y[0], soxr.resample(x[0], 44100, 48000, "VHQ"), atol=2e-6)
    # scipy's default filter is short: it agrees in the middle, below its transition band
    other = resample_poly(smooth[0], 160, 147, window=("kaiser", 12.0))
    np.testing.assert_allclose(y[0, 500:-500], other[500 : y.shape[1] - 500], atol=2e-3)


@pytest.mark.parametrize("length", [0, 5, 4800, 4801, 100000])
def test_length_cuts_or_pads(length, rng):
    x = rng.standard_normal((2, 4410)).astype(np.float32)
    for rates in ((44100, 48000), (44100, 44100)):
        blocks = list(resample_blocks([x], *rates, 2, length=length))
        assert all(block.shape[1] for block in blocks)
        assert sum(block.shape[1] for block in blocks) == length


def test_wrong_use_is_an_error():
    with pytest.raises(OptionError, match="in_rate is 0"):
        Resampler(0, 44100, 2)
    with pytest.raises(ValueError, match=r"expected \[2, T\]"):
        Resampler(44100, 48000, 2).process(np.zeros((1, 10), np.float32))
