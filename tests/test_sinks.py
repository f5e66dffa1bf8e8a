"""Files appear complete or not at all, with one gain for all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from unmixcli import sinks
from unmixcli.errors import OutputError
from unmixcli.sinks import ArraySink, Encoding, FileSink, remove_leftovers


def targets(folder: Path, suffix: str = "wav") -> dict[str, Path]:
    return {name: folder / "song" / f"{name}.{suffix}" for name in ("vocals", "other")}


def write(sink: FileSink, outputs: dict[str, NDArray], block: int = 5000) -> None:
    length = next(iter(outputs.values())).shape[1]
    for start in range(0, length, block):
        sink.write({name: samples[:, start : start + block] for name, samples in outputs.items()})


@pytest.fixture
def outputs(rng: np.random.Generator) -> dict[str, NDArray]:
    return {
        "vocals": (0.2 * rng.standard_normal((2, 33333))).clip(-0.9, 0.9).astype(np.float32),
        "other": (0.2 * rng.standard_normal((2, 33333))).clip(-0.9, 0.9).astype(np.float32),
    }


def interrupt_after(sink: FileSink, outputs: dict[str, NDArray]) -> None:
    write(sink, outputs)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("format_", "sample_type", "step"),
    [
        ("wav", "s16", 2**-15),
        ("wav", "s24", 2**-23),
        ("wav", "f32", 0),
        ("flac", "s24", 2**-23),
        ("aiff", "s16", 2**-15),
    ],
)
def test_files_hold_what_was_written(
    tmp_path: Path, outputs: dict[str, NDArray], format_: str, sample_type: str, step: float
) -> None:
    with FileSink(targets(tmp_path, format_), Encoding(format_, 48000, 2, sample_type)) as sink:  # type: ignore[arg-type]
        write(sink, outputs)
        sink.prepare()
        sink.commit()
    for name, samples in outputs.items():
        read, rate = soundfile.read(tmp_path / "song" / f"{name}.{format_}", dtype="float32", always_2d=True)
        assert rate == 48000
        np.testing.assert_allclose(read.T, samples, atol=step, rtol=0)
    assert sorted(path.name for path in (tmp_path / "song").iterdir()) == sorted(
        f"{name}.{format_}" for name in outputs
    )
    assert sink.gain == 1


@pytest.mark.parametrize("format_", ["wav", "flac", "mp3"])
def test_one_gain_for_all_where_a_peak_exceeds_full_scale(
    tmp_path: Path, outputs: dict[str, NDArray], format_: str
) -> None:
    outputs["vocals"][0, 20000] = -1.6
    with FileSink(targets(tmp_path, format_), Encoding(format_, 44100, 2, "s16")) as sink:  # type: ignore[arg-type]
        write(sink, outputs)
        sink.prepare()
        sink.commit()
    assert sink.gain == pytest.approx(1 / 1.6)
    assert "4.08 dB" in sink.notes[0]
    read = {
        name: soundfile.read(path, dtype="float32", always_2d=True)[0].T
        for name, path in targets(tmp_path, format_).items()
    }
    if format_ != "mp3":
        for name, samples in outputs.items():
            np.testing.assert_allclose(read[name], samples / 1.6, atol=2**-15)
    else:
        for name, samples in outputs.items():
            assert np.std(read[name]) == pytest.approx(np.std(samples) / 1.6, rel=0.05)
    assert len(list((tmp_path / "song").iterdir())) == 2


def test_float_files_keep_any_level(tmp_path: Path, outputs: dict[str, NDArray]) -> None:
    outputs["vocals"] *= 8
    with FileSink(targets(tmp_path), Encoding("wav", 44100, 2, "f32")) as sink:
        write(sink, outputs)
        sink.prepare()
        sink.commit()
    read, _ = soundfile.read(tmp_path / "song" / "vocals.wav", dtype="float32")
    assert np.array_equal(read.T, outputs["vocals"])


def test_clamping_cuts_only_the_peaks(tmp_path: Path, outputs: dict[str, NDArray]) -> None:
    outputs["vocals"][0, 20000] = -1.6
    with FileSink(targets(tmp_path), Encoding("wav", 44100, 2, "s16", clipping="clamp")) as sink:
        write(sink, outputs)
        assert not [path for path in (tmp_path / "song").iterdir() if path.suffix == ".f32"]
        sink.prepare()
        sink.commit()
    read, _ = soundfile.read(tmp_path / "song" / "vocals.wav", dtype="float32")
    np.testing.assert_allclose(read.T, outputs["vocals"].clip(-1, 1), atol=2**-15)


def test_an_exception_leaves_nothing_behind(tmp_path: Path, outputs: dict[str, NDArray]) -> None:
    with pytest.raises(KeyboardInterrupt), FileSink(targets(tmp_path / "new"), Encoding("wav", 44100, 2)) as sink:
        interrupt_after(sink, outputs)
    assert list(tmp_path.iterdir()) == []


def test_before_the_commit_no_name_is_taken(tmp_path: Path, outputs: dict[str, NDArray]) -> None:
    sink = FileSink(targets(tmp_path), Encoding("wav", 44100, 2))
    write(sink, outputs)
    sink.prepare()
    assert all(path.name.startswith(".unmix-part-") for path in (tmp_path / "song").iterdir())
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path, outputs: dict[str, NDArray]) -> None:
    with FileSink(targets(tmp_path), Encoding("wav", 44100, 2)) as sink:
        write(sink, outputs)
        sink.prepare()
        (tmp_path / "song" / "vocals.wav").write_text("mine")
        with pytest.raises(OutputError, match="appeared meanwhile"):
            sink.commit()
    assert [path.read_text() for path in (tmp_path / "song").iterdir()] == ["mine"]


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, outputs: dict[str, NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(spool: object, block: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sinks, "_spool_block", full)
    with (
        pytest.raises(OutputError, match="No space left"),
        FileSink(targets(tmp_path), Encoding("flac", 44100, 2)) as sink,
    ):
        write(sink, outputs)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_back_must_have_the_length_written(
    tmp_path: Path, outputs: dict[str, NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileSink(targets(tmp_path), Encoding("wav", 44100, 2)) as sink:
        write(sink, outputs)
        sink.frames += 1
        with pytest.raises(OutputError, match="33333 samples, 33334 were written"):
            sink.prepare()


def test_an_output_folder_that_can_t_be_made(tmp_path: Path) -> None:
    (tmp_path / "song").write_text("a file where a folder is wanted")
    with pytest.raises(OutputError, match="can't be written"):
        FileSink(targets(tmp_path), Encoding("wav", 44100, 2))


def test_leftovers_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    ours = tmp_path / f".unmix-part-{os.getpid()}-abcd.wav"
    gone = tmp_path / ".unmix-part-99999999-abcd.wav"
    other = tmp_path / "vocals.wav"
    for path in (ours, gone, other):
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, other])


def test_arrays(rng: np.random.Generator) -> None:
    sink = ArraySink()
    blocks = [rng.standard_normal((2, length)).astype(np.float32) for length in (3, 50)]
    for block in blocks:
        sink.write({"vocals": block})
    arrays = sink.arrays(("vocals", "drums"), 2)
    assert np.array_equal(arrays["vocals"], np.concatenate(blocks, axis=1))
    assert arrays["drums"].shape == (2, 0)
