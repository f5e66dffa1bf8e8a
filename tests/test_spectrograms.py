"""Pictures of separations: right pixels, bounded size, and through the command line."""

from __future__ import annotations

import builtins
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from unmixcli.cli import cli
from unmixcli.errors import OptionError
from unmixcli.evaluation import spectrograms
from unmixcli.evaluation.spectrograms import draw_files, file_blocks, mask_of, picture_of

RATE = 8000


def tone(hertz: float, seconds: float, level: float = 0.3) -> NDArray[np.float32]:
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * t)).astype(np.float32)[None].repeat(2, axis=0)


def unmix(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in arguments])


@pytest.mark.parametrize("hertz", [100.0, 440.0, 2000.0])
def test_a_tone_is_a_line(hertz: float) -> None:
    picture = picture_of([tone(hertz, 2)], RATE)
    assert picture.power.shape[0] == len(picture.frequencies)
    loudest = picture.frequencies[picture.power[:, 20].argmax()]
    assert loudest == pytest.approx(hertz, rel=0.08)  # a bin of 10.8 Hz is several bands wide at 100 Hz
    far = abs(np.log2(picture.frequencies / hertz)) > 1
    assert picture.power[far, 20].max() < 1e-4 * picture.power[:, 20].max()


def test_the_same_however_it_is_cut(rng: np.random.Generator) -> None:
    sound = rng.standard_normal((2, 30011)).astype(np.float32)
    whole = picture_of([sound], RATE)
    cuts = [0, 1, 1, 500, 9000, 9001, 30011]
    parts = picture_of([sound[:, a:b] for a, b in itertools.pairwise(cuts)], RATE)
    np.testing.assert_allclose(parts.power, whole.power, rtol=1e-12)
    assert parts.seconds == whole.seconds == pytest.approx(30011 / RATE)


