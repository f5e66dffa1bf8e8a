"""The Python API on files, arrays and streams: the promises about shape, sums and sample types."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import unmixcli
from unmixcli.errors import InputError, OptionError, UnknownModelError
from unmixcli.models.open_unmix import Shape, _published_shapes
from unmixcli.progress import Progress
from unmixcli.registry import load_registry
from unmixcli.separator import Separator
from unmixcli.user_models import add_model

MODEL = "harmonic_percussive"


@pytest.fixture(scope="module")
def separator() -> Separator:
    return Separator(MODEL, device="cpu")


def cut(samples: NDArray, *lengths: int) -> Iterator[NDArray]:
    position, turn = 0, 0
    while position < samples.shape[1]:
        length = lengths[turn % len(lengths)]
        yield samples[:, position : position + length]
        position, turn = position + length, turn + 1


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_stream_equals_in_memory_bit_for_bit(separator: Separator, music: NDArray, sample_rate: int) -> None:
    whole = separator.separate(music, sample_rate=sample_rate).stems
    for lengths in ((1, 5000), (65536,)):
        blocks = list(separator.stream(cut(music, *lengths), sample_rate=sample_rate, channels=2))
        for name in whole:
            assert np.array_equal(np.concatenate([block[name] for block in blocks], axis=1), whole[name])


def test_files_equal_arrays(separator: Separator, music: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, music.T, 44100, subtype="FLOAT")
    arrays = separator.separate(path).stems
    result = unmixcli.separate(path, tmp_path / "out", model=MODEL)
    assert list(result.files) == list(arrays)
    for name, file in result.files.items():
        assert file == tmp_path / "out" / "song" / f"{name}.wav"
        read, rate = soundfile.read(file, dtype="float32")
        assert rate == 44100
        assert np.array_equal(read.T, arrays[name])


@pytest.mark.parametrize(
    ("sample_rate", "channels", "subtype"),
    [(48000, 2, "PCM_24"), (44100, 1, "PCM_16"), (96000, 2, "FLOAT"), (8000, 1, "PCM_24"), (44100, 6, "PCM_16")],
)
def test_same_shape_as_the_input(tmp_path: Path, music: NDArray, sample_rate: int, channels: int, subtype: str) -> None:
    path = tmp_path / "song.wav"
    samples = 0.5 * np.resize(music, (channels, 51237))
    soundfile.write(path, samples.T, sample_rate, subtype=subtype)
    stored, _ = soundfile.read(path, dtype="float64", always_2d=True)
    result = unmixcli.separate(path, tmp_path / "out", model=MODEL)
    total = np.zeros_like(stored)
    for file in result.files.values():
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (sample_rate, channels, 51237, subtype)
        read, _ = soundfile.read(file, dtype="float64", always_2d=True)
        total += read
        if subtype == "PCM_24":
            assert np.any(np.round(read * 2**23).astype(np.int64) & 0xFF), "the lowest eight of 24 bits are empty"
    # each file is rounded by itself: half a step per stem
    step = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "FLOAT": 2.0**-24}[subtype]
    assert np.abs(total - stored).max() <= step * (len(result.files) / 2 + 1)


def test_mono_needs_no_brackets(separator: Separator, music: NDArray) -> None:
    result = separator.separate(music[0], sample_rate=44100)
    assert all(stem.shape == (1, music.shape[1]) for stem in result.stems.values())


@pytest.mark.parametrize("channels", [1, 2])
def test_silence_and_nothing(separator: Separator, channels: int) -> None:
    for length in (0, 1, 5000):
        result = separator.separate(np.zeros((channels, length), np.float32), sample_rate=44100)
        for stem in result.stems.values():
            assert stem.shape == (channels, length)
            assert not stem.any()


def test_the_result_tells_what_was_done(separator: Separator, music: NDArray) -> None:
    result = separator.separate(np.concatenate([music, music, music]), sample_rate=44100)
    assert result.model == MODEL
    assert result.device.startswith("cpu")
    assert result.duration == pytest.approx(3.0)
    assert any("6 channels" in note for note in result.notes)
    assert result.residual_db is not None
    assert result.residual_db < -60


def test_minus_and_instrumental(music: NDArray) -> None:
    minus = Separator(MODEL, minus="drums").separate(music, sample_rate=44100).stems
    both = Separator(MODEL).separate(music, sample_rate=44100).stems
    assert list(minus) == ["no_drums"]
    np.testing.assert_allclose(minus["no_drums"], music - both["drums"], atol=1e-6)


def test_progress_ends_at_the_end(music: NDArray, tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, music.T, 44100)
    events: list[Progress] = []
    unmixcli.separate(path, tmp_path / "out", model=MODEL, on_progress=events.append)
    done = [event for event in events if event.stage == "separate"]
    assert [event.done for event in done] == sorted(event.done for event in done)
    assert done[-1].done == pytest.approx(3.0)
    assert done[-1].total == pytest.approx(3.0)
    assert done[-1].subject == "song.wav"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.separate(np.zeros((2, 100)), sample_rate=None), InputError, "expected the array's rate"),
        (lambda s: s.separate(np.zeros((44100, 2)), sample_rate=44100), InputError, r"\[channels, samples\]"),
        (lambda s: s.separate(np.full((2, 100), np.nan), sample_rate=44100), InputError, "not numbers"),
        (lambda s: s.separate("/nowhere/song.wav"), InputError, "song.wav"),
        (lambda s: list(s.stream([np.zeros((3, 9))], sample_rate=8000, channels=2)), InputError, r"expected \[2, T\]"),
        (lambda s: Separator("umxhqq"), UnknownModelError, "umxhq"),
        (lambda s: Separator(MODEL, stems="guitar"), OptionError, "gives drums, rest"),
        (lambda s: Separator(MODEL, colour="blue"), OptionError, "'colour' is not an option"),
        (lambda s: Separator(MODEL, overlap=1.0), OptionError, "less than 1"),
        (lambda s: Separator(MODEL, iterations=2), OptionError, "no filter of its own"),
        (lambda s: Separator(MODEL, stems="drums", minus="rest"), OptionError, "both given"),
        (lambda s: Separator(MODEL, start=3, end=2), OptionError, "not after the start"),
    ],
)
def test_bad_calls_are_told(separator: Separator, call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(separator)  # type: ignore[operator]


def test_a_failed_separation_leaves_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    path.write_text("this is not audio")
    with pytest.raises(InputError):
        unmixcli.separate(path, tmp_path / "out", model=MODEL)
    assert not (tmp_path / "out").exists()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, unmixcli; print([m for m in ('torch', 'numpy', 'av', 'librosa', 'click') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_some_of_a_model_s_stems_do_not_make_up_the_mixture(tmp_path: Path, music: NDArray) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = {"hidden_size": 8, "nb_layers": 1, "nfft": 512, "nhop": 256, "max_bin": 100, "nb_output_bins": 257}
    config = {**shape, "unidirectional": False, "nb_channels": 2, "niter": 0, "wiener_win_len": 30}
    state = {
        name: torch.rand(size, generator=generator) for name, size in _published_shapes(Shape.read(config)).items()
    }
    for part in ("vocals", "drums"):
        torch.save(state, tmp_path / f"{part}.pth")
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = [str(tmp_path / f"{part}.pth") for part in ("vocals", "drums")]
    add_model(files, like="umxhq", config=tmp_path / "config.json", name="two")
    assert load_registry().get("two").covers_mixture is False
    result = Separator("two", device="cpu").separate(music, sample_rate=44100)
    assert list(result.stems) == ["vocals", "drums", "rest"]
    np.testing.assert_allclose(sum(result.stems.values()), music, atol=1e-5)
    assert np.array_equal(result.stems["vocals"], result.stems["drums"])
    assert result.residual_db is None
    add_model(files[:1], like="umxhq", config=tmp_path / "config.json", name="one")
    alone = Separator("one", device="cpu").separate(music, sample_rate=44100)
    assert np.array_equal(alone.stems["vocals"], result.stems["vocals"])


def test_every_public_name_is_there() -> None:
    import unmixcli.cli.karaoke  # sub-modules must not hide a public name

    assert sorted(unmixcli.__all__) == sorted({*unmixcli._HOMES, "__version__"})
    for name in unmixcli._HOMES:
        assert callable(getattr(unmixcli, name)), name


def test_what_a_residual_model_took_out_is_not_spread_again() -> None:
    fields = {"postfilter": "wiener", "residual_model": True}
    plan = Separator(MODEL, **fields).plan
    assert [dict(output.weights) for output in plan.outputs] == [{"drums": 1.0}, {"rest": 1.0}]
    plan = Separator(MODEL, **fields, residual="add:rest").plan
    assert "residual" in plan.outputs[1].weights
