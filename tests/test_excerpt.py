"""A piece from the middle of a file is what decoding the whole file gives there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.audio.decode import Decoder, open_audio
from unmixcli.audio.encode import SUFFIX, open_encoder
from unmixcli.audio.excerpt import count_frames, read_excerpt
from unmixcli.audio.stemfile import open_stem_encoder
from unmixcli.errors import InputError

Samples = NDArray[np.float32]
RATE = 44100
LENGTH = 3 * RATE + 123
END = LENGTH - 700
PLACES = ((0, 1000), (1, 5), (700, 300), (8191, 400), (44100, 44100), (END, 700), (END + 690, 100), (-50, 60),
          (-50, 10), (LENGTH + 5, 10), (60000, 0))  # fmt: skip


def song() -> Samples:
    rng = np.random.default_rng(0)
    time = np.arange(LENGTH) / RATE
    tones = [np.sin(2 * np.pi * (200 + 300 * time) * time), np.sin(2 * np.pi * 330 * time)]
    return (0.3 * np.stack(tones) + 0.05 * rng.standard_normal((2, LENGTH))).astype(np.float32)


def whole(path: Path, track: int = 0) -> Samples:
    with open_audio(path, track=track) as decoder:
        return np.concatenate(list(decoder), axis=1)


def cut(audio: Samples, start: int, length: int) -> Samples:
    piece = np.zeros((len(audio), length), np.float32)
    first, last = max(0, start), min(audio.shape[1], start + length)
    if last > first:
        piece[:, first - start : last - start] = audio[:, first:last]
    return piece


@pytest.mark.parametrize("format", ["wav", "flac", "aiff", "ogg", "mp3", "m4a", "alac", "opus"])
def test_excerpts_are_exact(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"song.{SUFFIX[format]}"
    with open_encoder(path, format=format, sample_rate=RATE, channels=2) as encoder:
        encoder.write(song())
    full = whole(path)
    assert count_frames(path) == full.shape[1]
    for start, length in PLACES:
        np.testing.assert_array_equal(read_excerpt(path, start, length), cut(full, start, length), f"{start} {length}")


@pytest.mark.parametrize("codec", ["aac", "alac"])
def test_every_track_of_a_stems_file(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "song.stem.mp4"
    with open_stem_encoder(path, sample_rate=RATE, channels=2, codec=codec) as encoder:
        encoder.write(song(), [song() * gain for gain in (0.5, 0.25, 0.125, 0.0625)])
    for track in range(5):
        full = whole(path, track)
        for start, length in PLACES[::2]:
            np.testing.assert_array_equal(read_excerpt(path, start, length, track=track), cut(full, start, length))


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "m4a"])
def test_what_lies_before_is_not_decoded(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"song.{SUFFIX[format]}"
    with open_encoder(path, format=format, sample_rate=RATE, channels=2) as encoder:
        encoder.write(song())

    def refuse(decoder: Decoder) -> None:
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(Decoder, "__iter__", refuse)
    assert read_excerpt(path, 2 * RATE, 100).any()


@pytest.mark.parametrize("quiet", [False, True])
def test_vorbis_is_exact_everywhere(quiet: bool, tmp_path: Path) -> None:
    """libvorbis' own seeking is not, after some pages and in the last, which is long where little sounds."""
    path = tmp_path / "song.ogg"
    hum = 0.01 * np.sin(np.arange(400123) ** 1.1 * 0.005)
    audio = np.stack([hum, hum]).astype(np.float32) if quiet else song()
    with open_encoder(path, format="ogg", sample_rate=RATE, channels=2) as encoder:
        encoder.write(audio)
    full = whole(path)
    end = full.shape[1]
    places = [*range(end - 4000, end, 150), *range(end - 120000, end, 4000)]
    wrong = [start for start in places if not np.array_equal(read_excerpt(path, start, 50), cut(full, start, 50))]
    assert wrong == []


def test_a_decoder_gives_its_blocks_once(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    with open_encoder(path, format="wav", sample_rate=RATE, channels=1) as encoder:
        encoder.write(song()[:1])
    with open_audio(path) as decoder:
        assert sum(block.shape[1] for block in decoder.blocks_from(1000)) == LENGTH - 1000
        with pytest.raises(RuntimeError):
            list(decoder.blocks_from(1000))


def test_a_value_that_is_no_number_is_told_with_its_place(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    audio = song()
    audio[1, 70000] = np.nan
    soundfile.write(tmp_path / "song.wav", audio.T, RATE, subtype="FLOAT")
    assert read_excerpt(tmp_path / "song.wav", 0, 60000).any()
    with pytest.raises(InputError, match=r"sample 70000 .* channel 2"):
        read_excerpt(tmp_path / "song.wav", 69000, 2000)