def test_a_long_sound_has_no_wider_picture(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Columns of a long sound are means of those of a short one."""
    sound = rng.standard_normal((1, 25 * RATE)).astype(np.float32)
    fine = picture_of([sound], RATE)
    assert fine.power.shape[1] > 1000
    monkeypatch.setattr(spectrograms, "MOST_COLUMNS", 150)
    for blocks in ([sound], np.array_split(sound, 77, axis=1)):
        coarse = picture_of(blocks, RATE)
        assert 75 <= coarse.power.shape[1] <= 151
        merged = round(coarse.column_seconds / fine.column_seconds)
        whole = fine.power.shape[1] // merged
        expected = fine.power[:, : whole * merged].reshape(len(fine.power), whole, merged).mean(axis=-1)
        np.testing.assert_allclose(coarse.power[:, :whole], expected, rtol=1e-9)
        np.testing.assert_allclose(coarse.power[:, -1], fine.power[:, -(fine.power.shape[1] % merged) :].mean(axis=1))


def test_masks_say_whose_a_pixel_is() -> None:
    low, high = tone(300, 2), tone(2000, 2)
    mixture = picture_of([low + high], RATE)
    mask = mask_of(picture_of([0.5 * low], RATE), mixture)
    row = {hertz: int(np.abs(mixture.frequencies - hertz).argmin()) for hertz in (300, 2000)}
    np.testing.assert_allclose(mask[row[300], 5:-5], 0.5, atol=0.01)
    assert mask[row[2000], 5:-5].max() < 0.02
    assert mask.min() >= 0
    assert mask_of(mixture, picture_of([0 * low], RATE)).max() == 0


def test_silence_and_nothing(tmp_path: Path) -> None:
    assert not picture_of([np.zeros((1, 1), np.float32)], RATE).power.any()
    with pytest.raises(OptionError, match="no sound"):
        picture_of([], RATE)


def test_a_part_of_a_file(tmp_path: Path) -> None:
    sound = tone(440, 3)
    soundfile.write(tmp_path / "a.wav", sound.T, RATE, subtype="FLOAT")
    part = np.concatenate(list(file_blocks(tmp_path / "a.wav", start=0.5, end=2.0)), axis=1)
    np.testing.assert_array_equal(part, sound[:, 4000:16000])


def pixels(path: Path) -> NDArray[Any]:
    image = pytest.importorskip("matplotlib.image")
    found: NDArray[Any] = image.imread(path)
    return found


def test_files_are_drawn(tmp_path: Path) -> None:
    for name, sound in (("song", tone(300, 2) + tone(2000, 2)), ("vocals", tone(300, 2)), ("rest", tone(2000, 2))):
        soundfile.write(tmp_path / f"{name}.wav", sound.T, RATE)
    stems = {name: tmp_path / f"{name}.wav" for name in ("vocals", "rest")}
    pytest.importorskip("matplotlib")
    draw_files(tmp_path / "out.png", tmp_path / "song.wav", stems, title="A $song_")
    both = pixels(tmp_path / "out.png")
    assert both.shape[0] > 500
    assert both.std() > 0.1
    draw_files(tmp_path / "other.png", tmp_path / "song.wav", dict.fromkeys(stems, tmp_path / "song.wav"))
    assert both.shape == pixels(tmp_path / "other.png").shape
    assert np.abs(both - pixels(tmp_path / "other.png")).mean() > 0.01


@pytest.fixture
def song(tmp_path: Path, music: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "song.wav", music[:, :66150].T, 44100)
    return tmp_path


def test_a_separation_is_drawn(song: Path) -> None:
    pytest.importorskip("matplotlib")
    result = unmix("song.wav", "-m", "centre_extraction", "--plot", "--from", "0.2", "--to", "1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "separated/song/spectrograms.png"
    first = (song / "separated/song/spectrograms.png").read_bytes()
    (song / "separated/song/spectrograms.png").unlink()
    again = unmix("song.wav", "-m", "centre_extraction", "--plot", "--from", "0.2", "--to", "1")
    assert again.exit_code == 0, again.stderr
    assert (song / "separated/song/spectrograms.png").read_bytes() == first  # of stems that were there already


def test_stems_of_several_tracks_in_one_folder(song: Path) -> None:
    pytest.importorskip("matplotlib")
    result = unmix("song.wav", "-m", "centre_extraction", "--plot", "--template", "{track} ({stem})", "--json")
    assert result.exit_code == 0, result.stderr
    assert (song / "separated/song spectrograms.png").is_file()
    assert ".png" not in result.stdout  # only JSON there


@pytest.mark.parametrize("arguments", [["-o", "-", "--stems", "centre"], ["--format", "stem.mp4"]])
def test_what_can_not_be_drawn(song: Path, arguments: list[str]) -> None:
    result = unmix("song.wav", "-m", "centre_extraction", "--plot", *arguments)
    assert result.exit_code == 2
    assert "--plot draws stems" in result.stderr


def test_without_matplotlib(song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out before anything is separated."""
    normal = builtins.__import__

    def without(name: str, *others: Any, **named: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return normal(name, *others, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    result = unmix("song.wav", "-m", "centre_extraction", "--plot")
    assert result.exit_code == 2
    assert 'pip install "unmixcli[plot]"' in result.stderr
    assert not (song / "separated").exists()


def test_evaluate_draws_systems_and_oracles(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    for folder in ("references", "mine"):
        (tmp_path / folder / "One").mkdir(parents=True)
        for stem in ("vocals", "drums"):
            soundfile.write(tmp_path / folder / "One" / f"{stem}.wav", 0.1 * rng.standard_normal((2 * RATE, 1)), RATE)
    result = unmix(
        "evaluate", tmp_path / "references", tmp_path / "mine", "--metric", "sdr", "--oracle", "irm",
        "--spectrograms", tmp_path / "pictures",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = {path.relative_to(tmp_path / "pictures").as_posix() for path in (tmp_path / "pictures").rglob("*.png")}
    assert found == {"One/references.png", "One/mine.png", "One/irm2.png"}
