"""Fixtures shared by all tests: synthetic sound, and the folder of real music where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


def _shared_data() -> Path | None:
    named = os.environ.get("UNMIX_TEST_DATA")
    for folder in [Path(named)] if named else [Path(__file__).resolve().parents[2] / "shared" / "data"]:
        if (folder / "validation").is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real music with stems (`UNMIX_TEST_DATA`, or `../shared/data`); the test is skipped without."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("real music is not here (set UNMIX_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache or configuration, and threads don't fight over the cores: small tensors
    split over two threads are slow wherever a core is busy."""
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("UNMIX_CACHE", str(home / "cache"))
    monkeypatch.setenv("UNMIX_CONFIG", str(home / "config"))
    monkeypatch.delenv("UNMIX_MIRROR", raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded noise."""
    return np.random.default_rng(0)


@pytest.fixture
def music(rng: np.random.Generator) -> NDArray[np.float32]:
    """Three seconds of stereo at 44.1 kHz with what separators look for: tones, clicks, a centred voice-like sweep."""
    sample_rate, seconds = 44100, 3
    t = np.arange(sample_rate * seconds) / sample_rate
    voice = 0.3 * np.sin(2 * np.pi * (300 * t + 8 * np.sin(2 * np.pi * 5 * t)))
    chord = sum(0.1 * np.sin(2 * np.pi * f * t) for f in (110, 220, 277.2, 329.6))
    hits = np.zeros_like(t)
    hits[:: sample_rate // 2] = 1.0
    drums = np.convolve(hits, np.exp(-np.arange(2000) / 300) * rng.standard_normal(2000) * 0.3)[: len(t)]
    left, right = voice + 0.8 * chord + 0.6 * drums, voice + 0.5 * chord + 0.9 * drums
    return (0.7 * np.stack([left, right])).astype(np.float32)
