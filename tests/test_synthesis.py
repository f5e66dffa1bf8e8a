"""Synthetic multitracks: on paper, in the band, on the desk, and a whole small set; samples and MIDI are made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from numpy.typing import NDArray

from unmixcli.cli import cli
from unmixcli.errors import InputError, OptionError, OutputError, UnmixError
from unmixcli.progress import Progress
from unmixcli.training.synthesis import SynthesisOptions, effects, mastering, needs, synthesize
from unmixcli.training.synthesis.arrange import arrange
from unmixcli.training.synthesis.drums import find_kit, loop_at_tempo
from unmixcli.training.synthesis.guitar_amp import Amplifier
from unmixcli.training.synthesis.melody import Expression, Range, harmony, pitch_curve, write_melody
from unmixcli.training.synthesis.mixing import balance
from unmixcli.training.synthesis.needs import need
from unmixcli.training.synthesis.recipe import split_of
from unmixcli.training.synthesis.sampler import find_articulations
from unmixcli.training.synthesis.score import (
    DRUMS,
    LENGTH,
    PITCH,
    START,
    VELOCITY,
    Part,
    Score,
    change,
    cut,
    notes_from,
    sounding_classes,
    without_voices,
)
from unmixcli.training.synthesis.song import make_track
from unmixcli.training.synthesis.sound import RATE, gain, pan, place
from unmixcli.training.synthesis.sources import held_out, open_library
from unmixcli.training.synthesis.styles import STYLES
from unmixcli.training.synthesis.synthesizer import Patch

Array = NDArray[np.float32]


def missing(name: str) -> bool:
    try:
        need(name)
    except UnmixError:
        return True
    return False


needs_mido = pytest.mark.skipif(missing("mido"), reason="mido isn't installed")
needs_both = pytest.mark.skipif(missing("mido") or missing("pyworld"), reason="mido or pyworld isn't installed")


def tone(hertz: float, seconds: float, overtones: int = 4) -> Array:
    """A decaying note."""
    t = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * n * t) / n for n in range(1, overtones + 1))
    return (0.3 * wave * np.exp(-2 * t)).astype(np.float32)[None]


def main_frequency(audio: Array) -> float:
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(audio.shape[1]), 8 * RATE))
    return float(np.argmax(spectrum)) / 8


def speech(rng: np.random.Generator, rate: int, seconds: float = 2.0, hertz: float = 120.0) -> Array:
    """Syllables: pulses through two resonances, with hiss between them."""
    t = np.arange(int(seconds * rate)) / rate
    phase = np.cumsum(hertz * (1 + 0.05 * np.sin(2 * np.pi * 1.5 * t))) / rate
    pulses = np.diff(np.floor(phase), prepend=0.0)
    voice = np.zeros_like(t)
    for formant, width in ((600, 80), (1500, 120), (2600, 200)):
        n = np.arange(rate // 20) / rate
        voice += np.convolve(pulses, np.exp(-width * np.pi * n) * np.sin(2 * np.pi * formant * n))[: len(t)]
    syllable = np.clip(np.sin(2 * np.pi * 3 * t), 0, 1) ** 0.5
    hiss = rng.standard_normal(len(t)) * np.clip(-np.sin(2 * np.pi * 3 * t) - 0.8, 0, 1)
    out = voice * syllable + 0.5 * hiss
    return (0.3 * out / np.abs(out).max()).astype(np.float32)[None]


def write(path: Path, audio: Array, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a little of everything."""
    root = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(1)
    for name in ("onebass", "twobass"):
        for note in (28, 33, 38, 43, 48):
            for layer in (1, 2):
                sound = tone(440 * 2 ** ((note - 69) / 12), 0.8)
                write(root / f"sources/bass/{name}/{name}_sus_m{note:03d}_v{layer}_r1.wav", sound)
    for note in range(40, 80, 6):
        write(
            root / f"sources/other/my_electric/my_electric_sus_m{note:03d}_v1_r1.wav",
            tone(440 * 2 ** ((note - 69) / 12), 0.8, 8),
        )
    for kit, pieces in (
        ("bigkit", "kick snare hat_closed hat_open crash_l ride_l"),
        ("smallkit", "kick snare hat_closed"),
    ):
        for piece in pieces.split():
            for layer in (1, 2):
                noise = rng.standard_normal((2, RATE // 4)) * np.exp(-np.arange(RATE // 4) / 2000) * 0.1 * layer
                write(root / f"sources/drums/{kit}/{kit}_{piece}_v{layer}.wav", noise.astype(np.float32))
    for speaker in ("p101", "p102", "p103"):
        write(root / f"sources/vocals/corpus/{speaker}_001.wav", speech(rng, 16000), 16000)
    write(root / "train/asong/vocals.wav", 0.5 * np.repeat(speech(rng, RATE, 6.0, 220.0), 2, axis=0))
    write(root / "samples/pack/drums/loops/loop_one.wav", rng.standard_normal((2, RATE)).astype(np.float32) * 0.1)
    (root / "sources/bass/onebass/LICENCE.txt").write_text("Licence: CC0-1.0\nCREDIT LINE: One Bass, Somebody.\n")
    if not missing("mido"):
        from unmixcli.training.synthesis.midi import write_midi

        for number in range(3):
            song, groove = (
                root / f"midi/collection/song{number}.mid",
                root / f"sources/midi/groove/d{number}_1_rock.mid",
            )
            for path, score in ((song, little_song()), (groove, little_song().with_parts([little_song().parts[0]]))):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_midi(score.parts, path)
    return root


def little_song(seconds: float = 20.0) -> Score:
    """C and G in turn, at 120 quarters per minute."""
    beats = np.arange(0, seconds, 0.5)
    chords = [(0, 4, 7) if int(t / 2) % 2 == 0 else (7, 11, 14) for t in beats]
    drums = [[t, 0.1, 36 if n % 2 == 0 else 38, 0.9] for n, t in enumerate(beats)]
    bass = [[t, 0.4, 36 + chord[0], 0.8] for t, chord in zip(beats, chords, strict=True)]
    keys = [[t, 0.45, 60 + up, 0.7] for t, chord in zip(beats, chords, strict=True) for up in chord]
    parts = (
        Part(DRUMS, 0, notes_from(drums)),
        Part("bass", 33, notes_from(bass)),
        Part("guitar", 30, notes_from(keys)),
    )
    return Score("little", parts, seconds, 120.0)


# On paper


def test_cut_and_change_keep_time() -> None:
    part = cut(little_song(), 4.25, 5.0)
    bass = part.parts[1].notes
    assert bass[0, START] == pytest.approx(0.25)
    assert (bass[:, START] + bass[:, LENGTH]).max() <= 5.0
    assert part.first_beat == pytest.approx(0.25)
    faster = change(part, speed=2.0, semitones=3)
    assert faster.seconds == pytest.approx(2.5)
    assert faster.tempo == 240.0
    np.testing.assert_allclose(faster.parts[1].notes[:, PITCH], bass[:, PITCH] + 3)
    np.testing.assert_allclose(faster.parts[0].notes[:, PITCH], part.parts[0].notes[:, PITCH])


def test_sounding_classes_are_the_chord() -> None:
    weights = sounding_classes(little_song().parts, 0.0, 1.9)
    assert set(np.flatnonzero(weights)) == {0, 4, 7}


@needs_mido
def test_midi_files_keep_the_notes(tmp_path: Path) -> None:
    from unmixcli.training.synthesis.midi import read_midi, write_midi

    song = little_song()
    write_midi(song.parts, tmp_path / "song.mid")
    again = read_midi(tmp_path / "song.mid")
    assert {part.role for part in again.parts} == {"drums", "bass", "guitar"}
    for part in song.parts:
        other = next(one for one in again.parts if one.role == part.role)
        order = np.lexsort((part.notes[:, PITCH], part.notes[:, START]))
        other_order = np.lexsort((other.notes[:, PITCH], np.round(other.notes[:, START], 2)))
        np.testing.assert_allclose(other.notes[other_order], part.notes[order], atol=0.005)


@needs_mido
@pytest.mark.parametrize(
    "content", [b"", b"MThd", b"nothing of the kind", b"MThd\0\0\0\6\0\1\0\1\1\xe0MTrk\0\0\0\4\0\xff\x2f\0"]
)
def test_files_that_are_no_songs_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    from unmixcli.training.synthesis.midi import read_midi

    (tmp_path / "bad.mid").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.mid"):
        read_midi(tmp_path / "bad.mid")


def test_choirs_become_strings() -> None:
    assert {without_voices(program) for program in (52, 53, 54, 85, 91)}.isdisjoint({52, 53, 54, 85, 91})
    assert without_voices(30) == 30


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_style_gives_a_song(style: str) -> None:
    score, _ = arrange(style, 30.0, np.random.default_rng(3))
    roles = {part.role for part in score.parts}
    assert {"bass", "drums"} <= roles
    for part in score.parts:
        assert (np.diff(part.notes[:, START]) >= 0).all()
        assert (part.notes[:, LENGTH] > 0).all()
        assert part.notes[:, PITCH].min() >= 20
        assert part.notes[:, PITCH].max() <= 110
        assert part.notes[:, VELOCITY].max() <= 1.01


def test_melodies_stay_in_range_and_fit_the_harmony(rng: np.random.Generator) -> None:
    song = little_song(60.0)
    phrases = write_melody(song, rng, Range(55, 70), activity=1.0)
    notes = np.concatenate(phrases)
    assert notes[:, PITCH].min() >= 55
    assert notes[:, PITCH].max() <= 70
    assert (notes[1:, START] >= notes[:-1, START] + notes[:-1, LENGTH] - 1e-6).all()
    fits = [sounding_classes(song.parts, a, a + b)[int(pitch) % 12] > 0 for a, b, pitch, _ in notes]
    assert np.mean(fits) > 0.8
    upper = harmony(phrases[0], song, rng, above=True)
    assert (upper[:, PITCH] > phrases[0][:, PITCH]).all()


def test_pitch_curves_reach_their_notes(rng: np.random.Generator) -> None:
    phrase = notes_from([[1.0, 0.5, 60, 0.8], [1.5, 1.0, 64, 0.8]])
    curve = pitch_curve(phrase, Expression(0.03, 5.5, 50.0, 100.0, 5.0), rng, 180)
    assert curve[40] == pytest.approx(60, abs=0.3)
    assert curve[90:180].mean() == pytest.approx(64, abs=0.3)
    assert curve[130:180].std() > 0.15  # vibrato


# In the band


def test_sampler_plays_the_pitch_that_was_not_recorded(material: Path, rng: np.random.Generator) -> None:
    (bass,) = find_articulations((material / "sources/bass/onebass").glob("*.wav"), "onebass", "bass")
    for pitch in (33, 35, 45):
        audio = bass.render(notes_from([[0.1, 0.6, pitch, 0.8]]), RATE, rng)
        assert audio.shape == (1, RATE)
        assert not audio[:, : int(0.09 * RATE)].any()
        assert main_frequency(audio) == pytest.approx(440 * 2 ** ((pitch - 69) / 12), rel=0.01)
    soft, loud = (bass.render(notes_from([[0, 0.5, 33, v]]), RATE, np.random.default_rng(0)) for v in (0.2, 0.9))
    assert np.abs(loud).max() > 3 * np.abs(soft).max()


def test_held_organ_notes_outlast_their_recording(tmp_path: Path, rng: np.random.Generator) -> None:
    for note in range(40, 70, 5):
        steady = tone(440 * 2 ** ((note - 69) / 12), 0.5)
        write(tmp_path / f"organ_full_m{note:03d}_v1_r1.wav", np.sign(steady) * 0.2)
    (organ,) = find_articulations(tmp_path.glob("*.wav"), "organ", "organ")
    audio = organ.render(notes_from([[0.0, 2.0, 50, 0.8]]), 3 * RATE, rng)
    level = np.sqrt(np.mean(audio[0].reshape(-1, RATE // 10) ** 2, axis=1))
    assert level[2:19].min() > 0.5 * level[2:19].max()
    assert level[22:].max() == 0


def test_drummers_close_their_hats(material: Path) -> None:
    kit = find_kit((material / "sources/drums/bigkit").glob("*.wav"), "bigkit")
    assert set(kit.pieces) == {"kick", "snare", "hat_closed", "hat_open", "crash", "ride"}
    ringing = kit.render(notes_from([[0, 0.1, 46, 0.9]]), RATE, np.random.default_rng(0))
    choked = kit.render(notes_from([[0, 0.1, 46, 0.9], [0.1, 0.1, 42, 1e-9]]), RATE, np.random.default_rng(0))
    late = slice(int(0.12 * RATE), int(0.2 * RATE))
    assert np.abs(choked[:, late]).max() < 0.5 * np.abs(ringing[:, late]).max()


def test_loops_follow_the_tempo(tmp_path: Path) -> None:
    click = np.zeros((2, RATE), np.float32)
    click[:, 100:140] = 0.5  # one click per loop of a second
    write(tmp_path / "loop.wav", click)
    audio = loop_at_tempo(tmp_path / "loop.wav", 110.0, 10 * RATE, 0.0)
    hits = np.flatnonzero(np.diff((np.abs(audio[0]) > 0.2).astype(int)) == 1)
    np.testing.assert_allclose(np.diff(hits) / RATE, 2 * 60 / 110, atol=1e-3)


def test_amplifiers_add_overtones_up_to_the_cabinet(rng: np.random.Generator) -> None:
    guitar = tone(220.0, 1.0, 1)
    amplifier = Amplifier(30.0, 100.0, 800.0, 3.0, -3.0, 4500.0, 2500.0, 3.0, 3000.0, 0.2)
    out = amplifier.play(guitar)
    assert out.shape == guitar.shape
    assert np.sqrt(np.mean(out**2)) == pytest.approx(np.sqrt(np.mean(guitar**2)), rel=0.01)

    def share(audio: Array, low: float, high: float) -> float:
        power = np.abs(np.fft.rfft(audio[0])) ** 2
        hertz = np.fft.rfftfreq(audio.shape[1], 1 / RATE)
        return float(power[(hertz > low) & (hertz < high)].sum() / power.sum())

    assert share(out, 400, 4000) > 0.1 > 10 * share(guitar, 400, 4000)
    assert share(out, 9000, 22050) < 1e-4
    assert not amplifier.play(np.zeros((1, 1000), np.float32)).any()


@pytest.mark.parametrize("role", ["sub", "bass", "pad", "pluck", "organ", "lead"])
def test_synthesizer_is_in_tune(role: str) -> None:
    rng = np.random.default_rng(2)
    audio = Patch.draw(role, rng).render(notes_from([[0.0, 1.5, 57, 0.9]]), 2 * RATE, rng)
    assert audio.shape == (2, 2 * RATE)
    frequency = main_frequency(audio[:, RATE // 4 :])
    assert min(abs(np.log2(frequency / 220.0 / ratio)) for ratio in (0.5, 1.0)) < 0.02


# On the desk


def test_minimum_phase_filters_have_the_asked_magnitude() -> None:
    response = effects.minimum_phase(effects.bell(1000.0, 6.0, 1.0))
    magnitude = 20 * np.log10(np.abs(np.fft.rfft(response)))
    hertz = np.fft.rfftfreq(len(response), 1 / RATE)
    assert magnitude[np.argmin(abs(hertz - 1000))] == pytest.approx(6.0, abs=0.05)
    assert magnitude[np.argmin(abs(hertz - 100))] == pytest.approx(0.0, abs=0.05)
    assert np.sum(response[:64] ** 2) > 0.9 * np.sum(response**2)


def test_effects_keep_length_and_leave_their_input_alone(music: Array, rng: np.random.Generator) -> None:
    before = music.copy()
    results = [
        effects.compress(music, above_mean_db=-6, ratio=4),
        effects.saturate(music, 10.0),
        effects.reverb(music, rng, decay=0.5, level_db=-12),
        effects.echo(music, interval=0.2, feedback=0.4, level_db=-12, cross=True, cutoff_hz=5000),
        effects.chorus(music, rng),
        effects.band_limit(music, 300, 3000),
        effects.oversampled(music, np.tanh),
        effects.fade(music, 100, 100),
    ]
    for result in results:
        assert result.shape == music.shape
        assert result.dtype == np.float32
        assert np.isfinite(result).all()
        assert not np.array_equal(result, music)
    np.testing.assert_array_equal(music, before)


def test_exciters_add_highs_that_were_not_there() -> None:
    dark = tone(880.0, 1.0, 3)
    out = effects.excite(dark, -10.0, 5000.0)
    power = [np.abs(np.fft.rfft(audio[0])) ** 2 for audio in (dark, out)]
    hertz = np.fft.rfftfreq(dark.shape[1], 1 / RATE)
    high = hertz > 4500
    assert power[1][high].sum() > 20 * power[0][high].sum()
    low = hertz < 1500
    assert power[1][low].sum() == pytest.approx(power[0][low].sum(), rel=0.05)
    assert not effects.excite(np.zeros((2, 100), np.float32), 0.0).any()


def test_compressors_lower_the_loud_parts_only() -> None:
    quiet_loud = np.concatenate([0.01 * np.ones(RATE), 0.5 * np.ones(RATE)]).astype(np.float32)[None]
    out = effects.compress(quiet_loud, above_mean_db=-12.0, ratio=4.0, attack=0.005, release=0.05)
    assert out[0, RATE // 2] == pytest.approx(0.01, rel=0.01)
    # the threshold is 12 dB below the mean of what sounds, which is 3 dB below the loud half
    assert 20 * np.log10(out[0, -100] / 0.5) == pytest.approx(-0.75 * 15.0, abs=0.2)


def test_loudness_follows_gain_and_ignores_pauses(music: Array) -> None:
    level = effects.loudness_db(music)
    assert effects.loudness_db(music * gain(-7.0)) == pytest.approx(level - 7.0, abs=0.1)
    padded = np.pad(music, ((0, 0), (0, 5 * RATE)))
    assert effects.loudness_db(padded) == pytest.approx(level, abs=0.7)
    assert effects.loudness_db(np.zeros((2, RATE), np.float32)) == -120.0


def test_panning_keeps_power() -> None:
    mono = tone(440, 0.1)
    for position in (-1.0, -0.3, 0.0, 0.8):
        assert np.sum(pan(mono, position) ** 2) == pytest.approx(2 * np.sum(mono**2), rel=1e-4)
    assert not pan(mono, -1.0)[1].any() or np.abs(pan(mono, -1.0)[1]).max() < 1e-6


def test_place_cuts_what_sticks_out() -> None:
    target = np.zeros((1, 10), np.float32)
    place(target, np.ones((1, 4), np.float32), -2)
    place(target, np.ones((1, 4), np.float32), 8)
    place(target, np.ones((1, 4), np.float32), 50)
    np.testing.assert_array_equal(target[0], [1, 1, 0, 0, 0, 0, 0, 0, 1, 1])


def test_the_master_of_the_stems_is_the_master_of_their_sum(music: Array, rng: np.random.Generator) -> None:
    stems = {"drums": music[:, ::-1].copy(), "bass": 0.5 * music, "vocals": music[::-1].copy()}
    settings = mastering.Master(-8.0, 4.0, 4.0, 0.005, 0.1, 0.5, -0.3)
    out = mastering.master(stems, settings, np.random.default_rng(5))
    whole = mastering.master({"mix": np.sum(list(stems.values()), axis=0)}, settings, np.random.default_rng(5))["mix"]
    total = np.sum(list(out.values()), axis=0)
    level = float(np.sum(total * whole) / np.sum(whole * whole))  # all turned down where one stem alone was too loud
    assert 0.5 < level <= 1.001
    np.testing.assert_allclose(total, level * whole, atol=2e-4)
    assert np.abs(total).max() <= gain(-0.3) + 1e-4
    peaks = np.abs(np.sum(list(stems.values()), axis=0)).max() / np.sqrt(
        np.mean(np.sum(list(stems.values()), axis=0) ** 2)
    )
    assert np.abs(total).max() / np.sqrt(np.mean(total**2)) < 0.8 * peaks  # it was clipped


def test_stems_that_cancel_each_other_fit_into_a_file(music: Array) -> None:
    stems = {"bass": 5.0 * music, "other": -4.5 * music}
    out = mastering.master(stems, mastering.Master(-9.0, 0.0, 2.0, 0.01, 0.1, 1.0, -0.1), np.random.default_rng(0))
    assert max(np.abs(stem).max() for stem in out.values()) == pytest.approx(0.999, abs=1e-3)
    ratio = out["other"] / np.where(np.abs(out["bass"]) > 1e-3, out["bass"], np.nan)
    assert np.nanmedian(ratio) == pytest.approx(-0.9, abs=1e-3)


def test_balance_leaves_silence_out(music: Array, rng: np.random.Generator) -> None:
    levels = balance({"vocals": 0.01 * music, "drums": music, "bass": np.zeros_like(music)}, rng)
    assert set(levels) == {"vocals", "drums"}
    assert effects.loudness_db(levels["vocals"]) == pytest.approx(-23.5, abs=6.0)


# Voices


@needs_both
def test_speech_sings_the_melody_and_gets_highs(material: Path) -> None:
    from unmixcli.training.synthesis.sources import Voice
    from unmixcli.training.synthesis.vocoder import analyse, syllables
    from unmixcli.training.synthesis.voices import sung

    file = material / "sources/vocals/corpus/p101_001.wav"
    assert 4 <= len(syllables(analyse(file))) <= 9  # six were spoken
    song = little_song(12.0)
    (line,) = sung(
        Voice("p101", "speech", (file,)),
        song,
        12 * RATE,
        np.random.default_rng(2),
        activity=1.0,
        doubles=0,
        harmonies=0,
    )
    assert line.audio.shape == (1, 12 * RATE)
    assert np.sqrt(np.mean(line.audio**2)) > 0.003
    power = np.abs(np.fft.rfft(line.audio[0])) ** 2
    hertz = np.fft.rfftfreq(line.audio.shape[1], 1 / RATE)
    assert power[hertz > 9000].sum() > 1e-6 * power.sum()
    # the tones of C and G major carry the voice: energy at pitches of their scale, little between
    fundamental = (hertz > 90) & (hertz < 1000)
    classes = np.round(69 + 12 * np.log2(hertz[fundamental] / 440)).astype(int) % 12
    share = np.bincount(classes, power[fundamental], 12) / power[fundamental].sum()
    assert share[[0, 2, 4, 7, 11]].sum() > 0.7


# A set


def test_whole_units_are_held_out() -> None:
    names = [f"speaker{n}" for n in range(20)]
    kept = held_out(names, 0.1)
    assert len(kept) == 2
    assert kept == held_out(reversed(names), 0.1)
    assert held_out(names, 0.0) == set()
    assert held_out(["only"], 0.3) == set()
    assert [split_of(n, 0.25) for n in range(8)].count("validation") == 2
    assert {split_of(n, 0.0) for n in range(50)} == {"train"}


def test_a_library_keeps_splits_apart(material: Path) -> None:
    library = open_library(material, 0.3)
    train, validation = library.shelves["train"], library.shelves["validation"]
    assert [kit.name for kit in train.kits] == ["bigkit"]
    assert [kit.name for kit in validation.kits] == ["smallkit"]
    assert len(train.voices) == 3  # two speakers and the song
    assert [voice.name for voice in validation.voices] == ["corpus/p103"] or len(validation.voices) == 1
    assert {voice.name for voice in train.voices}.isdisjoint(voice.name for voice in validation.voices)
    assert len({instrument.name for instrument in train.instruments}) == 3  # too few basses to give one away
    everything = open_library(material, 0.0)
    assert everything.shelves["validation"].is_empty()
    credit = library.credit(material / "sources/bass/onebass/onebass_sus_m028_v1_r1.wav")
    assert credit == {"name": "sources/bass/onebass", "licence": "CC0-1.0", "credit": "One Bass, Somebody."}


@needs_both
def test_a_set_is_rendered_once_and_the_same_each_time(material: Path, tmp_path: Path) -> None:
    def options(out: str, minutes: float, **more: object) -> SynthesisOptions:
        fixed = {"shortest": 5.0, "longest": 6.0, "sound_font": "none", "validation_share": 0.5, "seed": 4}
        return SynthesisOptions(material, tmp_path / out, minutes=minutes, **{**fixed, **more})  # type: ignore[arg-type]

    events: list[Progress] = []
    first = synthesize(options("a", 0.25), on_progress=events.append)
    assert first.rendered == len(first.tracks) == len(events) == 3
    assert first.seconds >= 15.0
    assert events[-1].done == events[-1].total == 15.0
    splits = set()
    for folder in first.tracks:
        record = json.loads((folder / "track.json").read_text())
        splits.add(record["split"])
        assert record["sources"]
        assert all(source["licence"] for source in record["sources"])
        stems = [soundfile.read(folder / f"{name}.flac", always_2d=True) for name in record["stems"]]
        assert (
            {path.stem for path in folder.glob("*.flac")}
            == set(record["stems"])
            <= {"vocals", "drums", "bass", "other"}
        )
        mixture = np.sum([audio for audio, _ in stems], axis=0)
        assert mixture.shape == (round(record["seconds"] * RATE), 2)
        assert 0.02 < np.abs(mixture).max() <= 1.0
        assert all(rate == RATE for _, rate in stems)
    assert splits == {"train", "validation"}
    assert synthesize(options("a", 0.25)).rendered == 0
    shutil.rmtree(first.tracks[1])
    assert synthesize(options("a", 0.25)).rendered == 1
    other = synthesize(options("b", 0.18))
    for before, after in zip(first.tracks, other.tracks, strict=False):
        for path in sorted(before.glob("*.flac")):
            assert path.read_bytes() == (after / path.name).read_bytes()
    with pytest.raises(OutputError, match="other settings"):
        synthesize(options("a", 0.25, longest=7.0))
    assert not list(tmp_path.rglob("*.partial"))


@needs_both
@pytest.mark.slow
def test_jobs_do_not_change_the_sound(material: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        synthesize(
            SynthesisOptions(material, tmp_path / str(jobs), 0.5, jobs=jobs, shortest=5, longest=6, sound_font="none")
        )
    one = {path.relative_to(tmp_path / "1"): path.read_bytes() for path in (tmp_path / "1").rglob("*.flac")}
    two = {path.relative_to(tmp_path / "2"): path.read_bytes() for path in (tmp_path / "2").rglob("*.flac")}
    assert one == two


@needs_both
def test_what_is_missing_is_named(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such folder"):
        synthesize(SynthesisOptions(tmp_path / "nowhere", tmp_path / "out", sound_font="none"))
    with pytest.raises(OptionError, match="--validation-share"):
        synthesize(SynthesisOptions(material, tmp_path / "out", validation_share=0.9))
    monkeypatch.setattr(needs.shutil, "which", lambda name: None)
    with pytest.raises(UnmixError, match="fluidsynth") as caught:
        synthesize(SynthesisOptions(material, tmp_path / "out"))
    assert "fluid-soundfont-gm" in str(caught.value.hint)
    need.cache_clear()
    monkeypatch.setattr(needs, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UnmixError, match="mido") as caught:
        need("mido")
    assert "unmixcli[synthesis]" in str(caught.value.hint)
    need.cache_clear()


@needs_both
def test_empty_material_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = ["synthesize", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), "--sound-font", "none"]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 1
    assert "no instruments, MIDI files or voices" in result.stderr
    assert not (tmp_path / "out").exists()


@needs_both
def test_the_command_renders_and_goes_on(material: Path, tmp_path: Path) -> None:
    line = ["synthesize", "--data", str(material), "-o", str(tmp_path), "--minutes", "0.06", "--length", "4", "5"]
    first = CliRunner().invoke(cli, [*line, "--sound-font", "none"])
    assert first.exit_code == 0, first.stderr
    assert "1 of them new" in first.stderr
    second = CliRunner().invoke(cli, [*line, "--sound-font", "none"])
    assert "0 of them new" in second.stderr


@needs_both
@pytest.mark.skipif(shutil.which("fluidsynth") is None, reason="fluidsynth isn't installed")
def test_the_shared_material_makes_a_track(shared_data: Path) -> None:
    try:
        font = needs.sound_font("auto")
    except UnmixError:
        pytest.skip("no sound font here")
    library = open_library(shared_data, 0.1)
    train = library.shelves["train"]
    assert len(train.players("guitar")) >= 3
    assert len(train.voices) > 20
    assert not any("validation" in path.parts or "mir1k" in path.parts for path in train.songs + train.grooves)
    assert not any("arrangement" in path.stem for path in train.songs)
    track = make_track(library, "train", 3, font, (8.0, 8.0))
    assert track.stems
    assert all(source["licence"] != "unknown" for source in track.sources)
