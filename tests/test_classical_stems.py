"""The classical methods together: each source of a plain song ends up where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.models.classical_stems import ClassicalStems

RATE = 22050
SMALL = {"sample_rate": RATE, "n_fft": 2048, "hop": 512, "long_n_fft": 8192, "short_n_fft": 512}


@pytest.fixture(scope="module")
def song() -> dict[str, Tensor]:
    """Twelve seconds: a centred voice with vibrato that never repeats, clicks of noise, held chords, a deep bass."""
    rng = np.random.default_rng(1)
    t = np.arange(12 * RATE) / RATE
    notes = np.repeat(rng.uniform(300, 700, 24), RATE // 2)
    phase = 2 * np.pi * np.cumsum(notes * (1 + 0.03 * np.sin(2 * np.pi * 5.5 * t))) / RATE
    voice = sum(0.15 / k * np.sin(k * phase) for k in range(1, 8))
    hits = np.zeros_like(t)
    hits[:: RATE // 3] = 1
    drums = np.convolve(hits, np.exp(-np.arange(600) / 80) * rng.standard_normal(600))[: len(t)] * 0.4
    chord = sum(0.06 * np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6, 440))
    bass = 0.2 * np.sin(2 * np.pi * 55 * t)
    left, right = chord + bass, 0.3 * chord + bass
    stereo = {"vocals": (voice, voice), "drums": (drums, 0.8 * drums), "other": (left, right)}
    return {stem: torch.from_numpy(np.stack(pair).astype(np.float32)) for stem, pair in stereo.items()}


def sdr(reference: Tensor, estimate: Tensor) -> float:
    """Signal to distortion, dB."""
    return float(10 * torch.log10(reference.square().sum() / (estimate - reference).square().sum()))


def test_every_stem_is_better_than_the_mixture(song: dict[str, Tensor]) -> None:
    mixture = torch.stack(list(song.values())).sum(dim=0)
    model = ClassicalStems.from_config(SMALL, ("vocals", "drums", "other"))
    for stem, estimate in zip(model.stems, model(mixture[None])[0], strict=True):
        assert sdr(song[stem], estimate) > sdr(song[stem], mixture) + 3
        assert sdr(song[stem], estimate) > 0


def test_nothing_below_the_voice_in_the_vocals(song: dict[str, Tensor]) -> None:
    mixture = torch.stack(list(song.values())).sum(dim=0)
    vocals = ClassicalStems.from_config(SMALL, ("vocals",))(mixture[None])[0, 0]
    spectrum = torch.fft.rfft(vocals).abs().square()
    bass = slice(40 * 12, 70 * 12)  # bins of a 12 s signal are 1/12 Hz apart
    before = torch.fft.rfft(mixture).abs().square()[:, bass].sum()
    assert 10 * torch.log10(spectrum[:, bass].sum() / before) < -40


def test_a_voice_on_one_side_is_not_cut_out(song: dict[str, Tensor]) -> None:
    """The centre only counts as far as the voice stands there."""
    model = ClassicalStems.from_config(SMALL, ("vocals",))
    voice = song["vocals"] * torch.tensor([[1.0], [0.0]])
    assert sdr(voice, model((voice + song["drums"])[None])[0, 0]) > 6  # 0 if only the middle were kept


def test_mono_in_two_channels(music: NDArray[np.float32]) -> None:
    one = torch.from_numpy(music[:1])
    estimates = ClassicalStems()(one.expand(1, 2, -1))[0]
    assert torch.equal(estimates[:, 0], estimates[:, 1])
    assert all(estimate.abs().max() > 0.01 for estimate in estimates)


def test_segments_lie_on_the_longest_frames() -> None:
    model = ClassicalStems()
    assert model.segment_multiple == 4096
    assert model.edge % 4096 == 0
    assert model.edge > 4 * 44100
