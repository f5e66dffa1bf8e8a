"""Karaoke tracks: what is in them, how they are written, and the command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cli_toys
import mutagen
import numpy as np
import pytest
import soundfile
from cli_toys import RATE, song
from click.testing import CliRunner, Result
from mutagen.id3 import APIC, TBPM, TIT2, TKEY, TPE1
from numpy.typing import NDArray

from unmixcli.audio.decode import AudioInfo, open_audio, probe
from unmixcli.audio.encode import SUFFIX, open_encoder
from unmixcli.cli import _terminal, cli
from unmixcli.errors import OptionError, OutputError
from unmixcli.karaoke import (
    KaraokeOptions,
    KaraokeSeparator,
    choose_form,
    format_for,
    make_karaoke,
    parse_guide,
    parse_tempo,
)

# The toy's vocals are 0.6 of the mixture, its other stem 0.3; the residual 0.1 is spread: 0.65 and 0.35.
VOCALS, REST = 0.65, 0.35
PICTURE = b"\x89PNG\r\n\x1a\n" + b"cover" * 50


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folders: None) -> Iterator[None]:
    cli_toys.register()
    monkeypatch.chdir(tmp_path)
    yield
    _terminal._level = 0


def toy(*args: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["karaoke", *args, "-m", "toy", "--offline"], input=data)


def read(path: Path) -> NDArray[np.float32]:
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder), axis=1)


# ---------------------------------------------------------------- what is in it


def test_karaoke_and_vocals_are_the_song(tmp_path: Path) -> None:
    samples = song(tmp_path / "song.wav", subtype="FLOAT").T
    result = make_karaoke("song.wav", model="toy")
    assert result.files == {"karaoke": Path("song (karaoke).wav")}
    track = read(tmp_path / "song (karaoke).wav")
    assert np.allclose(track, REST * samples, atol=1e-6)
    vocals = KaraokeSeparator("toy")
    assert vocals.plan.names == ("karaoke",)
    assert np.allclose(track + VOCALS * samples, samples, atol=1e-6)


@pytest.mark.parametrize("level", [-6.0, -18.0, -40.0])
def test_the_guide_has_its_level(tmp_path: Path, level: float) -> None:
    samples = song(tmp_path / "song.wav", subtype="FLOAT").T
    make_karaoke("song.wav", "none.wav", model="toy")
    make_karaoke("song.wav", "guide.wav", model="toy", guide=level)
    guide = read(tmp_path / "guide.wav") - read(tmp_path / "none.wav")
    measured = 20 * np.log10(guide.std() / (VOCALS * samples).std())
    assert measured == pytest.approx(level, abs=0.01)


def test_a_full_guide_is_the_song_bit_for_bit(tmp_path: Path) -> None:
    song(tmp_path / "song.wav", subtype="FLOAT")
    make_karaoke("song.wav", "full.wav", model="toy", guide=0)
    assert np.array_equal(read(tmp_path / "full.wav"), read(tmp_path / "song.wav"))


def test_a_region_equals_the_same_part(tmp_path: Path) -> None:
    song(tmp_path / "song.wav", seconds=2, subtype="FLOAT")
    make_karaoke("song.wav", "whole.wav", model="toy")
    make_karaoke("song.wav", "part.wav", model="toy", start=0.5, end=1.25)
    whole, part = read(tmp_path / "whole.wav"), read(tmp_path / "part.wav")
    assert np.array_equal(part, whole[:, RATE // 2 : RATE * 5 // 4])


def test_key_and_tempo(tmp_path: Path) -> None:
    t = np.arange(2 * RATE) / RATE
    soundfile.write("song.wav", 0.5 * np.sin(2 * np.pi * 400 * t), RATE, subtype="FLOAT")
    result = make_karaoke("song.wav", "out.wav", model="toy", key=12, tempo=0.8)
    track = read(tmp_path / "out.wav")
    assert track.shape == (1, 2 * RATE * 10 // 8)
    assert result.duration == pytest.approx(2.5)
    frequency = np.abs(np.fft.rfft(track[0] * np.hanning(track.shape[1]))).argmax() * RATE / track.shape[1]
    assert frequency == pytest.approx(800, abs=1)


# ---------------------------------------------------------------- the form of the input


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        ("wav", "PCM_24", 48000, 2),
        ("wav", "FLOAT", 8000, 1),
        ("flac", "PCM_16", 44100, 1),
        ("aiff", "PCM_24", 96000, 2),
    ],
)
def test_lossless_stays_as_it_was(tmp_path: Path, suffix: str, subtype: str, rate: int, channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (rate // 4, channels))
    soundfile.write(tmp_path / f"song.{suffix}", samples, rate, subtype=subtype)
    result = make_karaoke(f"song.{suffix}", model="toy")
    found = soundfile.info(str(result.files["karaoke"]))
    assert result.files["karaoke"].name == f"song (karaoke).{suffix}"
    assert (found.samplerate, found.channels, found.subtype, found.frames) == (rate, channels, subtype, rate // 4)


@pytest.mark.parametrize(("format_", "rate"), [("mp3", 44100), ("ogg", 44100), ("m4a", 44100), ("opus", 48000)])
def test_lossy_stays_aligned_and_no_worse(tmp_path: Path, format_: str, rate: int) -> None:
    noise = np.random.default_rng(1).standard_normal(rate)
    samples = np.convolve(noise, np.hanning(24), "same")[None].repeat(2, axis=0).astype(np.float32) / 30
    path = tmp_path / f"song.{SUFFIX[format_]}"
    with open_encoder(path, format=format_, sample_rate=rate, channels=2, bitrate=160) as encoder:
        encoder.write(samples)
    source = read(path)
    target = make_karaoke(path, model="toy").files["karaoke"]
    track = read(target)
    assert track.shape == source.shape
    size = 2 * rate
    correlation = np.fft.irfft(np.fft.rfft(track[0], size) * np.conj(np.fft.rfft(source[0], size)), size)
    assert int(correlation.argmax()) == 0
    assert track.std() == pytest.approx(REST * source.std(), rel=0.05)  # the codec changes noise a little
    before, after = probe(path), probe(target)
    assert after.codec == before.codec
    assert after.sample_rate == before.sample_rate
    if format_ in ("mp3", "m4a"):  # Vorbis and Opus have no fixed rate
        assert (after.bit_rate or 0) >= 0.95 * (before.bit_rate or 0)


def test_tags_and_cover_are_kept_and_corrected(tmp_path: Path) -> None:
    t = np.arange(44100) / 44100
    with open_encoder("song.mp3", format="mp3", sample_rate=44100, channels=1) as encoder:
        encoder.write((0.3 * np.sin(2 * np.pi * 440 * t))[None].astype(np.float32))
    file = mutagen.File("song.mp3")
    if file.tags is None:
        file.add_tags()
    for frame in (TIT2(3, "Ninny"), TPE1(3, "Björk 絆"), TBPM(3, "120"), TKEY(3, "Am")):
        file.tags.add(frame)
    file.tags.add(APIC(3, "image/png", 3, "", PICTURE))
    file.save()
    plain = mutagen.File(make_karaoke("song.mp3", model="toy").files["karaoke"]).tags
    assert str(plain["TIT2"]) == "Ninny (karaoke)"
    assert str(plain["TPE1"]) == "Björk 絆"
    assert str(plain["TBPM"]) == "120"
    assert str(plain["TKEY"]) == "Am"
    assert plain.getall("APIC")[0].data == PICTURE
    faster = mutagen.File(make_karaoke("song.mp3", "fast.mp3", model="toy", tempo=1.1, key=-2).files["karaoke"]).tags
    assert str(faster["TBPM"]) == "132"
    assert "TKEY" not in faster


def info(**changes: Any) -> AudioInfo:
    fields = {"path": "song.x", "sample_rate": 44100, "channels": 2, "frames": None, "duration": 60.0}
    fields |= {"sample_type": "f32", "lossy": True, "format": "mp3", "codec": "mp3float", "bit_rate": 128000}
    return AudioInfo(**{**fields, **changes})


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, ("mp3", ".mp3", 192)),  # 128k is too little for a second time
        ({"bit_rate": 245_000}, ("mp3", ".mp3", 256)),
        ({"bit_rate": 320_000}, ("mp3", ".mp3", 320)),
        ({"bit_rate": None}, ("mp3", ".mp3", None)),
        ({"format": "wma", "codec": "wmav2"}, ("m4a", ".m4a", 192)),
        ({"format": "webm", "codec": "opus", "bit_rate": 96_000}, ("opus", ".opus", 128)),
        ({"format": "webm", "codec": "vorbis", "bit_rate": 300_000}, ("ogg", ".ogg", 300)),
        ({"format": "m4a", "codec": "aac", "path": "book.M4B"}, ("m4a", ".M4B", 192)),
        ({"format": "m4a", "codec": "aac", "channels": 8}, ("ogg", ".ogg", 768)),
        ({"format": "ape", "codec": "ape", "lossy": False, "sample_type": "s16"}, ("flac", ".flac", None)),
        ({"format": "w64", "codec": "pcm_24", "lossy": False, "sample_type": "s24"}, ("wav", ".wav", None)),
        ({"format": "aiff", "codec": "pcm_16", "lossy": False, "path": "a.aif"}, ("aiff", ".aif", None)),
        ({"format": "alac", "lossy": False, "channels": 6, "sample_type": "s24"}, ("flac", ".flac", None)),
        ({"format": "au", "codec": "pcm_f32", "lossy": False, "channels": 6}, ("wav", ".wav", None)),
    ],
)  # fmt: skip
def test_the_form_follows_the_input(about: dict[str, Any], expected: tuple[str, str, int | None]) -> None:
    found = choose_form(info(**about), KaraokeOptions())
    assert (found.format, found.suffix, found.bitrate) == expected
    assert bool(found.note) == (found.format != info(**about).format)


def test_a_format_asked_for_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="6 channels"):
        choose_form(info(channels=6, format="flac", lossy=False), KaraokeOptions(format="mp3"))
    assert choose_form(info(), KaraokeOptions(format="flac")).format == "flac"
    assert choose_form(info(), KaraokeOptions(bitrate=64)).bitrate == 64
    assert format_for(Path("x.AIF")) == "aiff"
    with pytest.raises(OptionError, match=r"\.xyz"):
        format_for(Path("song.xyz"))


# ---------------------------------------------------------------- video


def clip(path: Path, codec: str = "mpeg4", audio: str = "aac") -> Path:
    """Two seconds of changing grey with noise, frames reordered where the codec does that."""
    rng = np.random.default_rng(0)
    rate = 48000
    with av.open(str(path), "w") as out:
        picture = out.add_stream(codec, rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(audio, rate=rate)
        sound.layout = "stereo"
        for index in range(50):
            image = rng.integers(0, 255, (48, 64, 3), np.uint8) // 8 + np.uint8(index * 4)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(picture.encode(frame))
        frame = av.AudioFrame.from_ndarray(
            rng.uniform(-0.3, 0.3, (2, 2 * rate)).astype(np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate = rate
        parts = av.AudioResampler(
            format=sound.codec_context.format,
            layout="stereo",
            rate=rate,
            frame_size=sound.codec_context.frame_size or 1024,
        )
        for part in [*parts.resample(frame), *parts.resample(None)]:
            out.mux(sound.encode(part))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    return path


def packets(path: Path) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize(
    ("suffix", "codec", "audio"),
    [("mp4", "libx264", "aac"), ("mkv", "libx264", "aac"), ("mov", "mpeg4", "aac"), ("webm", "libvpx", "libopus")],
)
@pytest.mark.parametrize("tempo", [1.0, 0.8])
def test_a_video_keeps_its_pictures(tmp_path: Path, suffix: str, codec: str, audio: str, tempo: float) -> None:
    path = clip(tmp_path / f"clip.{suffix}", codec, audio)
    before, after = packets(path), packets(make_karaoke(path, model="toy", tempo=tempo).files["karaoke"])
    assert [data for data, _ in after] == [data for data, _ in before]
    shift = max(abs(float(late - early / Fraction(tempo))) for (_, early), (_, late) in zip(before, after, strict=True))
    assert shift < 0.001  # Matroska counts milliseconds
    source, track = read(path), read(tmp_path / f"clip (karaoke).{suffix}")
    assert abs(track.shape[1] - source.shape[1] / tempo) <= (1 if suffix in ("mp4", "mov") else 480)
    if tempo == 1:
        length = min(source.shape[1], track.shape[1])
        size = 2 * length
        spectrum = np.fft.rfft(track[0, :length], size) * np.conj(np.fft.rfft(source[0, :length], size))
        assert int(np.fft.irfft(spectrum, size).argmax()) == 0


def test_video_of_another_kind_becomes_mkv(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.avi", "mpeg4", "libmp3lame")
    result = make_karaoke(path, model="toy")
    assert result.files["karaoke"].suffix == ".mkv"
    assert any(".avi" in note for note in result.notes)
    assert [data for data, _ in packets(result.files["karaoke"])] == [data for data, _ in packets(path)]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clip (karaoke).mkv", "clip.avi"]


def test_a_video_as_sound(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4")
    result = make_karaoke(path, model="toy", format="flac", start=0.5, end=1)
    assert result.files["karaoke"].name == "clip (karaoke).flac"
    assert soundfile.info(str(result.files["karaoke"])).frames == 24000
    with pytest.raises(OptionError, match="--from and --to"):
        make_karaoke(path, model="toy", start=0.5)


def test_a_failed_video_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "clip.mp4")

    def full(*_: object, **__: object) -> list[str]:
        raise OutputError("the disk is full.")

    monkeypatch.setattr("unmixcli.karaoke.remux_video", full)
    with pytest.raises(OutputError, match="full"):
        make_karaoke(path, model="toy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("-18dB", -18.0),
        ("-18", -18.0),
        ("-18 dB", -18.0),
        ("\N{MINUS SIGN}6.5DB", -6.5),
        ("0", 0.0),
        ("0dB", 0.0),
        ("off", None),
    ],
)
def test_guides(text: str, level: float | None) -> None:
    assert parse_guide(text) == level


@pytest.mark.parametrize("text", ["", "loud", "-18dBFS", "18%", "1e3", "--18"])
def test_bad_guides(text: str) -> None:
    with pytest.raises(OptionError, match="guide"):
        parse_guide(text)


@pytest.mark.parametrize(("text", "tempo"), [("0.9", 0.9), ("90%", 0.9), (".9", 0.9), ("1.1x", 1.1), ("2", 2.0)])
def test_tempos(text: str, tempo: float) -> None:
    assert parse_tempo(text) == pytest.approx(tempo)


@pytest.mark.parametrize("text", ["", "-1", "fast", "90bpm", "nan"])
def test_bad_tempos(text: str) -> None:
    with pytest.raises(OptionError, match="tempo"):
        parse_tempo(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guide": 3.0}, "guide is 3"),
        ({"guide": float("nan")}, "guide is nan"),
        ({"key": 30}, "key is 30"),
        ({"tempo": 9}, "tempo is 9"),
        ({"stems": ("drums",)}, "karaoke"),
        ({"minus": ("vocals",)}, "karaoke"),
        ({"format": "stem.mp4"}, "one track"),
        ({"residual": "file"}, "one file"),
        ({"volume": 1}, "volume"),
    ],
)
def test_bad_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_karaoke("song.wav", model="toy", **fields)


# ---------------------------------------------------------------- the command


def test_the_command_writes_beside_the_song(tmp_path: Path) -> None:
    song(tmp_path / "cd" / "song.wav")
    result = toy("cd/song.wav", "--guide", "-18dB", "--key", "-1", "--tempo", "90%")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(Path("cd/song (karaoke).wav"))]
    assert soundfile.info("cd/song (karaoke).wav").frames == round(RATE / 2 / 0.9)
    again = toy("cd/song.wav", "--guide", "-18dB", "--key", "-1", "--tempo", "90%")
    assert again.exit_code == 0
    assert "done before" in again.stderr
    other = toy("cd/song.wav", "--key", "2")
    assert other.exit_code == 1
    assert "key: -1.0 → 2.0" in other.stderr
    assert toy("cd/song.wav", "--key", "2", "--overwrite").exit_code == 0


def test_files_of_several_folders(tmp_path: Path) -> None:
    song(tmp_path / "a" / "one.wav")
    song(tmp_path / "b" / "two.flac", seed=1)
    (tmp_path / "b" / "bad.mp3").write_text("no music")
    result = toy("a/one.wav", "b/two.flac", "b/bad.mp3", "gone.wav")
    assert result.exit_code == 1
    assert (tmp_path / "a" / "one (karaoke).wav").is_file()
    assert (tmp_path / "b" / "two (karaoke).flac").is_file()
    assert "bad.mp3" in result.stderr
    assert "gone.wav" in result.stderr
    assert "2 done, 2 failed" in result.stderr


def test_a_folder_is_not_done_twice(tmp_path: Path) -> None:
    song(tmp_path / "songs" / "cd1" / "one.wav")
    song(tmp_path / "songs" / "two.wav", seed=1)
    song(tmp_path / "songs" / "old (karaoke).wav", seed=2)
    for expected in ("2 done", "2 skipped"):
        result = toy("songs")
        assert result.exit_code == 0, result.stderr
        assert expected in result.stderr
    names = sorted(path.name for path in (tmp_path / "songs").rglob("*.wav"))
    assert names == ["old (karaoke).wav", "one (karaoke).wav", "one.wav", "two (karaoke).wav", "two.wav"]
    elsewhere = toy("songs", "-o", "out", "-f", "flac")
    assert elsewhere.exit_code == 0
    assert (tmp_path / "out" / "cd1" / "one (karaoke).flac").is_file()


def test_a_result_can_be_named(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    assert toy("song.wav", "-o", "new/out.flac").exit_code == 0
    assert soundfile.info("new/out.flac").format == "FLAC"
    song(tmp_path / "other.wav")
    several = toy("song.wav", "other.wav", "-o", "out.flac")
    assert several.exit_code == 2
    assert "several inputs" in several.stderr


def test_the_input_is_never_replaced(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    before = (tmp_path / "song.wav").read_bytes()
    result = toy("song.wav", "-o", "song.wav", "--overwrite")
    assert result.exit_code == 1
    assert "would replace an input" in result.stderr
    assert (tmp_path / "song.wav").read_bytes() == before


def test_dry_run_and_json(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    plan = [json.loads(line) for line in toy("song.wav", "--dry-run", "--json").stdout.splitlines()]
    assert plan[0]["outputs"] == {"karaoke": "song (karaoke).wav"}
    assert not (tmp_path / "song (karaoke).wav").exists()
    events = [json.loads(line) for line in toy("song.wav", "--json").stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == ["run", "start", "result", "summary"]


def test_pipes(tmp_path: Path) -> None:
    song(tmp_path / "song.flac", subtype="PCM_16")
    program = [sys.executable, str(Path(cli_toys.__file__)), "karaoke", "-", "-o", "-", "-m", "toy", "--offline"]
    done = subprocess.run(
        program,
        input=(tmp_path / "song.flac").read_bytes(),
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr.decode()
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    assert (rate, samples.shape) == (RATE, (RATE // 2, 2))
    assert np.allclose(samples, REST * soundfile.read("song.flac")[0], atol=1e-4)


def test_wrong_values_are_usage_errors(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    for arguments in (["--guide", "loud"], ["--guide", "6"], ["--tempo", "fast"], ["--key", "99"], ["--tempo", "9"]):
        assert toy("song.wav", *arguments).exit_code == 2, arguments
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
