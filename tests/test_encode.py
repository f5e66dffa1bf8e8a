"""Encoders: what is written comes back: bit for bit, or aligned to the sample with the exact length."""

from __future__ import annotations

import threading
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from unmixcli.audio import writer_wav
from unmixcli.audio.channels import LAYOUTS
from unmixcli.audio.decode import open_audio, probe
from unmixcli.audio.encode import ENCODERS, LOSSLESS, SUFFIX, open_encoder, plan_rate, plan_sample_type
from unmixcli.audio.resample import resample_blocks, resampled_length
from unmixcli.errors import OutputError

BITS = {"u8": 8, "s16": 16, "s24": 24, "s32": 32}


def _write(path, x, *, block=4097, **options):
    encoder = open_encoder(path, channels=len(x), **options)
    with encoder:
        for at in range(0, x.shape[1], block):
            encoder.write(x[:, at : at + block])
    return encoder


def _read(path, **options):
    with open_audio(path, **options) as decoder:
        blocks = list(decoder)
        return np.concatenate(blocks, axis=1), decoder.info


def _lag(x, y):
    size = 1 << (2 * max(len(x), len(y))).bit_length()
    product = np.fft.irfft(np.fft.rfft(y, size) * np.fft.rfft(x, size).conj(), size)
    at = int(np.argmax(product))
    return at if at < size // 2 else at - size


def _clicks_in_noise(rng, channels, length, sample_rate):
    noise = rng.standard_normal((channels, length)) * 0.2
    x = sosfilt(butter(4, [100, min(6000, 0.4 * sample_rate)], "band", fs=sample_rate, output="sos"), noise)
    x[:, length // 3] += 0.6
    return x.astype(np.float32)


@pytest.mark.parametrize("format_", sorted(LOSSLESS))
@pytest.mark.parametrize("sample_type", ["u8", "s16", "s24", "s32", "f32", "f64"])
@pytest.mark.parametrize("length", [1, 2, 10007])
def test_lossless_comes_back_bit_for_bit(format_, sample_type, length, tmp_path, rng):
    path = tmp_path / f"x.{SUFFIX[format_]}"
    stored, note = plan_sample_type(format_, sample_type)
    bits = min(BITS.get(stored, 24), BITS.get(sample_type, 24), 24)
    full = 2 ** (bits - 1)
    x = (rng.integers(-full, full, (2, length)) / full).astype(np.float32)
    if length > 3:
        x[:, 0], x[:, 1] = -1.0, (full - 1) / full
    encoder = _write(path, x, format=format_, sample_rate=48000, sample_type=sample_type, frames=length)
    y, info = _read(path)
    assert info.sample_type == stored
    assert info.frames == length
    assert encoder.clipped == 0
    assert encoder.offset == 0
    assert encoder.note == note
    assert (note is not None) == (stored == "s24" and sample_type in ("s32", "f32", "f64"))
    np.testing.assert_array_equal(y, x)


def test_float_keeps_every_bit_and_any_level(tmp_path, rng):
    x = (rng.standard_normal((2, 5000)) * 3).astype(np.float32)
    for format_ in ("wav", "aiff"):
        encoder = _write(tmp_path / f"x.{format_}", x, format=format_, sample_rate=44100, sample_type="f32")
        np.testing.assert_array_equal(_read(encoder.path)[0], x)
        assert encoder.clipped == 0


@pytest.mark.parametrize("format_", ["wav", "flac", "alac", "aiff"])
def test_peaks_are_cut_and_counted(format_, tmp_path):
    x = np.array([[0.0, 1.5, -1.5, 1.0, -1.0, 1.0001]], np.float32)
    encoder = _write(tmp_path / "x", x, format=format_, sample_rate=44100, sample_type="s16")
    y, _ = _read(encoder.path)
    top = 32767 / 32768
    np.testing.assert_array_equal(y, np.array([[0, top, -1, top, -1, top]], np.float32))
    assert encoder.clipped == 3


@pytest.mark.parametrize("format_", ["mp3", "m4a", "ogg", "opus"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("sample_rate", "length"), [(44100, 30011), (48000, 48000), (22050, 1), (44100, 1152)])
def test_lossy_lies_on_the_input(format_, channels, sample_rate, length, tmp_path, rng):
    path = tmp_path / f"x.{SUFFIX[format_]}"
    x = _clicks_in_noise(rng, channels, length, sample_rate)
    encoder = _write(path, x, format=format_, sample_rate=sample_rate)
    rate, note = plan_rate(format_, sample_rate)
    y, info = _read(path)
    assert info.sample_rate == rate == encoder.sample_rate
    assert info.frames == y.shape[1] == resampled_length(length, sample_rate, rate)
    assert info.channels == channels
    assert info.lossy
    assert encoder.note == note
    assert encoder.offset == 0
    if length > 5000:
        same = np.concatenate(list(resample_blocks([x], sample_rate, rate, channels)), axis=1)
        assert [_lag(a, b) for a, b in zip(same, y, strict=True)] == [0] * channels
        assert np.sqrt(np.mean((y - same) ** 2)) < 0.35 * np.sqrt(np.mean(same**2))


def test_other_decoders_agree_on_the_length(tmp_path, rng):
    """Others understand the gapless information: libsndfile for mp3, FFmpeg and iTunes for m4a."""
    x = _clicks_in_noise(rng, 2, 30011, 44100)
    _write(tmp_path / "x.mp3", x, format="mp3", sample_rate=44100)
    mp3, _ = soundfile.read(tmp_path / "x.mp3")
    assert len(mp3) == 30011
    assert _lag(x[0], mp3[:, 0]) == 0
    _write(tmp_path / "x.m4a", x, format="m4a", sample_rate=44100)
    with av.open(str(tmp_path / "x.m4a")) as container:
        stream = container.streams.audio[0]
        assert (stream.duration, stream.time_base) == (30011, Fraction(1, 44100))
        assert stream.start_time == 0
    from mutagen.mp4 import MP4

    numbers = bytes(MP4(tmp_path / "x.m4a")["----:com.apple.iTunes:iTunSMPB"][0]).split()
    priming, padding, total = (int(number, 16) for number in numbers[1:4])
    assert (priming, total) == (1024, 30011)
    assert (priming + padding + total) % 1024 == 0


@pytest.mark.parametrize("format_", [name for name in ENCODERS if name not in ("mp3", "alac")])
@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7, 8])
def test_channels_keep_their_places(format_, channels, tmp_path):
    """Each channel has a tone of its own. The subwoofer of a lossy format keeps only low ones."""
    if (format_, channels) in (("opus", 5), ("opus", 7), ("m4a", 8)):
        with pytest.raises(OutputError, match=f"can't hold {channels} channels"):
            open_encoder(tmp_path / "x", format=format_, sample_rate=48000, channels=channels)
        return
    t = np.arange(48000) / 48000
    tones = [40 + 10 * index for index in range(channels)]
    x = np.stack([0.2 * np.sin(2 * np.pi * tone * t) for tone in tones]).astype(np.float32)
    path = tmp_path / f"x.{SUFFIX[format_]}"
    _write(path, x, format=format_, sample_rate=48000)
    y, info = _read(path)
    assert y.shape == x.shape
    assert [int(np.argmax(np.abs(np.fft.rfft(channel)))) for channel in y] == tones
    if format_ == "wav":
        assert info.channel_layout is not None
        assert len(LAYOUTS[info.channel_layout]) == channels


