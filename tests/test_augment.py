"""Augmentations: the same for a seed, true to the sum of the stems, and each does what it says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.errors import OptionError
from unmixcli.training.augment import AUGMENTATIONS, Chain, settings_of
from unmixcli.training.augment_codec import CODECS, codec
from unmixcli.training.augment_dynamics import bus_compressor, clipper, compressor, limiter
from unmixcli.training.augment_linear import (
    balance,
    band_limit,
    biquad,
    channel_swap,
    circular_shift,
    convolve,
    eq,
    gain,
    mute,
    polarity,
    reverb,
    width,
)
from unmixcli.training.augment_stretch import pitch_tempo, speed

Samples = NDArray[np.float32]
RATE = 44100
KINDS = sorted(AUGMENTATIONS)
STEM_KINDS = [kind for kind in KINDS if AUGMENTATIONS[kind].scope == "stems"]
BUS_KINDS = [kind for kind in KINDS if AUGMENTATIONS[kind].scope == "bus"]


def stems(seconds: float = 0.5, count: int = 4, level: float = 0.1) -> Samples:
    """Noise with a beat, different on both sides: [S, 2, T]."""
    rng = np.random.default_rng(1)
    length = round(seconds * RATE)
    beat = np.exp(-((np.arange(length) % 11025) / 3000))
    return (level * rng.standard_normal((count, 2, length)) * beat).astype(np.float32)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def db(ratio: float) -> float:
    return float(20 * np.log10(ratio))


@pytest.mark.parametrize("kind", KINDS)
def test_every_augmentation_is_the_same_for_a_seed_and_another_for_another(kind: str) -> None:
    chain = Chain([{"kind": kind}], RATE)
    length = RATE // 2
    audio = stems(0.7)[..., : chain.read_length(length, 3, 5)]
    first = chain(audio.copy(), 3, 5, length=length)
    again = chain(audio.copy(), 3, 5, length=length)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.float32
        assert one.shape[-2:] == (2, length)
        assert np.isfinite(one).all()
    others = [chain(audio.copy(), 3, index, length=length)[1] for index in (6, 7, 8, 9, 10, 11)]
    assert any(not np.array_equal(first[1], other) for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_every_augmentation_takes_any_shape_and_silence(kind: str) -> None:
    function = AUGMENTATIONS[kind].load()
    audio = stems(0.3)
    for leading in (audio[0], audio, np.stack([audio[:2], audio[2:]])):
        changed = function(leading.copy(), generator(), sample_rate=RATE)
        assert changed.shape == leading.shape
        assert not np.array_equal(changed, leading) or kind in ("mute", "polarity", "channel_swap")
        silent = function(np.zeros_like(leading), generator(), sample_rate=RATE)
        assert float(np.abs(silent).max()) < 1e-5


@pytest.mark.parametrize("kind", [kind for kind in KINDS if AUGMENTATIONS[kind].scope != "mixture"])
def test_the_mixture_is_the_sum_of_the_stems(kind: str) -> None:
    chain = Chain([{"kind": kind}], RATE)
    audio, mixture = chain(stems(), 0, 0)
    np.testing.assert_allclose(mixture, audio.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", BUS_KINDS)
def test_the_bus_gets_one_gain_per_sample(kind: str) -> None:
    """What a tool on the bus does to the mixture alone is what the stems then add up to."""
    audio = stems(level=0.3)
    function = AUGMENTATIONS[kind].load()
    processed = function(audio.copy(), generator(4), sample_rate=RATE)
    mixture = function(audio.sum(axis=0), generator(4), sample_rate=RATE)
    np.testing.assert_allclose(processed.sum(axis=0), mixture, atol=2e-6)
    ratio = processed[0] / audio[0]
    for other in (1, 2, 3):
        np.testing.assert_allclose(processed[other] / audio[other], ratio, rtol=1e-4)


def test_a_chain_tells_what_is_wrong_with_it() -> None:
    for entries, words in (
        ([{"kind": "gian"}], "Did you mean 'gain'"),
        ([{}], "kind is None"),
        ([{"kind": "gain", "loud_db": 3}], "no setting 'loud_db'; it has low_db, high_db"),
        ([{"kind": "gain", "low_db": "quiet"}], "low_db is 'quiet'"),
        ([{"kind": "gain", "low_db": 5.0, "high_db": -5.0}], "gain: high_db is -5"),
        ([{"kind": "gain", "high_db": float("nan")}], "high_db is nan"),
        ([{"kind": "gain", "probability": 2}], "probability is 2"),
        ([{"kind": "mute", "share": 1.5}], "share is 1.5"),
        ([{"kind": "eq", "bands": 2.5}], "bands is 2.5"),
        ([{"kind": "eq", "together": 1}], "together is 1"),
        ([{"kind": "codec", "codecs": ["wma"]}], "codecs is wma"),
        ([{"kind": "codec"}, {"kind": "gain"}], "must come after"),
        ([{"kind": "speed"}, {"kind": "pitch_tempo"}], "two augmentations that change the tempo"),
    ):
        with pytest.raises(OptionError, match=words.replace("(", "\\(")):
            Chain(entries, RATE)
    with pytest.raises(OptionError, match="sample rate is 44101"):
        Chain([{"kind": "codec"}], 44101)


def test_probability_and_independence_of_steps() -> None:
    chain = Chain([{"kind": "gain", "probability": 0.25}], 8000)
    audio = stems(0.05)
    touched = sum(not np.array_equal(chain(audio.copy(), 0, index)[0], audio) for index in range(400))
    assert 70 <= touched <= 130
    # A step's random numbers don't depend on the steps around it.
    alone = Chain([{"kind": "gain"}], RATE)(stems(), 1, 2)[0]
    after = Chain([{"kind": "polarity", "probability": 0.0}, {"kind": "gain"}], RATE)(stems(), 1, 2)[0]
    np.testing.assert_array_equal(alone, after)
    twice = Chain([{"kind": "gain"}, {"kind": "gain"}], RATE)(stems(), 1, 2)[0]
    assert not np.allclose(np.abs(twice / stems()), np.square(np.abs(alone / stems())), rtol=1e-3)


def test_settings_are_those_of_the_functions() -> None:
    assert settings_of("gain") == {"low_db": -10.0, "high_db": 3.0}
    assert "length" not in settings_of("speed")


def test_gain_keeps_to_its_range() -> None:
    audio = stems(0.01, count=500)
    louder = gain(audio.copy(), generator(), sample_rate=RATE, low_db=-6, high_db=2)
    levels = [db(float(row[0, 0] / old[0, 0])) for row, old in zip(louder, audio, strict=True)]
    assert -6 <= min(levels) < -5.5
    assert 1.5 < max(levels) <= 2.001


def test_width_scales_the_side_and_keeps_the_middle() -> None:
    audio = stems(0.05, count=3)
    side, middle = audio[:, 0] - audio[:, 1], audio[:, 0] + audio[:, 1]
    changed = width(audio.copy(), generator(), sample_rate=RATE, low=0.5, high=0.5, balance_db=0, mono=0)
    np.testing.assert_allclose(changed[:, 0] + changed[:, 1], middle, atol=1e-5)
    np.testing.assert_allclose(changed[:, 0] - changed[:, 1], side / 2, atol=1e-5)
    mono = width(audio.copy(), generator(), sample_rate=RATE, mono=1)
    np.testing.assert_array_equal(mono[:, 0], mono[:, 1])
    np.testing.assert_allclose(mono[:, 0], middle / 2, atol=1e-5)


def test_width_moves_each_stem_to_a_place_of_its_own() -> None:
    """A stem in the middle comes out as itself, louder on one side: within the balance, and not twice the same."""
    audio = np.repeat(stems(0.05)[:, :1], 2, axis=1)
    moved = width(audio.copy(), generator(), sample_rate=RATE, balance_db=6, mono=0)
    levels = 20 * np.log10(np.std(moved[:, 0], axis=-1) / np.std(moved[:, 1], axis=-1))
    assert np.all(np.abs(levels) <= 6 + 1e-3)
    assert np.ptp(levels) > 0.1


def test_signs_sides_and_silences() -> None:
    audio = stems(0.01, count=300)
    ratio = polarity(audio.copy(), generator(), sample_rate=RATE) / audio
    assert set(np.unique(np.sign(ratio))) == {-1, 1}
    assert abs(float(np.mean(ratio))) < 0.2
    swapped = channel_swap(audio.copy(), generator(), sample_rate=RATE)
    same = [np.array_equal(new, old) for new, old in zip(swapped, audio, strict=True)]
    turned = [np.array_equal(new, old[::-1]) for new, old in zip(swapped, audio, strict=True)]
    assert sum(same) + sum(turned) == 300
    assert 100 < sum(same) < 200
    quiet = (mute(audio.copy(), generator(), sample_rate=RATE, share=0.3) == 0).all(axis=(1, 2))
    assert 60 < quiet.sum() < 120
    assert all(mute(audio[:2].copy(), generator(seed), sample_rate=RATE, share=1.0).any() for seed in range(20))


def test_balance_makes_all_stems_equally_loud() -> None:
    audio = stems(0.2) * np.array([1, 0.3, 1e-4, 0], np.float32)[:, None, None]
    even = balance(audio.copy(), generator(), sample_rate=RATE, level_db=-26.0, spread_db=0.0)
    loud = np.sqrt(np.square(even).mean(axis=(1, 2)))
    np.testing.assert_allclose(loud[:2], 10 ** (-26 / 20), rtol=1e-4)
    # what is nearly silent is raised by no more than 20 dB, and silence stays
    np.testing.assert_allclose(even[2:], 10 * audio[2:], rtol=1e-5)
    spread = balance(stems(0.2), generator(), sample_rate=RATE, spread_db=3.0)
    levels = 20 * np.log10(np.sqrt(np.square(spread).mean(axis=(1, 2))))
    assert np.abs(levels + 20).max() <= 3
    assert np.ptp(levels) > 0.5


def test_circular_shift_turns_each_stem_by_itself() -> None:
    audio = stems(0.2)
    shifted = circular_shift(audio.copy(), generator(), sample_rate=RATE, seam_ms=0)
    delays = []
    for new, old in zip(shifted, audio, strict=True):
        delay = next(d for d in range(old.shape[1]) if np.array_equal(np.roll(old, d, axis=-1), new))
        delays.append(delay)
    assert len(set(delays)) == 4
    for new, old in zip(
        circular_shift(audio.copy(), generator(), sample_rate=RATE, seam_ms=0, step=1000), audio, strict=True
    ):
        assert any(np.array_equal(np.roll(old, k * 1000, axis=-1), new) for k in range(9))
    with pytest.raises(ValueError, match="step is 0"):
        circular_shift(audio, generator(), sample_rate=RATE, step=0)
    steady = np.linspace(0.1, 1, 20000, dtype=np.float32)[None, None].repeat(
        2, axis=1
    )  # jumps from 1 to 0.1 at the seam
    seam = circular_shift(steady.copy(), generator(), sample_rate=RATE, seam_ms=5)
    assert float(np.abs(np.diff(seam)).max()) < 0.01


def test_biquads_are_the_cookbooks() -> None:
    """Gains at the frequencies where the formulas say them."""

    def level(section: NDArray[np.float64], hz: float) -> float:
        z = np.exp(-2j * np.pi * hz / RATE * np.arange(3))
        return db(abs(section[:3] @ z) / abs(section[3:] @ z))

    bell = biquad("bell", 1000, 6, 1.0, RATE)
    assert level(bell, 1000) == pytest.approx(6, abs=1e-6)
    assert level(bell, 20) == pytest.approx(0, abs=0.01)
    low = biquad("low_shelf", 300, -5, 0.707, RATE)
    assert level(low, 5) == pytest.approx(-5, abs=0.01)
    assert level(low, 300) == pytest.approx(-2.5, abs=0.01)
    assert level(low, 15000) == pytest.approx(0, abs=0.01)
    high = biquad("high_shelf", 5000, 4, 0.707, RATE)
    assert level(high, 22000) == pytest.approx(4, abs=0.01)
    assert level(high, 5000) == pytest.approx(2, abs=0.01)
    assert level(high, 50) == pytest.approx(0, abs=0.01)


def test_convolution_is_the_plain_one() -> None:
    audio = stems(0.02)
    response = generator().standard_normal((4, 1, 100)).astype(np.float32)
    fast = convolve(audio, response)
    plain = [
        [np.convolve(side, own[0])[: audio.shape[-1]] for side in stem]
        for stem, own in zip(audio, response, strict=True)
    ]
    np.testing.assert_allclose(fast, np.array(plain), atol=1e-5)


def test_equaliser_stays_in_its_range_and_can_be_one_for_all() -> None:
    click = np.zeros((3, 2, 8820), np.float32)
    click[..., 0] = 1
    own = eq(click.copy(), generator(), sample_rate=RATE, bands=3, high_db=6)
    levels = 20 * np.log10(np.abs(np.fft.rfft(own[:, 0])))
    assert 1 < float(np.abs(levels).max()) < 18.1
    assert not np.allclose(own[0], own[1])
    same = eq(click.copy(), generator(), sample_rate=RATE, together=True)
    np.testing.assert_allclose(same[0], same[1], atol=1e-7)


def test_band_limit_takes_highs_and_keeps_lows() -> None:
    time = np.arange(RATE) / RATE
    tones = np.stack([np.stack([np.sin(2 * np.pi * hz * time)] * 2) for hz in (100, 1000, 9000)]).astype(np.float32)
    limited = band_limit(tones.copy(), generator(), sample_rate=RATE, low_hz=4000, high_hz=5000)
    power = np.sqrt(np.square(limited[..., RATE // 2 :]).mean(axis=(1, 2)) * 2)
    assert power[1] == pytest.approx(1, abs=0.01)
    assert power[2] < 1e-3  # 10th order, at least 50 dB
    telephone = band_limit(tones.copy(), generator(1), sample_rate=RATE, low_hz=4000, high_hz=5000, bottom_hz=3000)
    assert float(np.square(telephone[0, :, RATE // 2 :]).mean()) < 0.1
    # A limit beyond half the sample rate changes nothing.
    np.testing.assert_allclose(band_limit(tones.copy(), generator(), sample_rate=RATE, low_hz=22000, high_hz=30000),
                               tones, atol=1e-5)  # fmt: skip


def test_reverb_adds_a_tail_at_its_level() -> None:
    click = np.zeros((1, 2, RATE), np.float32)
    click[..., 0] = 1
    wet = reverb(click.copy(), generator(), sample_rate=RATE, low_seconds=0.5, high_seconds=0.5, low_db=-6, high_db=-6)
    assert wet[0, 0, 0] == pytest.approx(1, abs=0.1)
    tail = wet[0, :, 1:]
    assert db(float(np.sqrt(np.square(tail).sum() / 2))) == pytest.approx(-6, abs=0.5)
    early, late = np.square(tail[:, 2000:6000]).mean(), np.square(tail[:, 18000:22000]).mean()
    assert 10 * np.log10(early / late) == pytest.approx(60 * (16000 / RATE) / 0.5, abs=12)
    assert not np.allclose(tail[0], tail[1])


def test_compressors_narrow_the_dynamics_and_keep_the_power() -> None:
    time = np.arange(2 * RATE)
    loud = np.where(time < RATE, 1.0, 0.1) * np.sin(time * 0.05)  # 20 dB louder in the first half
    audio = np.stack([np.stack([loud, loud])] * 2).astype(np.float32)
    for function in (compressor, bus_compressor):
        squeezed = function(
            audio.copy(), generator(), sample_rate=RATE, low_ratio=4, high_ratio=4, low_db=15, high_db=15
        )
        halves = [float(np.square(squeezed[0, 0, part]).mean()) for part in (slice(20000, 44000), slice(70000, 88000))]
        # 15 dB of the 20 lie above the threshold and become 3.75.
        assert 10 * np.log10(halves[0] / halves[1]) == pytest.approx(20 - 15 * 0.75, abs=1)
        assert float(np.square(squeezed[0]).mean()) == pytest.approx(float(np.square(audio[0]).mean()), rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_limiter_and_clipper_make_loud_masters(seed: int) -> None:
    audio = stems(1.0, level=0.2)
    before = float(np.sqrt(np.square(audio.sum(axis=0)).mean()) / np.abs(audio.sum(axis=0)).max())
    for function, least in ((limiter, 1.5), (clipper, 3)):
        loud = function(audio.copy(), generator(seed), sample_rate=RATE, low_db=6, high_db=6).sum(axis=0)
        peak = float(np.abs(loud).max())
        assert peak <= 0.98 + 1e-5
        assert peak > 0.7
        assert db(float(np.sqrt(np.square(loud).mean())) / peak / before) > least
    # Nothing of the wave is cut by the limiter: its gain changes by little from sample to sample.
    limited = limiter(audio.copy(), generator(seed), sample_rate=RATE)
    curve = limited[0, 0] / audio[0, 0]
    assert float(np.abs(np.diff(curve)).max() / curve.max()) < 0.01


def test_clipper_is_hard_or_soft() -> None:
    time = np.arange(4410)
    audio = np.stack([np.sin(time * 0.05)] * 2)[None].astype(np.float32)
    hard = clipper(audio.copy(), generator(), sample_rate=RATE, low_db=6, high_db=6, soft_share=0)
    assert (np.abs(hard) > 0.9799).mean() > 0.5
    soft = clipper(audio.copy(), generator(), sample_rate=RATE, low_db=6, high_db=6, soft_share=1)
    np.testing.assert_allclose(soft[0], 0.98 * np.tanh(10 ** (6 / 20) * audio[0] / np.abs(audio).max()), atol=1e-4)


def pitch_of(audio: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum) * RATE / len(audio))


def test_speed_changes_pitch_and_length_together() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)[None].repeat(2, axis=0)
    faster = speed(tone.copy(), generator(), sample_rate=RATE, length=30000, low=1.1, high=1.1)
    assert faster.shape == (2, 30000)
    assert pitch_of(faster[0]) == pytest.approx(1100, abs=3)
    assert faster[0, 25000:].any()
    short = speed(tone[:, :20000].copy(), generator(), sample_rate=RATE, low=2, high=2)
    assert short.shape == (2, 20000)
    assert short[0, :9000].any()
    assert not short[0, 10100:].any()


def test_pitch_and_tempo_change_apart() -> None:
    pytest.importorskip("python_stretch")
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)[None].repeat(2, axis=0)
    changed = pitch_tempo(
        tone.copy(), generator(3), sample_rate=RATE, length=RATE, semitones=12, low_tempo=1.5, high_tempo=1.5
    )
    assert changed.shape == (2, RATE)
    semitones = np.random.default_rng(3).uniform(-12, 12)
    assert pitch_of(changed[0, 5000:40000]) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.01)
    assert np.square(changed[0, 40000:]).mean() > 0.1


def test_read_length_asks_for_more_only_where_it_is_needed() -> None:
    chain = Chain([{"kind": "speed", "probability": 0.5, "high": 1.25}], RATE)
    lengths = {chain.read_length(1000, 0, index) for index in range(50)}
    assert lengths == {1000, 1251}
    for index in range(10):
        audio = np.ones((1, 2, chain.read_length(20000, 0, index)), np.float32)
        item, _ = chain(audio, 0, index, length=20000)
        assert item.shape == (1, 2, 20000)
        assert item[..., -100:].min() > 0.9  # no zeros at the end


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("rate", [44100, 48000, 16000])
def test_codecs_change_little_and_delay_nothing(kind: str, rate: int) -> None:
    rng = generator()
    time = np.arange(rate) / rate
    song = 0.3 * np.sin(2 * np.pi * (200 + 400 * time) * time) + 0.02 * rng.standard_normal(rate)
    audio = np.stack([song, song[::-1]]).astype(np.float32)
    through = codec(audio.copy(), rng, sample_rate=rate, codecs=[kind], low_kbits=160, high_kbits=160)
    error = np.square(through - audio)[:, 3000:-3000].mean() / np.square(audio).mean()
    assert -60 < 10 * np.log10(error) < -15  # a delay of one sample would be about -20 dB at the top of the sweep
    lags = [float(np.dot(audio[0, 3000:12000], through[0, 3000 + lag : 12000 + lag])) for lag in range(-5, 6)]
    assert int(np.argmax(lags)) == 5


def test_codec_leaves_the_stems_alone() -> None:
    audio, mixture = Chain([{"kind": "codec"}], RATE)(stems(), 0, 0)
    np.testing.assert_array_equal(audio, stems())
    assert not np.allclose(mixture, audio.sum(axis=0), atol=1e-4)
    low = codec(stems()[0].copy(), generator(), sample_rate=RATE, codecs=["mp3"], low_kbits=32, high_kbits=32)
    high = codec(stems()[0].copy(), generator(), sample_rate=RATE, codecs=["mp3"], low_kbits=320, high_kbits=320)
    errors = [float(np.square(one - stems()[0]).mean()) for one in (low, high)]
    assert errors[0] > 4 * errors[1]
