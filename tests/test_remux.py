"""Video with new sound: the picture's packets stay byte for byte, the sound lies where the old one lay."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from unmixcli.audio.boxes import find, inner_boxes
from unmixcli.audio.decode import open_audio
from unmixcli.audio.encode import SUFFIX, open_encoder
from unmixcli.audio.remux import VIDEO_CONTAINERS, audio_format_for, remux_video
from unmixcli.errors import InputError, OutputError

RATE = 48000
CLICK = RATE // 2  # samples after the start of the sound


def _video(path, codec="mpeg4", audio="aac", start=Fraction(0), title="Clip"):
    container = VIDEO_CONTAINERS[path.suffix][0]
    with av.open(str(path), "w", format=container) as out:
        out.metadata["title"] = title
        picture = out.add_stream(codec, rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = out.add_stream(audio, rate=RATE)
        sound.codec_context.layout = "mono"
        sound.codec_context.open()
        packets = []
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 8, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            packets += picture.encode(frame)
        packets += picture.encode(None)
        x = np.zeros((1, RATE), np.float32)
        x[0, CLICK] = 0.9
        name, step = sound.codec_context.format.name, sound.codec_context.frame_size
        for at in range(0, RATE, step):
            data = x[:, at : at + step]
            data = (data * 32767).astype(np.int16) if name.startswith("s16") else data.copy()
            frame = av.AudioFrame.from_ndarray(data, format=name, layout="mono")
            frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
            frame.pts = at + int(start * RATE)
            packets += sound.encode(frame)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def _pictures(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(bytes(packet), packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


def _click_time(path):
    """Seconds from the first picture to the click."""
    with av.open(str(path)) as container:
        start = next(frame.pts * frame.time_base for frame in container.decode(audio=0))
    with open_audio(path) as decoder:
        x = np.concatenate(list(decoder), axis=1)
    return float(start) + int(np.argmax(np.abs(x[0]))) / RATE - float(_pictures(path)[0][1])


def _new_sound(folder, video, target):
    with open_audio(video) as decoder:
        x = np.concatenate(list(decoder), axis=1)
    format_ = audio_format_for(target)
    path = folder / f"new.{SUFFIX[format_]}"
    with open_encoder(path, format=format_, sample_rate=RATE, channels=1) as encoder:
        encoder.write(-x)
    return path, x


@pytest.mark.parametrize("start", [Fraction(0), Fraction(1, 2)])
@pytest.mark.parametrize(
    ("suffix", "codec", "audio"),
    [(".mp4", "mpeg4", "aac"), (".mov", "mpeg4", "aac"), (".mkv", "mpeg4", "aac"), (".webm", "libvpx", "libopus")],
)
def test_picture_is_copied_and_sound_in_place(suffix, codec, audio, start, tmp_path):
    video = _video(tmp_path / f"v{suffix}", codec, audio, start)
    target = tmp_path / f"out{suffix}"
    sound, x = _new_sound(tmp_path, video, target)
    assert remux_video(video, sound, target, changes={"title": "Clip (karaoke)"}) == []
    before, after = _pictures(video), _pictures(target)
    assert [data for data, _ in before] == [data for data, _ in after]
    assert [time for _, time in before] == [time for _, time in after]
    assert _click_time(target) == pytest.approx(_click_time(video), abs=0.0015)  # mkv and webm: a grid of 1 ms
    with open_audio(target) as decoder:
        y = np.concatenate(list(decoder), axis=1)
        assert decoder.info.has_video
        assert decoder.info.tracks == 1
    if start == 0:
        assert y.shape == x.shape
    at = int(np.argmax(np.abs(y[0])))
    assert y[0, at] < -0.4  # the new sound, not the old
    with av.open(str(target)) as container:
        assert container.metadata["title"] == "Clip (karaoke)"


def test_rotation_is_kept(tmp_path):
    video = _video(tmp_path / "v.mp4")
    data = bytearray(video.read_bytes())
    moov = find(bytes(data), b"moov")
    assert moov is not None
    track = next(box for box in inner_boxes(bytes(data), moov.payload, moov.end) if box.kind == b"trak")
    header = find(bytes(data), b"tkhd", start=track.payload, end=track.end)
    assert header is not None
    quarter = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data[header.payload + 40 : header.payload + 76] = quarter
    video.write_bytes(data)
    sound, _ = _new_sound(tmp_path, video, tmp_path / "out.mp4")
    remux_video(video, sound, tmp_path / "out.mp4")
    result = (tmp_path / "out.mp4").read_bytes()
    tracks = find(result, b"moov")
    assert tracks is not None
    matrices = []
    for box in inner_boxes(result, tracks.payload, tracks.end):
        header = find(result, b"tkhd", start=box.payload, end=box.end) if box.kind == b"trak" else None
        if header is not None:
            matrices.append(result[header.payload + 40 : header.payload + 56])
    assert quarter[:16] in matrices


def test_errors(tmp_path):
    video = _video(tmp_path / "v.mp4")
    sound, _ = _new_sound(tmp_path, video, tmp_path / "out.mp4")
    with pytest.raises(OutputError, match=r"\.flv") as caught:
        remux_video(video, sound, tmp_path / "out.flv")
    assert ".mkv" in str(caught.value.hint)
    with pytest.raises(InputError, match="no video track"):
        remux_video(sound, sound, tmp_path / "out.mp4")
    with pytest.raises(InputError, match="no such file"):
        remux_video(video, tmp_path / "none.m4a", tmp_path / "out.mp4")
    with pytest.raises(OutputError, match="can't be written"):
        remux_video(video, sound, tmp_path / "out.webm")  # WebM holds neither MPEG-4 pictures nor AAC
