"""Tags across formats: what describes the music is kept, what describes the old file is not, nothing hostile passes."""

from __future__ import annotations

import itertools
import struct
import zlib

import mutagen
import numpy as np
import pytest
from mutagen.id3 import APIC, GEOB, ID3, RVA2, TIT2, TSSE, TXXX

from unmixcli.audio.decode import open_audio
from unmixcli.audio.encode import ENCODERS, SUFFIX, open_encoder
from unmixcli.audio.tag_maps import Cover, Tags, write_native
from unmixcli.audio.tags import copy_tags, read_tags

FORMATS = list(ENCODERS)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(500) + b"\xff\xd9"
FIELDS = {
    "title": "Lied für Ёва 歌",
    "artist": "Artist",
    "album": "Album",
    "albumartist": "Various",
    "date": "1999-05-03",
    "genre": "Drum & Bass",
    "composer": "J. S. Bach",
    "tracknumber": "3",
    "tracktotal": "12",
    "discnumber": "1",
    "disctotal": "2",
    "bpm": "128",
    "initialkey": "8A",
    "isrc": "USRC17607839",
    "label": "Label",
    "comment": "two\nlines",
    "lyrics": "la\nla",
    "titlesort": "Lied",
    "myownfield": "kept",
}


def png(width, height):
    """A grey PNG that decoders accept."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(width) for _ in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG = png(4, 4)


def make(folder, format_, name="x"):
    """A short file without tags."""
    path = folder / f"{name}.{SUFFIX[format_]}"
    with open_encoder(path, format=format_, sample_rate=48000, channels=2) as encoder:
        encoder.write(np.random.default_rng(1).uniform(-0.5, 0.5, (2, 5000)).astype(np.float32))
    return path


def with_cover(path, data, fields=None, mime="image/jpeg"):
    """Write tags and a picture the plain way."""
    file = mutagen.File(path)
    tags = Tags(covers=[Cover(data, mime)])
    for name, value in (fields or {}).items():
        tags.add(name, value)
    write_native(file, tags)
    return path


def cover(path):
    """The first picture of a file as mutagen gives it."""
    from unmixcli.audio.tag_maps import read_native

    covers = read_native(mutagen.File(path)).covers
    return covers[0] if covers else None


def samples(path):
    """All samples."""
    with open_audio(path) as decoder:
        return np.concatenate(list(decoder), axis=1)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)))
def test_across_formats(source, target, tmp_path):
    origin = with_cover(make(tmp_path, source, "a"), PNG, FIELDS, "image/png")
    assert read_tags(origin) == FIELDS
    copy = make(tmp_path, target, "b")
    before = samples(copy)
    assert copy_tags(origin, copy, changes={"title": "Song (vocals)"}) == []
    assert read_tags(copy) == FIELDS | {"title": "Song (vocals)"}
    picture = cover(copy)
    assert picture is not None
    assert picture.data == PNG
    np.testing.assert_array_equal(samples(copy), before)
    # a second time: nothing doubles
    assert copy_tags(origin, copy, changes={}) == []
    assert read_tags(copy) == FIELDS


@pytest.mark.parametrize("format_", FORMATS)
def test_levels_encoders_and_delays_stay_behind(format_, tmp_path):
    wrong = {
        "replaygain_track_gain": "-8 dB",
        "replaygain_album_peak": "0.9",
        "r128_track_gain": "-2000",
        "itunnorm": " 00000",
        "encoder": "LAME",
        "encodedby": "someone",
        "acoustid_fingerprint": "AQAD",
    }
    origin = with_cover(make(tmp_path, format_, "a"), JPEG, {"title": "T", **wrong})
    for target in FORMATS:
        copy = make(tmp_path, target, f"b-{target}")
        delay = bytes(mutagen.File(copy)["----:com.apple.iTunes:iTunSMPB"][0]) if target == "m4a" else b""
        assert copy_tags(origin, copy) == []
        assert read_tags(copy) == {"title": "T"}
        if target == "m4a":
            assert bytes(mutagen.File(copy)["----:com.apple.iTunes:iTunSMPB"][0]) == delay


def test_id3_to_id3_keeps_what_only_id3_knows(tmp_path):
    origin = make(tmp_path, "mp3", "a")
    tags = ID3()
    tags.add(TIT2(text=["Old"]))
    tags.add(GEOB(mime="application/octet-stream", filename="", desc="Serato BeatGrid", data=b"\1\2"))
    tags.add(TXXX(desc="Mine", text=["yes"]))
    tags.add(TSSE(text=["LAME"]))
    tags.add(RVA2(desc="track", channel=1, gain=-3, peak=1))
    tags.save(origin, v2_version=3)
    for target in ("mp3", "aiff", "wav"):
        copy = make(tmp_path, target, f"b-{target}")
        assert copy_tags(origin, copy, changes={"title": "New"}) == []
        frames = mutagen.File(copy).tags
        assert frames["GEOB:Serato BeatGrid"].data == b"\1\2"
        assert frames["TIT2"].text == ["New"]
        assert frames["TXXX:mine"].text == ["yes"]
        assert not frames.getall("TSSE")
        assert not frames.getall("RVA2")
        assert frames.version[1] == 3


def test_several_values_are_kept_and_joined_for_people(tmp_path):
    origin = make(tmp_path, "flac", "a")
    file = mutagen.File(origin)
    file["artist"] = ["One", "Two"]
    file.save()
    assert read_tags(origin)["artist"] == "One, Two"
    for target in FORMATS:
        copy = make(tmp_path, target, f"b-{target}")
        copy_tags(origin, copy)
        assert read_tags(copy)["artist"] == "One, Two"


def test_an_empty_change_removes(tmp_path):
    origin = with_cover(make(tmp_path, "flac", "a"), JPEG, {"title": "T", "isrc": "X"})
    copy = make(tmp_path, "mp3", "b")
    copy_tags(origin, copy, changes={"isrc": ""})
    assert read_tags(copy) == {"title": "T"}


@pytest.mark.parametrize("target", FORMATS)
def test_hostile_text(target, tmp_path):
    origin = make(tmp_path, "flac", "a")
    file = mutagen.File(origin)
    file["title"] = "a\r\nb\x1b[31m\x07\u202egnp.exe\u200b"
    file["artist"] = "x" * 100_000
    file["comment"] = "one\r\ntwo\x00three"
    file["album"] = "\x01\x02"
    file.save()
    copy = make(tmp_path, target, "b")
    assert copy_tags(origin, copy) == []
    tags = read_tags(copy)
    assert tags["title"] == "a b[31mgnp.exe"
    assert len(tags["artist"]) == 10_000
    assert tags["comment"] == "one\ntwothree"
    assert "album" not in tags
    assert read_tags(origin)["title"] == tags["title"]


def test_hostile_pictures(tmp_path):
    origin = make(tmp_path, "mp3", "a")
    tags = ID3()
    tags.add(APIC(mime="image/jpeg", type=3, desc="huge", data=JPEG + bytes(16 * 2**20)))
    tags.add(APIC(mime="image/jpeg", type=3, desc="program", data=b"MZ\x90\0" * 10))
    tags.add(APIC(mime="image/png", type=3, desc="wrong type", data=JPEG))
    tags.save(origin)
    for target in FORMATS:
        copy = make(tmp_path, target, f"b-{target}")
        warnings = copy_tags(origin, copy)
        assert len(warnings) == 2
        assert "16 MiB" in " ".join(warnings)
        picture = cover(copy)
        assert picture is not None
        assert picture.data == JPEG


@pytest.mark.parametrize("format_", FORMATS)
def test_broken_tags_never_raise(format_, tmp_path, rng):
    """Bytes of the tags are overwritten at random: a warning at most, and the target stays readable."""
    origin = with_cover(make(tmp_path, format_, "a"), PNG, FIELDS, "image/png")
    good = origin.read_bytes()
    at = good.find(b"Various")
    assert at > 0
    for _ in range(15):
        data = bytearray(good)
        for place in rng.integers(max(0, at - 300), min(len(good), at + 300), 20):
            data[place] = rng.integers(256)
        origin.write_bytes(data)
        copy = make(tmp_path, format_, "b")
        assert isinstance(copy_tags(origin, copy), list)
        assert isinstance(read_tags(origin), dict)
        assert samples(copy).shape == (2, 5000)


def test_sources_without_tags_or_that_are_no_audio(tmp_path):
    copy = make(tmp_path, "mp3", "b")
    assert copy_tags(make(tmp_path, "wav", "a"), copy, changes={"title": "T"}) == []
    assert read_tags(copy) == {"title": "T"}
    (tmp_path / "text.mp3").write_text("nothing")
    assert read_tags(tmp_path / "text.mp3") == {}
    assert read_tags(tmp_path / "missing.mp3") == {}
    warnings = copy_tags(tmp_path / "missing.mp3", copy, changes={"title": "U"})
    assert warnings
    assert read_tags(copy) == {"title": "U"}
    assert copy_tags(copy, tmp_path / "missing.flac")


def test_windows_media(tmp_path):
    import av

    path = tmp_path / "x.wma"
    with av.open(str(path), "w", format="asf") as out:
        stream = out.add_stream("wmav2", rate=44100)
        stream.bit_rate = 192000
        stream.codec_context.layout, stream.codec_context.format = "stereo", "fltp"
        stream.codec_context.open()
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 2048), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44100, index * 2048
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    file = mutagen.File(path)
    file["Title"] = "T"
    file["WM/AlbumTitle"] = "Album"
    file["WM/TrackNumber"] = "4"
    file["WM/BeatsPerMinute"] = "120"
    file["ReplayGain_Track_Gain"] = "-3"
    picture = struct.pack("<BI", 3, len(JPEG)) + "image/jpeg\0".encode("utf-16-le") + b"\0\0" + JPEG
    file["WM/Picture"] = [mutagen.asf.ASFByteArrayAttribute(picture)]
    file.save()
    copy = make(tmp_path, "flac", "b")
    assert copy_tags(path, copy) == []
    assert read_tags(copy) == {"title": "T", "album": "Album", "tracknumber": "4", "bpm": "120"}
    assert cover(copy).data == JPEG


def test_matroska_and_riff_info(tmp_path):
    import av
    import soundfile

    path = tmp_path / "x.mka"
    with av.open(str(path), "w", format="matroska") as out:
        out.metadata["title"] = "From a video"
        out.metadata["ARTIST"] = "Someone"
        stream = out.add_stream("flac", rate=44100, layout="mono")
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    tags = read_tags(path)
    assert (tags["title"], tags["artist"]) == ("From a video", "Someone")
    with soundfile.SoundFile(tmp_path / "x.wav", "w", 44100, 1) as sound:
        sound.title, sound.artist = "Riff", "Info"
        sound.write(np.zeros(100))
    assert read_tags(tmp_path / "x.wav") == {"title": "Riff", "artist": "Info"}
