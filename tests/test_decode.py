"""The decoder: every container, exact samples, and a clear error for everything damaged."""

from __future__ import annotations

import io
import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from unmixcli.audio.decode import AUDIO_SUFFIXES, open_audio, probe, spool_stdin
from unmixcli.audio.encode import ENCODERS, SUFFIX, open_encoder
from unmixcli.errors import InputError


def _read(path, **options):
    with open_audio(path, **options) as decoder:
        blocks = list(decoder)
        assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
        return np.concatenate(blocks, axis=1) if blocks else None, decoder.info


def _encode(path, x, format_, sample_rate=44100, **options):
    with open_encoder(path, format=format_, sample_rate=sample_rate, channels=len(x), **options) as encoder:
        encoder.write(x)
    return path


def _av_file(path, container, codec, x, sample_rate, *, tracks=1, video=False, sample_format=None):
    """A file made by FFmpeg alone: [C, T] as every one of `tracks` (the k-th is scaled by 1/(k+1))."""
    layout = {1: "mono", 2: "stereo", 8: "7.1"}[len(x)]
    with av.open(str(path), "w", format=container) as out:
        packets = []
        if video:
            picture = out.add_stream("mpeg4", rate=25)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 20, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                packets += picture.encode(frame)
            packets += picture.encode(None)
        streams = []
        for _ in range(tracks):
            stream = out.add_stream(codec, rate=sample_rate)
            if codec in ("aac", "wmav2", "libmp3lame"):
                stream.bit_rate = 192000
            stream.codec_context.layout = layout
            if sample_format:
                stream.codec_context.format = sample_format
            stream.codec_context.open()
            streams.append(stream)
        for index, stream in enumerate(streams):
            name = stream.codec_context.format.name
            step = stream.codec_context.frame_size or 1024
            for at in range(0, x.shape[1], step):
                data = x[:, at : at + step] / (index + 1)
                if name.startswith("s16"):
                    data = np.round(data * 32767).astype(np.int16)
                elif name.startswith("s32"):
                    data = np.round(data.astype(np.float64) * (2**31 - 1)).astype(np.int32)
                data = data if name.endswith("p") else data.T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(data), format=name, layout=layout)
                frame.sample_rate, frame.pts, frame.time_base = sample_rate, at, Fraction(1, sample_rate)
                packets += stream.encode(frame)
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


@pytest.fixture
def tone():
    t = np.arange(20011) / 48000
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 1000 * t)]).astype(np.float32)


@pytest.mark.parametrize(
    ("format_", "subtype", "dtype", "sample_type"),
    [
        ("WAV", "PCM_U8", None, "u8"),
        ("WAV", "PCM_16", "int16", "s16"),
        ("WAV", "PCM_24", "int32", "s24"),
        ("WAV", "PCM_32", "int32", "s32"),
        ("WAV", "FLOAT", "float32", "f32"),
        ("WAV", "DOUBLE", "float64", "f64"),
        ("WAV", "ULAW", None, "s16"),
        ("WAVEX", "PCM_16", "int16", "s16"),
        ("RF64", "PCM_24", "int32", "s24"),
        ("W64", "PCM_16", "int16", "s16"),
        ("AIFF", "PCM_24", "int32", "s24"),
        ("AIFF", "FLOAT", "float32", "f32"),
        ("FLAC", "PCM_16", "int16", "s16"),
        ("FLAC", "PCM_24", "int32", "s24"),
        ("AU", "PCM_16", "int16", "s16"),
        ("CAF", "PCM_16", "int16", "s16"),
        ("CAF", "ALAC_24", "int32", "s24"),
    ],
)
def test_pcm_is_exact(format_, subtype, dtype, sample_type, tmp_path, rng):
    path = tmp_path / "x.bin"  # the suffix says nothing
    x = rng.uniform(-1, 1, (10007, 2))
    soundfile.write(path, x, 44100, format=format_, subtype=subtype)
    y, info = _read(path, block_frames=1000)
    assert (info.frames, info.sample_rate, info.channels) == (10007, 44100, 2)
    assert info.sample_type == sample_type
    assert info.duration == pytest.approx(10007 / 44100)
    assert info.lossy == (subtype == "ULAW")
    if dtype is None:
        np.testing.assert_allclose(y, x.T, atol=0.02)
    else:
        stored, _ = soundfile.read(path, dtype=dtype)
        full = float(-np.iinfo(stored.dtype).min) if stored.dtype.kind == "i" else 1.0
        np.testing.assert_array_equal(y, (stored.T / full).astype(np.float32))