def test_channel_limits_name_formats_that_can(tmp_path):
    for format_, channels in (("mp3", 6), ("alac", 6), ("flac", 9), ("m4a", 8)):
        with pytest.raises(OutputError, match=f"{format_} can't hold {channels} channels") as caught:
            open_encoder(tmp_path / "x", format=format_, sample_rate=44100, channels=channels)
        assert "wav" in str(caught.value.hint)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000])
def test_every_rate_is_held_or_said(sample_rate, tmp_path, rng):
    x = (rng.standard_normal((1, 3001)) * 0.1).astype(np.float32)
    for format_ in ENCODERS:
        rate, note = plan_rate(format_, sample_rate)
        assert (note is None) == (rate == sample_rate)
        encoder = _write(tmp_path / f"x.{SUFFIX[format_]}", x, format=format_, sample_rate=sample_rate)
        info = probe(encoder.path)
        assert info.sample_rate == rate
        assert info.frames == resampled_length(3001, sample_rate, rate)
        if note is not None:
            assert str(sample_rate) in note
            assert str(rate) in note
    assert plan_rate("opus", 44100)[0] == 48000
    assert plan_rate("mp3", 96000)[0] == 48000
    assert plan_rate("m4a", 96000) == (96000, None)
    assert plan_rate("flac", 192000) == (192000, None)


