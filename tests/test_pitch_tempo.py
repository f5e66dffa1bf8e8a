"""Another key and tempo: pitch, length, place, phase and level of what comes out, and the seams between pieces."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.audio.pitch_tempo import (
    PitchTempo,
    best_seam,
    cross_fade,
    pitch_tempo_blocks,
    stretched_length,
)
from unmixcli.errors import OptionError

RATE = 44100
Samples = NDArray[np.float32]


def changed(samples: Samples, block: int = 10000, rate: int = RATE, **settings: object) -> Samples:
    stretcher = PitchTempo(rate, samples.shape[0], **settings)  # type: ignore[arg-type]
    blocks = (samples[:, at : at + block] for at in range(0, samples.shape[1], block))
    nothing = np.zeros((samples.shape[0], 0), np.float32)
    return np.concatenate([nothing, *pitch_tempo_blocks(blocks, stretcher)], axis=1)


def tone(frequency: float, seconds: float = 3.0, rate: int = RATE) -> Samples:
    phase = 2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(phase), 0.25 * np.sin(phase + 1.0)]).astype(np.float32)


def spectrum(samples: Samples, rate: int = RATE) -> tuple[float, NDArray[np.complex128], int]:
    """Frequency of the peak (parabola through three bins of the log spectrum), the spectra, and the peak's bin."""
    middle = samples[:, rate // 2 : rate // 2 + 65536] * np.blackman(65536)
    bins = np.fft.rfft(middle)
    level = 20 * np.log10(np.abs(bins[0]) + 1e-12)
    peak = int(level.argmax())
    left, top, right = level[peak - 1 : peak + 2]
    return (peak + 0.5 * (left - right) / (left - 2 * top + right)) * rate / 65536, bins, peak


@pytest.mark.parametrize("semitones", [2.0, -3.0, 0.5, 12.0])
@pytest.mark.parametrize("tempo", [1.0, 0.9])
def test_a_tone_lands_on_its_key(semitones: float, tempo: float) -> None:
    source = tone(440.0)
    result = changed(source, semitones=semitones, tempo=tempo)
    frequency, bins, peak = spectrum(result)
    assert 1200 * abs(np.log2(frequency / (440 * 2 ** (semitones / 12)))) < 6  # cents; 5 are the least people hear
    away = np.abs(bins[0]).copy()
    away[peak - 60 : peak + 61] = 0
    assert 20 * np.log10(away.max() / np.abs(bins[0][peak])) < -45
    assert abs(20 * np.log10(result[0, RATE:-RATE].std() / source[0].std())) < 0.5


def test_tempo_alone_keeps_the_pitch() -> None:
    frequency, _, _ = spectrum(changed(tone(1000.0), tempo=0.8))
    assert frequency == pytest.approx(1000.0, abs=0.2)


def test_channels_keep_their_phase_and_balance() -> None:
    _, bins, peak = spectrum(changed(tone(440.0), semitones=2.0, tempo=0.9))
    ratio = bins[1][peak] / bins[0][peak]
    assert abs(ratio) == pytest.approx(0.5, abs=0.005)
    assert np.angle(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("frames", [1, 2, 100, 2646, 5000, 44100, 100003])
@pytest.mark.parametrize("tempo", [1.0, 0.9, 1.1, 0.5, 4.0])
def test_length_is_exact(rng: np.random.Generator, frames: int, tempo: float) -> None:
    source = rng.uniform(-0.1, 0.1, (2, frames)).astype(np.float32)
    result = changed(source, semitones=1.0, tempo=tempo)
    assert result.shape == (2, stretched_length(frames, tempo))
    assert np.isfinite(result).all()


def test_nothing_gives_nothing() -> None:
    assert PitchTempo(RATE, 2, semitones=1.0).finish().shape == (2, 0)


@pytest.mark.parametrize(("semitones", "tempo"), [(2.0, 1.0), (0.0, 0.9), (-5.0, 1.25)])
def test_clicks_lie_where_they_belong(semitones: float, tempo: float) -> None:
    """No delay and no drift, over the seams of many short pieces too."""
    source = np.zeros((1, 20 * RATE), np.float32)
    places = np.arange(1, 20) * RATE
    source[0, places] = 1.0
    result = changed(source, semitones=semitones, tempo=tempo, piece=6 * RATE)
    for place in places:
        expected = round(place / tempo)
        near = np.abs(result[0, expected - 500 : expected + 500])
        assert near.max() > 0.2
        assert abs(int(near.argmax()) - 500) <= 15  # a third of a millisecond


def test_blocks_make_no_difference(rng: np.random.Generator) -> None:
    source = rng.uniform(-0.3, 0.3, (2, 9 * RATE)).astype(np.float32)
    settings = {"semitones": 1.0, "tempo": 0.9, "piece": 4 * RATE}
    whole = changed(source, block=source.shape[1], **settings)
    for block in (777, 4 * RATE, 4 * RATE + 1):
        assert np.array_equal(changed(source, block=block, **settings), whole)


def test_unchanged_is_untouched(rng: np.random.Generator) -> None:
    source = rng.uniform(-0.3, 0.3, (2, 5000)).astype(np.float32)
    assert np.array_equal(changed(source), source)


def test_pieces_hold_little(rng: np.random.Generator) -> None:
    stretcher = PitchTempo(8000, 1, tempo=0.9, piece=40000)
    for _ in range(50):
        stretcher.process(rng.uniform(-0.1, 0.1, (1, 8000)).astype(np.float32))
        assert stretcher._held <= 48000


def test_a_seam_sounds_like_the_rest() -> None:
    """A chord held over several seams: its level never dips, and nothing else appears."""
    source = sum(tone(f, seconds=16.0) for f in (220.0, 277.18, 329.63))
    result = changed(source.astype(np.float32) / 3, tempo=0.9, piece=6 * RATE)
    frame = 4096
    inner = result[0, RATE:-RATE]
    levels = [20 * np.log10(inner[at : at + frame].std()) for at in range(0, len(inner) - frame, frame // 2)]
    reference = 20 * np.log10(source[0].std() / 3)
    assert max(levels) - reference < 1.5
    assert min(levels) - reference > -1.5
    steps = np.abs(np.diff(inner, n=2))
    assert steps.max() < 2.5 * np.abs(np.diff(source[0] / 3, n=2)).max()  # a click is a large second difference


def test_the_seam_is_put_where_the_renderings_agree(rng: np.random.Generator) -> None:
    first = rng.uniform(-0.3, 0.3, (1, 5 * RATE)).astype(np.float32)
    second = rng.uniform(-0.3, 0.3, (1, 5 * RATE)).astype(np.float32)
    second[:, 2 * RATE : 2 * RATE + 9000] = first[:, 2 * RATE : 2 * RATE + 9000]
    at, fade = best_seam(first, second, RATE)
    assert 2 * RATE - 500 < at < at + fade < 2 * RATE + 9500


@pytest.mark.parametrize("correlation", [1.0, 0.5, 0.0])
def test_a_cross_fade_keeps_the_level(rng: np.random.Generator, correlation: float) -> None:
    noise = rng.standard_normal((2, 200000))
    first = noise[:1]
    second = correlation * noise[:1] + np.sqrt(1 - correlation**2) * noise[1:]
    mixed = cross_fade(first.astype(np.float32), second.astype(np.float32))
    for part in np.array_split(mixed[0], 10):
        assert part.std() == pytest.approx(1.0, abs=0.03)


def test_six_channels_and_mono(rng: np.random.Generator) -> None:
    source = rng.uniform(-0.3, 0.3, (6, RATE)).astype(np.float32)
    source[3] = 0
    result = changed(source, semitones=2.0, tempo=0.9, channel_layout="5.1")
    assert result.shape == (6, stretched_length(RATE, 0.9))
    assert np.abs(result[3]).max() == 0  # the silent subwoofer stays silent: groups don't leak
    assert (result.std(axis=1) > 0.1).tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"semitones": 25.0}, "key is 25 semitones"),
        ({"semitones": float("nan")}, "key is nan"),
        ({"tempo": 0.0}, "tempo is 0"),
        ({"tempo": float("inf")}, "tempo is inf"),
    ],
)
def test_values_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PitchTempo(RATE, 2, **settings)


def test_a_missing_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch.Signalsmith", None)
    with pytest.raises(OptionError, match="python-stretch") as caught:
        PitchTempo(RATE, 2, semitones=1.0)
    assert "pip install python-stretch" in str(caught.value.hint)
    PitchTempo(RATE, 2)  # without a change it isn't needed