@pytest.mark.parametrize(
    ("container", "codec", "sample_rate", "format_", "lossy", "delay"),
    [
        ("mp3", "libmp3lame", 44100, "mp3", True, 0),
        ("ipod", "aac", 44100, "m4a", True, 0),
        ("mp4", "alac", 48000, "alac", False, 0),
        ("matroska", "aac", 44100, "mkv", True, 0),
        ("matroska", "flac", 44100, "mkv", False, 0),
        ("webm", "libopus", 48000, "mkv", True, 0),
        ("ogg", "libopus", 48000, "opus", True, 0),
        ("asf", "wmav2", 44100, "wma", True, -2048),
        ("adts", "aac", 44100, "aac", True, 1024),
        ("mpegts", "aac", 44100, "ts", True, 1024),
        ("avi", "pcm_s16le", 44100, "avi", False, 0),
        ("mov", "pcm_s24le", 48000, "mov", False, 0),
        ("wv", "wavpack", 48000, "wv", False, 0),
        ("tta", "tta", 48000, "tta", False, 0),
        ("aiff", "pcm_s16be", 44100, "aiff", False, 0),
    ],
)
def test_ffmpeg_formats(container, codec, sample_rate, format_, lossy, delay, tmp_path, tone):
    """FFmpeg writes, we read: the encoder's delay is gone where the container states it (WMA, ADTS and TS don't)."""
    sample_format = {"wavpack": "s16p", "tta": "s16", "wmav2": "fltp"}.get(codec)
    path = _av_file(tmp_path / "x.bin", container, codec, tone, sample_rate, sample_format=sample_format)
    y, info = _read(path, block_frames=4096)
    assert (info.sample_rate, info.channels, info.format, info.lossy) == (sample_rate, 2, format_, lossy)
    start = max(0, delay)
    overlap = min(y.shape[1] - start, tone.shape[1] + min(0, delay)) - 3000
    got = y[:, start + 1500 : start + overlap]
    expected = tone[:, 1500 + max(0, -delay) : overlap + max(0, -delay)]
    assert np.sqrt(np.mean((got - expected) ** 2)) < (0.02 if lossy else 1e-4)
    if delay == 0 and container != "matroska":
        # FFmpeg's own MP4 states the end in milliseconds; ours and iTunes' state it in samples (test_encode)
        assert y.shape[1] == tone.shape[1]
        assert info.frames in (None, tone.shape[1])


def test_eight_planar_channels(tmp_path, rng):
    """PyAV reads beyond planar frames of 8 channels unless they are interleaved first."""
    x = (rng.standard_normal((8, 9000)) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "x.flac", x.T, 48000, subtype="PCM_24")
    with av.open(str(tmp_path / "x.flac")) as source, av.open(str(tmp_path / "x.mkv"), "w") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    y, info = _read(tmp_path / "x.mkv")
    assert (info.channels, info.channel_layout, info.sample_type) == (8, "7.1", "s24")
    np.testing.assert_allclose(y, x, atol=2**-23)


def test_tracks_and_video(tmp_path, tone):
    path = _av_file(tmp_path / "x.mp4", "mp4", "aac", tone, 44100, tracks=2, video=True)
    first, info = _read(path)
    assert (info.tracks, info.track, info.has_video, info.format) == (2, 0, True, "mp4")
    second, other = _read(path, track=1)
    assert other.track == 1
    np.testing.assert_allclose(second[:, 3000:-3000], first[:, 3000:-3000] / 2, atol=0.03)
    with pytest.raises(InputError, match=r"track 2 was asked for, the file has 2 audio tracks") as caught:
        open_audio(path, track=2)
    assert "0 to 1" in str(caught.value.hint)
    with pytest.raises(InputError, match="track -1"):
        open_audio(path, track=-1)


def test_no_audio_track(tmp_path, tone):
    with pytest.raises(InputError, match=r"no audio track \(it holds: video\)"):
        open_audio(_av_file(tmp_path / "x.mp4", "mp4", "aac", tone, 44100, tracks=0, video=True))


def test_a_wav_has_one_track(tmp_path, tone):
    with pytest.raises(InputError, match="the file has 1 audio track "):
        open_audio(_encode(tmp_path / "x.wav", tone, "wav"), track=1)