def test_wav_becomes_rf64_only_when_it_must(tmp_path, rng, monkeypatch):
    x = (rng.standard_normal((2, 5000)) * 0.1).astype(np.float32)
    _write(tmp_path / "a.wav", x, format="wav", sample_rate=44100, sample_type="s24")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFF"
    monkeypatch.setattr(writer_wav, "LIMIT", 20000)
    _write(tmp_path / "b.wav", x, format="wav", sample_rate=44100, sample_type="s24")
    assert (tmp_path / "b.wav").read_bytes()[:4] == b"RF64"
    assert soundfile.info(tmp_path / "b.wav").format == "RF64"
    np.testing.assert_array_equal(_read(tmp_path / "a.wav")[0], _read(tmp_path / "b.wav")[0])
    assert probe(tmp_path / "b.wav").frames == 5000


@pytest.mark.parametrize("format_", list(ENCODERS))
def test_block_sizes_change_nothing(format_, tmp_path, rng):
    x = _clicks_in_noise(rng, 2, 20011, 48000)
    one = _write(tmp_path / "a", x, format=format_, sample_rate=48000, block=999)
    two = _write(tmp_path / "b", x, format=format_, sample_rate=48000, block=20011)
    np.testing.assert_array_equal(_read(one.path)[0], _read(two.path)[0])


@pytest.mark.parametrize("format_", list(ENCODERS))
def test_bitrate_decides_the_size(format_, tmp_path, rng):
    if format_ in LOSSLESS:
        return
    x = (rng.standard_normal((2, 2 * 48000)) * 0.1).astype(np.float32)
    sizes = []
    for bitrate in (96, 192, None):
        encoder = _write(tmp_path / "x", x, format=format_, sample_rate=48000, bitrate=bitrate)
        sizes.append((tmp_path / "x").stat().st_size * 8 / 2 / 1000)
        assert probe(encoder.path).frames == 2 * 48000
    assert sizes[0] < 0.75 * sizes[1]
    assert 0.6 * 192 < sizes[1] < 1.5 * 192
    if format_ == "mp3":
        assert abs(sizes[2] - 320) < 15


def test_works_in_another_thread(tmp_path, rng):
    x = _clicks_in_noise(rng, 2, 20011, 48000)
    failures = []

    def work(format_):
        try:
            _write(tmp_path / f"t.{format_}", x, format=format_, sample_rate=48000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(format_,)) for format_ in ENCODERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(probe(tmp_path / f"t.{format_}").frames == 20011 for format_ in ENCODERS)


@pytest.mark.parametrize("format_", list(ENCODERS))
def test_wrong_use_is_an_error(format_, tmp_path):
    with pytest.raises(OutputError, match="nowhere"):
        open_encoder(tmp_path / "nowhere" / "x", format=format_, sample_rate=44100, channels=2)
    encoder = open_encoder(tmp_path / "x", format=format_, sample_rate=44100, channels=2)
    with pytest.raises(OutputError, match="NaN"), encoder:
        encoder.write(np.full((2, 10), np.nan, np.float32))
    encoder.close()  # after an error, and twice: nothing happens
    with (
        open_encoder(tmp_path / "y", format=format_, sample_rate=44100, channels=2) as other,
        pytest.raises(ValueError, match=r"expected \[2, T\]"),
    ):
        other.write(np.zeros((1, 10), np.float32))


def test_unknown_format_and_sample_type(tmp_path):
    with pytest.raises(OutputError, match="expected one of wav"):
        open_encoder(tmp_path / "x", format="tape", sample_rate=44100, channels=2)
    with pytest.raises(OutputError, match="s12"):
        open_encoder(tmp_path / "x", format="wav", sample_rate=44100, channels=2, sample_type="s12")


@pytest.mark.parametrize("format_", ["wav", "aiff"])
def test_no_samples_make_an_empty_file(format_, tmp_path):
    encoder = _write(tmp_path / f"x.{format_}", np.zeros((2, 0), np.float32), format=format_, sample_rate=44100)
    assert probe(encoder.path).frames == 0


def test_no_samples_make_a_flac_header(tmp_path):
    """0 is FLAC's word for an unknown length, so an empty one is valid but has nothing to read."""
    encoder = _write(tmp_path / "x.flac", np.zeros((2, 0), np.float32), format="flac", sample_rate=44100)
    info = probe(encoder.path)
    assert (info.frames, info.sample_rate, info.channels, info.sample_type) == (None, 44100, 2, "s16")
