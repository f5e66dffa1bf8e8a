"""NI Stems: five tracks, only the first enabled, names and colours in a box, exact lengths."""

from __future__ import annotations

import json

import av
import mutagen
import numpy as np
import pytest

from unmixcli.audio.boxes import find, inner_boxes
from unmixcli.audio.decode import open_audio, probe
from unmixcli.audio.stemfile import add_stem_box, open_stem_encoder, read_stem_metadata
from unmixcli.audio.tags import copy_tags, read_tags
from unmixcli.errors import OutputError

NAMES = ("drums", "bass", "other", "vocals")


def _write(path, stems, sample_rate=44100, block=4001, **options):
    mixture = np.sum(stems, axis=0, dtype=np.float32)
    with open_stem_encoder(path, sample_rate=sample_rate, channels=len(mixture), stems=NAMES, **options) as encoder:
        for at in range(0, mixture.shape[1], block):
            encoder.write(mixture[:, at : at + block], [stem[:, at : at + block] for stem in stems])
    return [mixture, *stems], encoder


@pytest.mark.parametrize("codec", ["aac", "alac"])
@pytest.mark.parametrize("length", [1, 30011])
def test_five_tracks_come_back_aligned(codec, length, tmp_path, rng):
    t = np.arange(length) / 44100
    stems = [(0.2 * np.sin(2 * np.pi * f * t))[None].repeat(2, 0).astype(np.float32) for f in (110, 220, 440, 880)]
    path = tmp_path / "x.stem.mp4"
    tracks, _ = _write(path, stems, codec=codec)
    with av.open(str(path)) as container:
        assert [stream.codec_context.name for stream in container.streams] == [codec] * 5
    for index, expected in enumerate(tracks):
        with open_audio(path, track=index) as decoder:
            y = np.concatenate(list(decoder), axis=1)
            assert decoder.info.frames == length
            assert decoder.info.tracks == 5
        assert np.sqrt(np.mean((y - expected) ** 2)) < (2**-23 if codec == "alac" else 0.02)
    assert isinstance(mutagen.File(path), mutagen.mp4.MP4)


def test_metadata_and_flags(tmp_path, rng):
    path = tmp_path / "x.stem.mp4"
    _write(path, [np.zeros((2, 5000), np.float32)] * 4)
    metadata = read_stem_metadata(path)
    assert metadata is not None
    assert metadata["version"] == 1
    assert [stem["name"] for stem in metadata["stems"]] == ["Drums", "Bass", "Other", "Vocals"]
    assert all(len(stem["color"]) == 7 and stem["color"][0] == "#" for stem in metadata["stems"])
    assert metadata["mastering_dsp"]["compressor"]["enabled"] is False
    assert metadata["mastering_dsp"]["limiter"]["enabled"] is False
    data = path.read_bytes()
    moov = find(data, b"moov")
    assert moov is not None
    enabled = []
    for box in inner_boxes(data, moov.payload, moov.end):
        if box.kind == b"trak":
            header = find(data, b"tkhd", start=box.payload, end=box.end)
            assert header is not None
            enabled.append(data[header.payload + 3] & 1)
    assert enabled == [1, 0, 0, 0, 0]
    stem = find(data, b"moov", b"udta", b"stem")
    assert stem is not None
    assert json.loads(data[stem.payload : stem.end]) == metadata


def test_tags_and_stem_box_live_together(tmp_path):
    from test_tags import FIELDS, JPEG, cover, make, with_cover

    path = tmp_path / "x.stem.mp4"
    _write(path, [np.zeros((2, 5000), np.float32)] * 4)
    origin = with_cover(make(tmp_path, "flac", "a"), JPEG, FIELDS)
    assert copy_tags(origin, path, changes={"title": "Song"}) == []
    assert read_tags(path) == FIELDS | {"title": "Song"}
    assert cover(path).data == JPEG
    assert read_stem_metadata(path) is not None
    assert probe(path, 4).frames == 5000


def test_rates_the_codec_lacks_are_said(tmp_path):
    _, encoder = _write(tmp_path / "x.stem.mp4", [np.zeros((1, 19200), np.float32)] * 4, sample_rate=192000)
    assert encoder.sample_rate == 96000
    assert "192000" in str(encoder.note)
    assert probe(tmp_path / "x.stem.mp4", 3).frames == 9600


def test_wrong_use_is_an_error(tmp_path):
    path = tmp_path / "x.stem.mp4"
    with pytest.raises(OutputError, match="exactly 4 stems, got 2"):
        open_stem_encoder(path, sample_rate=44100, channels=2, stems=("a", "b"))
    with pytest.raises(OutputError, match="6 channels"):
        open_stem_encoder(path, sample_rate=44100, channels=6)
    with pytest.raises(OutputError, match="expected aac or alac"):
        open_stem_encoder(path, sample_rate=44100, channels=2, codec="mp3")
    with pytest.raises(OutputError, match="nowhere"):
        open_stem_encoder(tmp_path / "nowhere" / "x.stem.mp4", sample_rate=44100, channels=2)
    encoder = open_stem_encoder(path, sample_rate=44100, channels=2)
    block = np.zeros((2, 10), np.float32)
    with pytest.raises(ValueError, match="3 stems"):
        encoder.write(block, [block] * 3)
    with pytest.raises(OutputError, match="NaN"):
        encoder.write(block, [block, block, block, block * np.nan])
    encoder.close()
    encoder.close()
    (tmp_path / "text.mp4").write_bytes(b"no boxes here")
    with pytest.raises(OutputError, match="not at the end"):
        add_stem_box(str(tmp_path / "text.mp4"), {})
    assert read_stem_metadata(tmp_path / "text.mp4") is None