@pytest.mark.parametrize("format_", list(ENCODERS))
def test_cover_art_is_no_video(format_, tmp_path, tone):
    from test_tags import JPEG, with_cover

    path = _encode(tmp_path / f"x.{SUFFIX[format_]}", tone, format_)
    before, _ = _read(path)
    with_cover(path, JPEG)
    after, info = _read(path)
    assert not info.has_video
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("format_", list(ENCODERS))
@pytest.mark.parametrize("block_frames", [1, 777, 65536])
def test_blocks_are_no_larger_than_asked_and_join_to_the_same(format_, block_frames, tmp_path, tone):
    path = _encode(tmp_path / "x", tone[:, :3001], format_)
    whole, _ = _read(path)
    with open_audio(path, block_frames=block_frames) as decoder:
        blocks = list(decoder)
        assert all(1 <= block.shape[1] <= block_frames for block in blocks)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)
        with pytest.raises(RuntimeError, match="once"):
            iter(decoder)


# ---------------------------------------------------------------- damage


def test_what_is_no_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_audio(tmp_path / "nothing.wav")
    with pytest.raises(InputError, match="is a folder"):
        open_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(InputError, match="empty"):
        open_audio(tmp_path / "empty.wav")
    with pytest.raises(InputError):
        open_audio("a\0b.wav")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, tone):
    path = _encode(tmp_path / "x.wav", tone, "wav")
    path.chmod(0)
    with pytest.raises(InputError, match="can't be opened: Permission denied"):
        open_audio(path)


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "a.flac", "a.m4a", "a"])
@pytest.mark.parametrize(
    "content",
    [b"this is only text\n" * 500, b"\0" * 5000, b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/passwd\n", b"x"],
)
def test_what_is_no_audio(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        _read(tmp_path / name)


def test_random_bytes_are_no_audio(tmp_path, rng):
    (tmp_path / "x.mp3").write_bytes(rng.bytes(200_000))
    with pytest.raises(InputError, match=r"x\.mp3"):
        _read(tmp_path / "x.mp3")


@pytest.mark.parametrize("format_", list(ENCODERS))
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_cut_off_is_an_error_never_less_audio(format_, share, tmp_path, rng):
    x = (rng.standard_normal((2, 2 * 44100)) * 0.1).astype(np.float32)
    path = _encode(tmp_path / f"x.{SUFFIX[format_]}", x, format_)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    if format_ in ("ogg", "opus") and share > 0.1:
        # an Ogg stream doesn't state its length: the cut page is noticed and said
        _, info = _read(path)
        assert any("cut off" in note for note in info.notes)
        return
    with pytest.raises(InputError) as caught:
        _read(path)
    assert path.name in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("format_", ["flac", "alac"])
def test_flipped_bits_are_noticed(format_, tmp_path, rng):
    x = (rng.standard_normal((2, 2 * 44100)) * 0.1).astype(np.float32)
    path = _encode(tmp_path / "x", x, format_)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged|early"):
        _read(path)


@pytest.mark.parametrize("format_", list(ENCODERS))
def test_random_damage_gives_sound_or_an_input_error(format_, tmp_path, rng):
    """Nothing but InputError comes out of a file with bytes overwritten, mostly in its headers."""
    path = _encode(tmp_path / "x", (rng.standard_normal((2, 9000)) * 0.1).astype(np.float32), format_, 48000)
    good = path.read_bytes()
    errors = 0
    for turn in range(40):
        data = bytearray(good)
        first, last = [(0, len(data)), (0, min(600, len(data))), (max(0, len(data) - 2500), len(data))][turn % 3]
        for at in rng.integers(first, last, 6):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            with open_audio(path) as decoder:
                assert sum(block.shape[1] for block in decoder) > 0
        except InputError:
            errors += 1
    assert errors > 0 or format_ == "mp3"  # most damaged mp3 still plays


def test_damaged_mp3_frames_are_said_and_the_length_is_kept(tmp_path, rng):
    x = (rng.standard_normal((2, 4 * 44100)) * 0.1).astype(np.float32)
    path = _encode(tmp_path / "x.mp3", x, "mp3")
    good, _ = _read(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1500] = rng.bytes(1500)
    path.write_bytes(data)
    damaged, info = _read(path)
    assert damaged.shape == good.shape
    assert info.notes
    np.testing.assert_array_equal(damaged[:, :60000], good[:, :60000])


def _wav_with(path, *, channels=2, data_size=None, rate=44100, align=None):
    samples = np.zeros(2000, "<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 4, 2 * channels if align is None else align, 16)
    size = len(samples) if data_size is None else data_size
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body)
    return path


def test_impossible_wav_headers(tmp_path):
    with pytest.raises(InputError, match="0 channels, expected 1 or more"):
        open_audio(_wav_with(tmp_path / "a.wav", channels=0))
    with pytest.raises(InputError, match="0 Hz"):
        open_audio(_wav_with(tmp_path / "b.wav", rate=0))
    with pytest.raises(InputError, match="cut off: its header states 2500 sample frames, 1000 are there"):
        open_audio(_wav_with(tmp_path / "c.wav", data_size=10000))
    (tmp_path / "d.wav").write_bytes(_wav_with(tmp_path / "a.wav").read_bytes()[:36])
    with pytest.raises(InputError, match="no data chunk"):
        open_audio(tmp_path / "d.wav")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000 + 36, 0xFFFFFFFF - 36])
