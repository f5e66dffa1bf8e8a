"""Oracles: exact where the sources are disjoint, complete, and the same however they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.errors import OptionError
from unmixcli.evaluation import oracles
from unmixcli.evaluation.metrics import plain_sdr
from unmixcli.evaluation.oracles import ORACLES, oracle_blocks, oracle_name

Signals = list[NDArray[np.float32]]


def _estimates(name: str, references: Signals) -> NDArray[np.float32]:
    mixture = np.sum(references, axis=0, dtype=np.float32)
    return np.concatenate(list(oracle_blocks(name, mixture, references)), axis=-1)


def _noises(count: int = 3, length: int = 30011) -> Signals:
    rng = np.random.default_rng(2)
    return [(0.1 * rng.standard_normal((2, length))).astype(np.float32) for _ in range(count)]


def _tones(length: int = 40000) -> Signals:
    t = np.arange(length) / 44100
    return [np.stack([0.3 * np.sin(2 * np.pi * f * t)] * 2).astype(np.float32) for f in (500.0, 5000.0)]


@pytest.mark.parametrize("name", ["irm1", "irm2", "mwf", "mixture"])
@pytest.mark.parametrize("length", [1, 1023, 1024, 30011, 66 * 1024])
def test_estimates_add_up_to_the_mixture(name: str, length: int) -> None:
    references = _noises(3, length)
    estimates = _estimates(name, references)
    assert estimates.shape == (3, 2, length)
    np.testing.assert_allclose(estimates.sum(axis=0), np.sum(references, axis=0), atol=2e-6)


@pytest.mark.parametrize("name", ["ibm1", "ibm2", "irm1", "irm2", "mwf"])
def test_sources_far_apart_are_found(name: str) -> None:
    references = _tones()
    for reference, estimate in zip(references, _estimates(name, references), strict=True):
        inner = slice(2048, -2048)  # at the ends the tones begin and stop, which no mask can tell apart
        assert plain_sdr(reference[:, inner], estimate[:, inner]) > 35.0


def test_binary_masks_keep_or_drop_a_bin() -> None:
    x = np.array([[[[1.0 + 0j, 1.0, 1.0]]]])[0]
    s = np.array([[[[0.6 + 0j, 0.45, 0.0]]], [[[0.4 + 0j, 0.55, 0.0]]], [[[0.72 + 0j, 0.72, 0.0]]]])
    np.testing.assert_array_equal(oracles._binary_masks(x, s, 1)[:, 0, 0], [[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    np.testing.assert_array_equal(oracles._binary_masks(x, s, 2)[:, 0, 0], [[0, 0, 0], [0, 0, 0], [1, 1, 0]])


def test_wiener_filter_uses_where_sources_stand() -> None:
    """Two noises on top of each other in frequency, apart in the panorama: only the spatial filter tells them apart."""
    left, right = _noises(2)
    left = np.stack([left[0], 0.2 * left[0]]).astype(np.float32)
    right = np.stack([0.2 * right[0], right[0]]).astype(np.float32)
    score = {name: plain_sdr(left, _estimates(name, [left, right])[0]) for name in ("irm2", "mwf")}
    assert score["mwf"] > score["irm2"] + 10.0


def test_ratio_masks_do_better_than_none() -> None:
    references = _noises()
    score = {name: plain_sdr(references[0], _estimates(name, references)[0]) for name in ORACLES}
    assert score["mixture"] < score["irm1"] < score["irm2"]
    # As good as nothing against a third, for three equal sources: ‖s‖² / ‖s - x/3‖² = 9/6.
    assert score["mixture"] == pytest.approx(10 * np.log10(1.5), abs=0.1)


def test_the_same_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    references = _noises()
    whole = _estimates("mwf", references)
    monkeypatch.setattr(oracles, "_FRAMES_AT_ONCE", 3)
    np.testing.assert_allclose(_estimates("mwf", references), whole, atol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_silence(name: str) -> None:
    references = [np.zeros((2, 3000), np.float32)] * 2
    assert not _estimates(name, references).any()


def test_names() -> None:
    assert oracle_name(" IBM ") == "ibm1"
    with pytest.raises(OptionError, match="irm2"):
        oracle_name("irm3")