def test_wav_from_a_pipe_has_no_length_and_is_read_whole(size, tmp_path):
    y, info = _read(_wav_with(tmp_path / "x.wav", data_size=size))
    assert y.shape == (2, 1000)
    assert any("no length" in note for note in info.notes)


def test_not_a_number_is_refused_with_its_place(tmp_path):
    for value in (np.nan, np.inf):
        x = np.zeros((2, 5000), np.float32)
        x[1, 4321] = value
        soundfile.write(tmp_path / "x.wav", x.T, 44100, subtype="FLOAT")
        with pytest.raises(InputError, match=r"sample 4321 .*channel 2"):
            _read(tmp_path / "x.wav", block_frames=1000)


def test_sample_rate_changing_inside_is_resampled_and_said(tmp_path, rng):
    t = np.arange(3 * 48000) / 48000
    one = (0.3 * np.sin(2 * np.pi * 440 * t[: 2 * 44100] * 48000 / 44100))[None].astype(np.float32)
    two = (0.3 * np.sin(2 * np.pi * 440 * t[: 2 * 48000]))[None].astype(np.float32)
    joined = _encode(tmp_path / "a.mp3", one, "mp3", 44100).read_bytes()
    joined += _encode(tmp_path / "b.mp3", two, "mp3", 48000).read_bytes()
    (tmp_path / "x.mp3").write_bytes(joined)
    y, info = _read(tmp_path / "x.mp3")
    assert info.sample_rate == 44100
    assert info.frames is None
    assert any("changes to 48000 Hz" in note for note in info.notes)
    assert abs(y.shape[1] - 4 * 44100) < 4000
    second = y[0, -44100:]
    assert int(np.argmax(np.abs(np.fft.rfft(second)))) == 440


def test_chained_ogg_is_read_to_the_end(tmp_path, tone):
    data = _encode(tmp_path / "a.ogg", tone, "ogg").read_bytes()
    other = _encode(tmp_path / "b.ogg", tone[:, :15000], "ogg").read_bytes()
    (tmp_path / "x.ogg").write_bytes(data + other)
    y, _ = _read(tmp_path / "x.ogg")
    assert abs(y.shape[1] - 35011) <= 1024


def test_names_that_look_like_addresses(tmp_path, tone, monkeypatch):
    """A colon or a non-ASCII name is a name, not a protocol."""
    monkeypatch.chdir(tmp_path)
    for name in ("http:song.mp3", "Ünï çødé 歌.m4a", "a b%20c.opus", "-x.wav"):
        format_ = {".mp3": "mp3", ".m4a": "m4a", ".opus": "opus", ".wav": "wav"}[Path(name).suffix]
        y, _ = _read(_encode(name, tone, format_, 48000))
        assert y.shape == tone.shape


def test_standard_input_is_spooled(tmp_path, tone):
    data = _encode(tmp_path / "x.flac", tone, "flac").read_bytes()
    path = spool_stdin(io.BytesIO(data))
    try:
        assert probe(path).frames == tone.shape[1]
    finally:
        Path(path).unlink()
    with pytest.raises(InputError, match="standard input was empty"):
        spool_stdin(io.BytesIO(b""))


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in AUDIO_SUFFIXES)
    assert {".wav", ".mp3", ".flac", ".m4a", ".mkv", ".mp4", ".opus", ".wma", ".webm", ".mov"} <= AUDIO_SUFFIXES


def test_bad_arguments(tmp_path, tone):
    with pytest.raises(ValueError, match="block_frames is 0"):
        open_audio(_encode(tmp_path / "x.wav", tone, "wav"), block_frames=0)
