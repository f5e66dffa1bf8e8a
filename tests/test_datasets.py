"""Data sets as they are distributed, excerpts that depend on the seed alone, and the packed set."""

from __future__ import annotations

import json
import pickle
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import training_toys as toys
from numpy.typing import NDArray

from unmixcli.audio.stemfile import open_stem_encoder
from unmixcli.errors import InputError, OptionError
from unmixcli.training import packed
from unmixcli.training.augment import AUGMENTATIONS, settings_of
from unmixcli.training.datasets import Excerpts, read_track
from unmixcli.training.layouts import LAYOUTS, find_tracks
from unmixcli.training.packed import pack, read_packed
from unmixcli.training.recipe import read_recipe
from unmixcli.training.sources import open_sources
from unmixcli.training.stem_names import instrument_stem, stem_name
from unmixcli.training.tracks import ALL, FilePart, Track, describe_all

Samples = NDArray[np.float32]
FOUR = ("vocals", "drums", "bass", "other")
RATE = 8000


def noise(seed: int, length: int = RATE, channels: int = 2) -> Samples:
    """Seeded noise that 16-bit files hold exactly, [C, T]."""
    rng = np.random.default_rng(seed)
    return (np.rint(rng.uniform(-0.25, 0.25, (channels, length)) * 32768) / 32768).astype(np.float32)


def write(path: Path, audio: Samples, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, rate, subtype="PCM_16")


def write_song(folder: Path, seed: int, stems: tuple[str, ...] = FOUR, **about: Any) -> None:
    for index, stem in enumerate(stems):
        write(folder / f"{stem}.wav", noise(10 * seed + index))
    if about:
        (folder / "track.json").write_text(json.dumps(about))


@pytest.fixture
def songs(tmp_path: Path) -> list[Track]:
    """Three songs; the third has no bass."""
    for seed in range(3):
        write_song(tmp_path / "songs" / f"song{seed}", seed, FOUR if seed < 2 else ("vocals", "drums", "other"))
    return find_tracks(tmp_path / "songs")


# ---------------------------------------------------------------- layouts


def test_musdb18_is_five_tracks_in_one_file(tmp_path: Path) -> None:
    for split, name in (("train", "A - One"), ("train", "Leaf - Summerghost"), ("test", "B - Two")):
        (tmp_path / split).mkdir(exist_ok=True)
        path = tmp_path / split / f"{name}.stem.mp4"
        parts = [noise(seed, 6000) for seed in range(4)]
        with open_stem_encoder(path, sample_rate=RATE, channels=2, codec="alac", sample_type="s16") as encoder:
            encoder.write(sum(parts), parts)
    tracks = find_tracks(tmp_path)
    assert [(track.name, track.split) for track in tracks] == [
        ("A - One", "train"),
        ("B - Two", "test"),
        ("Leaf - Summerghost", "validation"),
    ]
    item = read_track(tracks[0], ("drums", "bass", "other", "vocals"), RATE)
    np.testing.assert_array_equal(item["stems"].numpy(), np.stack([noise(seed, 6000) for seed in range(4)]))
    assert item["mixture"].shape == (2, 6000)


def test_stems_files_of_others_are_read_by_the_names_in_them(tmp_path: Path) -> None:
    parts = [noise(seed, 3000) for seed in range(4)]
    path = tmp_path / "song.stem.mp4"
    with open_stem_encoder(
        path, sample_rate=RATE, channels=2, codec="alac", sample_type="s16", stems=("Vox", "Other", "Bass", "Drums")
    ) as encoder:
        encoder.write(sum(parts), parts)
    item = read_track(find_tracks(tmp_path)[0], FOUR, RATE)
    np.testing.assert_array_equal(item["stems"].numpy(), np.stack([parts[at] for at in (0, 3, 2, 1)]))


def test_musdb18hq(tmp_path: Path) -> None:
    for split, name in (("train", "A - One"), ("train", "Young Griffo - Pennies"), ("test", "B - Two")):
        write_song(tmp_path / split / name, 1)
        write(tmp_path / split / name / "mixture.wav", noise(99))
    tracks = find_tracks(tmp_path)
    assert [(track.name, track.split) for track in tracks] == [
        ("A - One", "train"),
        ("B - Two", "test"),
        ("Young Griffo - Pennies", "validation"),
    ]
    assert all(set(track.stems) == set(FOUR) for track in tracks)


def test_dsd100(tmp_path: Path) -> None:
    for half, name in (("Dev", "051 - AM Contra - Heart Peripheral"), ("Test", "001 - ANiMAL - Clinic A")):
        write_song(tmp_path / "DSD100" / "Sources" / half / name, 1)
        write(tmp_path / "DSD100" / "Mixtures" / half / name / "mixture.wav", noise(9))
    tracks = find_tracks(tmp_path)  # one level above, as unpacked
    assert [(track.name[:3], track.split) for track in tracks] == [("001", "test"), ("051", "train")]
    assert set(tracks[0].stems) == set(FOUR)


def test_mir1k_has_the_voice_on_the_right(tmp_path: Path) -> None:
    names = ("abjones_1_01", "abjones_5_08", "amy_9_09", "amy_1_02", "Ani_1_04", "geniusturtle_2_03")
    for seed, name in enumerate(names):
        write(tmp_path / "MIR-1K" / "Wavfile" / f"{name}.wav", noise(seed))
        write(tmp_path / "MIR-1K" / "UndividedWavfile" / f"{name[:-3]}.wav", noise(seed))
    tracks = {track.name: track for track in find_tracks(tmp_path / "MIR-1K")}
    splits = {name: track.split for name, track in tracks.items()}
    assert splits == dict(zip(names, ("train", "validation", "validation", "train", "test", "test"), strict=True))
    item = read_track(tracks["abjones_1_01"], ("vocals", "accompaniment"), RATE)
    left, right = noise(0)
    np.testing.assert_array_equal(item["stems"].numpy(), [[right, right], [left, left]])
    assert item["known"].tolist() == [True, True]
    assert read_track(tracks["abjones_1_01"], FOUR, RATE)["known"].tolist() == [True, False, False, False]


def test_mir1k_in_folders_of_its_split(tmp_path: Path) -> None:
    for folder, name in (("train", "amy_1_01"), ("dev", "amy_9_08"), ("test", "Ani_1_04")):
        write(tmp_path / folder / f"{name}.wav", noise(1))
    assert [track.split for track in find_tracks(tmp_path)] == ["test", "train", "validation"]


def test_ikala(tmp_path: Path) -> None:
    for folder in ("Lyrics", "PitchLabel", "Wavfile"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "Wavfile" / "10161_chorus.wav", noise(3))
    (track,) = find_tracks(tmp_path)
    item = read_track(track, ("vocals",), RATE)
    np.testing.assert_array_equal(item["stems"][0, 0].numpy(), noise(3)[1])
    np.testing.assert_allclose(item["mixture"][0].numpy(), noise(3).sum(axis=0), atol=1e-7)


def test_ccmixter(tmp_path: Path) -> None:
    for seed, file in enumerate(("mix", "source-01", "source-02")):
        write(tmp_path / "_djbluefuze_-_Shes_A_Freak_Remix" / f"{file}.wav", noise(seed))
    (track,) = find_tracks(tmp_path)
    item = read_track(track, ("vocals", "accompaniment"), RATE)
    np.testing.assert_array_equal(item["stems"].numpy(), [noise(2), noise(1)])


MEDLEY = (
    ("electric bass", "bass"),
    ("drum set", ""),
    ("clean electric guitar", ""),
    ("male singer", "melody"),
    ("tambourine", ""),
    ("bass clarinet", ""),
)


def write_medley(root: Path, name: str, metadata: Path, bleed: Any = "no") -> None:
    lines = [f"has_bleed: {bleed}", "stems:"]
    for index, (instrument, component) in enumerate(MEDLEY, 1):
        file = f"{name}_STEM_{index:02d}.wav"
        write(root / name / f"{name}_STEMS" / file, noise(index))
        lines += [f"  S{index:02d}:", f"    component: '{component}'", f"    filename: {file}"]
        lines += [f"    instrument: {instrument}", "    raw: {}"]
    write(root / name / f"{name}_MIX.wav", noise(77))
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / f"{name}_METADATA.yaml").write_text("\n".join(lines))


def test_medleydb_sums_its_stems_by_instrument(tmp_path: Path) -> None:
    write_medley(tmp_path / "Audio", "Artist_Song", tmp_path / "Audio" / "Artist_Song", "'no'")
    write_medley(tmp_path / "V2", "Other_Song", tmp_path / "Metadata")
    write_medley(tmp_path / "V2", "Live_Song", tmp_path / "Metadata", "'yes'")
    write_medley(tmp_path / "V2", "Live_Two", tmp_path / "Metadata", "yes")  # which YAML reads as true
    tracks = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["Artist_Song", "Other_Song"]
    assert len(find_tracks(tmp_path, bleed=True)) == 4
    item = read_track(tracks[0], FOUR, RATE)
    sums = [noise(4), noise(2) + noise(5), noise(1), noise(3) + noise(6)]
    np.testing.assert_allclose(item["stems"].numpy(), np.stack(sums), atol=1e-7)


def test_medleydb_without_its_metadata_says_where_they_are(tmp_path: Path) -> None:
    write_medley(tmp_path, "Artist_Song", tmp_path / "elsewhere" / "deep")
    with pytest.raises(InputError, match=r"has no Artist_Song_METADATA\.yaml") as caught:
        find_tracks(tmp_path, "medleydb")
    assert "marl/medleydb" in str(caught.value.hint)


def test_plain_track_folders(tmp_path: Path) -> None:
    write_song(
        tmp_path / "train" / "album" / "one", 0, ("Lead Vocals", "bv_vox_2", "Kick", "Snare", "Bass DI", "Guitar")
    )
    write(tmp_path / "train" / "album" / "one" / "mix.wav", noise(50))
    write(tmp_path / "train" / "album" / "one" / "one.wav", noise(51))
    write_song(tmp_path / "valid" / "two", 1, ("vocals", "instrumental"))
    write_song(tmp_path / "test" / "three", 2, unknown=["bass"], licence="CC0-1.0", weight=2, split="train", bpm=120)
    one, three, two = (
        sorted(find_tracks(tmp_path), key=lambda track: track.name[-3:] != "one")[:1] + find_tracks(tmp_path)[:2]
    )
    assert (one.name, one.split) == ("train/album/one", "train")
    assert {name: len(parts) for name, parts in one.stems.items()} == {"vocals": 2, "drums": 2, "bass": 1, "guitar": 1}
    assert (three.name, three.split, three.unknown) == ("test/three", "train", {"bass"})
    assert (three.licence, three.weight) == ("CC0-1.0", 2)
    assert two.name == "train/album/one"
    assert find_tracks(tmp_path / "valid")[0].stems.keys() == {"vocals", "accompaniment"}


def test_a_folder_per_source(tmp_path: Path) -> None:
    for seed, (stem, file) in enumerate((("vocals", "anna/a.wav"), ("drums", "kit/x/kick.wav"), ("bass", "b.wav"))):
        write(tmp_path / stem / file, noise(seed))
    tracks = find_tracks(tmp_path)
    assert [track.name for track in tracks] == ["bass/b.wav", "drums/kit/x/kick.wav", "vocals/anna/a.wav"]
    assert all(track.unknown == {ALL} for track in tracks)
    assert tracks[0].plan(FOUR).known == (False, False, True, False)
    assert tracks[1].plan(("vocals", "accompaniment")).known == (False, False)


def test_wrong_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_tracks(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no tracks with stems"):
        find_tracks(tmp_path)
    with pytest.raises(OptionError, match="layout is 'musdb'"):
        find_tracks(tmp_path, "musdb")
    write_song(tmp_path / "song", 0)
    with pytest.raises(InputError, match="layout dsd100"):
        find_tracks(tmp_path, "dsd100")
    for text, words in (("{", "not JSON"), ("[]", "expected a table"), ('{"weight": -1}', "weight is -1"),
                        ('{"split": "x"}', "split is 'x'"), ('{"unknown": "bass"}', "unknown is 'bass'"),
                        ('{"bleed": 1}', "bleed is 1")):  # fmt: skip
        (tmp_path / "song" / "track.json").write_text(text)
        with pytest.raises(InputError, match=words):
            find_tracks(tmp_path)


def test_settings_by_name(songs: list[Track], tmp_path: Path) -> None:
    found = find_tracks(tmp_path / "songs", settings={"song1": {"unknown": ["bass", "other"]}})
    assert [sorted(track.unknown) for track in found] == [[], ["bass", "other"], []]
    with pytest.raises(OptionError, match="no track is called 'song7'; there are song0, song1, song2"):
        describe_all(songs, {"song7": {}})


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("Vocals", "vocals"), ("lead_vox", "vocals"), ("drums 2", "drums"), ("bass drum", "drums"),
        ("Kick-In", "drums"), ("Bass Guitar", "bass"), ("synth bass", "bass"), ("bass clarinet", "bass_clarinet"),
        ("other_3", "other"), ("no_vocals", "accompaniment"), ("Instrumental", "accompaniment"), ("guitar", "guitar"),
        ("high hat", "drums"), ("", "other"),
    ],
)  # fmt: skip
def test_names_of_stems(name: str, stem: str) -> None:
    assert stem_name(name) == stem


def test_instruments_of_medleydb() -> None:
    assert instrument_stem("double bass", "bass") == "bass"
    assert instrument_stem("tuba", "bass") == "bass"
    assert instrument_stem(["drum set", "tambourine"], "") == "drums"
    assert instrument_stem(["drum set", "piano"], "") == "other"
    assert instrument_stem("vibraphone", "melody") == "other"


# ---------------------------------------------------------------- what a track has of the stems asked for


def part(seed: int = 0) -> tuple[FilePart]:
    return (FilePart(f"{seed}.wav"),)


def test_other_is_what_is_not_asked_for_by_name() -> None:
    track = Track("t", {"vocals": part(0), "drums": part(1), "bass": part(2), "guitar": part(3), "piano": part(4)})
    assert track.plan(FOUR).parts[3] == part(3) + part(4)
    assert track.plan((*FOUR, "piano")).parts[3] == part(3)
    assert track.plan(("vocals", "accompaniment")).parts[1] == part(1) + part(2) + part(3) + part(4)
    assert track.plan(("other",)).rest == part(0) + part(1) + part(2)
    assert track.plan(("strings",)).known == (True,)  # every instrument of the track has its own name
    assert Track("t", {"vocals": part(), "other": part()}).plan(("guitar",)).known == (False,)
    for stems in ((), ("vocals", "vocals"), ("drums", "accompaniment")):
        with pytest.raises(OptionError):
            track.plan(stems)


def test_unknown_stems_sound_but_are_no_target() -> None:
    track = Track("t", {"vocals": part(0), "other": part(1)}, unknown=frozenset({"bass", "other"}))
    plan = track.plan(FOUR)
    assert plan.known == (True, True, False, False)
    assert plan.parts == (part(0), (), (), ())
    assert plan.rest == part(1)
    assert not plan.complete


# ---------------------------------------------------------------- excerpts


def excerpts(tracks: list[Track], stems: tuple[str, ...] = FOUR, **options: Any) -> Excerpts:
    return Excerpts(tracks, stems, **{"sample_rate": RATE, "length": 1000, "seed": 5, **options})


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], two[key]) for key in ("stems", "mixture", "known"))


def test_an_item_depends_on_seed_and_index_alone(songs: list[Track]) -> None:
    options = {"cross_track": 0.5, "augmentations": [{"kind": "gain"}, {"kind": "speed", "probability": 0.5}]}
    first = excerpts(songs, **options)
    items = [first[index] for index in range(12)]
    for item in items:
        assert item["stems"].shape == (4, 2, 1000)
        assert item["stems"].dtype == item["mixture"].dtype == torch.float32
        torch.testing.assert_close(item["mixture"], item["stems"].sum(0))
    order = list(range(12))
    random.Random(1).shuffle(order)
    again = pickle.loads(pickle.dumps(excerpts(songs, **options)))  # as a worker process gets it
    assert all(same(again[index], items[index]) for index in order)
    assert not any(same(items[0], item) for item in items[1:])
    assert not same(excerpts(songs, **options, seed=6)[0], items[0])


def test_excerpts_are_from_one_place_of_one_track(songs: list[Track]) -> None:
    source = [np.stack([noise(10 * seed + index) for index in range(4)]) for seed in range(2)]
    found: set[tuple[int, int]] = set()
    data = excerpts(songs)
    for index in range(60):
        stems = data[index]["stems"].numpy()
        for song in range(2):
            match = np.flatnonzero(source[song][0, 0, :-999] == stems[0, 0, 0])
            for start in match:
                if np.array_equal(source[song][..., start : start + 1000], stems):
                    found.add((song, int(start)))
    assert {song for song, _ in found} == {0, 1}
    assert len(found) > 20
    starts = [start for _, start in found]
    assert min(starts) < 1000
    assert max(starts) > 6000


def test_mixing_takes_every_stem_from_its_own_place(songs: list[Track]) -> None:
    mixed = excerpts(songs, cross_track=1.0, keep_silent=0.0)
    origins = set()
    for index in range(30):
        stems = mixed[index]["stems"].numpy()
        assert all(row.any() for row in stems)  # the third song's missing bass is not drawn
        which = [
            [
                song
                for song in range(3)
                if (noise(10 * song + (at if song < 2 or at < 2 else at - 1))[0] == row[0, 500]).any()
            ]
            for at, row in enumerate(stems)
        ]
        origins.add(tuple(tuple(songs_) for songs_ in which))
    assert len(origins) > 10
    kept = excerpts(songs, cross_track=1.0, keep_silent=1.0)
    silent = [not kept[index]["stems"][2].any() for index in range(60)]
    assert 5 < sum(silent) < 40


def test_unknown_stems_are_skipped_or_masked(songs: list[Track]) -> None:
    some = describe_all(songs, {"song0": {"unknown": ["bass", "other"]}, "song1": {"weight": 0}})
    skipping = excerpts(some)
    assert all(skipping[index]["known"].all() for index in range(20))
    masked = excerpts(some, unknown="mask")
    items = [masked[index] for index in range(20)]
    partly = [item for item in items if not item["known"].all()]
    assert 0 < len(partly) < 20
    for item in partly:
        assert item["known"].tolist() == [True, True, False, False]
        assert not item["stems"][2:].any()
        assert (item["mixture"] - item["stems"].sum(0)).abs().max() > 0.1
    # Mixing still takes what is known of a track that is not used whole.
    mixed = excerpts(describe_all(songs, {"song0": {"unknown": ["bass"]}}), cross_track=1.0)
    assert all(mixed[index]["known"].all() for index in range(5))


def test_a_single_target_hears_the_rest_in_the_mixture(songs: list[Track]) -> None:
    for cross in (0.0, 1.0):
        item = excerpts(songs, ("vocals",), cross_track=cross)[0]
        assert item["stems"].shape == (1, 2, 1000)
        assert (item["mixture"] - item["stems"][0]).abs().max() > 0.1


def test_sources_are_always_mixed(tmp_path: Path) -> None:
    for seed, stem in enumerate(FOUR):
        write(tmp_path / stem / "a.wav", noise(seed))
    item = excerpts(find_tracks(tmp_path))[3]
    assert item["known"].all()
    assert all(row.any() for row in item["stems"])


def test_short_tracks_lie_somewhere_in_silence(tmp_path: Path) -> None:
    write(tmp_path / "song" / "vocals.wav", noise(0, 300))
    items = [excerpts(find_tracks(tmp_path), ("vocals",))[index]["stems"][0, 0].numpy() for index in range(8)]
    starts = {int(np.flatnonzero(item)[0]) for item in items}
    assert len(starts) > 4
    for item in items:
        assert np.count_nonzero(item) > 290
        first = int(np.flatnonzero(item)[0])
        assert set(np.flatnonzero(item)) <= set(range(first, first + 300))


@pytest.mark.parametrize("cross_track", [0.0, 1.0])
def test_silent_passages_are_rare(tmp_path: Path, cross_track: float) -> None:
    audio = noise(0, 20000)
    audio[:, :15000] = 0
    write(tmp_path / "song" / "vocals.wav", audio)
    tracks = find_tracks(tmp_path)
    counts = []
    for keep in (0.0, 1.0):
        data = excerpts(tracks, ("vocals",), keep_silent=keep, cross_track=cross_track)
        counts.append(sum(bool(data[index]["stems"].any()) for index in range(40)))
    heard, every = counts
    assert every < 20 < 32 < heard


def test_other_rates_and_mono_come_out_as_stereo_in_time(tmp_path: Path) -> None:
    time = np.arange(2 * 48000) / 48000
    tone = np.sin(2 * np.pi * 440 * time)[None].astype(np.float32) * 0.5
    write(tmp_path / "song" / "vocals.wav", tone, 48000)
    (track,) = find_tracks(tmp_path)
    whole = read_track(track, ("vocals",), 44100)["stems"][0].numpy()
    assert whole.shape == (2, 88200)
    np.testing.assert_array_equal(whole[0], whole[1])
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(88200) / 44100)
    np.testing.assert_allclose(whole[0, 500:-500], expected[500:-500], atol=1e-4)
    for start in (0, 1, 146, 147, 30011, 87000):
        piece = read_track(track, ("vocals",), 44100, start=start, length=1200)["stems"][0].numpy()
        np.testing.assert_allclose(piece[:, : 88200 - start], whole[:, start : start + 1200], atol=2e-4)


def test_what_cant_be_drawn_from_is_told(songs: list[Track], tmp_path: Path) -> None:
    for options, words in (({"cross_track": 2}, "cross_track is 2"), ({"unknown": "guess"}, "unknown is 'guess'"),
                           ({"keep_silent": -1}, "keep_silent is -1"), ({"length": 0}, "length is 0")):  # fmt: skip
        with pytest.raises(OptionError, match=words):
            excerpts(songs, **options)
    with pytest.raises(InputError, match="none of 3 tracks has one of the stems guitar"):
        excerpts(songs, ("guitar",))
    write(tmp_path / "six" / "song" / "vocals.wav", noise(0, channels=6))
    with pytest.raises(InputError, match="has 6 channels"):
        excerpts(find_tracks(tmp_path / "six"), ("vocals",))[0]


@pytest.mark.slow
def test_work_in_processes_changes_nothing(songs: list[Track]) -> None:
    data = excerpts(songs, cross_track=0.5)
    loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=range(8, 16), num_workers=1,
                                         multiprocessing_context="spawn")  # fmt: skip
    batches = list(loader)
    assert batches[1]["stems"].shape == (4, 4, 2, 1000)
    for index in range(8):
        torch.testing.assert_close(batches[index // 4]["stems"][index % 4], data[8 + index]["stems"], rtol=0, atol=0)


# ---------------------------------------------------------------- the packed set


def test_packed_tracks_are_the_same_to_16_bits(songs: list[Track], tmp_path: Path) -> None:
    before = describe_all(songs, {"song1": {"unknown": ["bass"], "split": "test", "weight": 0.5, "licence": "CC0-1.0"}})
    after = pack(before, tmp_path / "packed", sample_rate=RATE)
    assert [(t.name, t.unknown, t.split, t.weight, t.licence) for t in after] == [
        (t.name, t.unknown, t.split, t.weight, t.licence) for t in before
    ]
    assert find_tracks(tmp_path / "packed") == after == read_packed(tmp_path / "packed")
    for old, new in zip(before, after, strict=True):
        for start, length in ((0, None), (-100, 500), (7900, 300), (50, 1)):
            was = read_track(old, FOUR, RATE, start=start, length=length)
            now = read_track(new, FOUR, RATE, start=start, length=length)
            torch.testing.assert_close(now["stems"], was["stems"], rtol=0, atol=0.51 / 32767)
            assert torch.equal(now["known"], was["known"])
    one = excerpts(before, cross_track=0.5)[3]["stems"]
    torch.testing.assert_close(excerpts(after, cross_track=0.5)[3]["stems"], one, rtol=0, atol=0.51 / 32767)


def test_packed_audio_is_never_clipped_and_silence_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_BLOCK", 1000)
    folder = tmp_path / "in" / "song"
    folder.mkdir(parents=True)
    loud = noise(0) * 3
    loud[:, 6000:] *= 2
    soundfile.write(folder / "vocals.wav", loud.T, RATE, subtype="FLOAT")
    write(folder / "drums.wav", noise(1))
    write(folder / "bass.wav", np.zeros((2, RATE), np.float32))
    (track,) = pack(find_tracks(tmp_path / "in"), tmp_path / "out", sample_rate=RATE)
    item = read_track(track, FOUR, RATE)
    np.testing.assert_allclose(item["stems"][0].numpy(), loud, atol=2e-5 * np.abs(loud).max())
    np.testing.assert_allclose(item["stems"][1].numpy(), noise(1), atol=2e-5)
    assert not item["stems"][2:].any()
    assert item["known"].all()
    (file,) = (tmp_path / "out" / "tracks").glob("*.i16")
    assert file.stat().st_size == 2 * RATE * 4


def test_packing_goes_on_and_sees_changes(songs: list[Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    stream = FilePart.stream

    def counted(self: FilePart, sample_rate: int, block: int) -> Any:
        decoded.append(Path(self.path).parent.name)
        return stream(self, sample_rate, block)

    monkeypatch.setattr(FilePart, "stream", counted)
    pack(songs[:2], tmp_path / "packed", sample_rate=RATE)
    assert set(decoded) == {"song0", "song1"}
    decoded.clear()
    pack(songs, tmp_path / "packed", sample_rate=RATE)
    assert set(decoded) == {"song2"}
    decoded.clear()
    write(tmp_path / "songs" / "song0" / "drums.wav", noise(55))
    after = pack(songs, tmp_path / "packed", sample_rate=RATE)
    assert set(decoded) == {"song0"}
    np.testing.assert_allclose(read_track(after[0], ("drums",), RATE)["stems"][0].numpy(), noise(55), atol=2e-5)
    decoded.clear()
    pack(songs, tmp_path / "packed", sample_rate=RATE // 2)
    assert set(decoded) == {"song0", "song1", "song2"}


def test_a_packed_set_keeps_its_rate_and_is_read_at_any(songs: list[Track], tmp_path: Path) -> None:
    (track, *_) = pack(songs, tmp_path / "packed", sample_rate=2 * RATE)
    item = read_track(track, ("vocals",), RATE)["stems"][0].numpy()
    assert item.shape == (2, RATE)
    middle = slice(500, -500)
    assert np.corrcoef(item[0, middle], noise(0)[0, middle])[0, 1] > 0.97


def test_a_damaged_packed_set_is_told(songs: list[Track], tmp_path: Path) -> None:
    root = tmp_path / "packed"
    with pytest.raises(InputError, match="two tracks have the same name"):
        pack([songs[0], songs[0]], root)
    pack(songs, root, sample_rate=RATE)
    index = (root / "packed.json").read_text()
    for text, words in (
        ("{", "is damaged"),
        ('{"version": 9}', "version 9"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
    ):
        (root / "packed.json").write_text(text)
        with pytest.raises(InputError, match=words):
            read_packed(root)
    (root / "packed.json").write_text(index.replace('"file": "', '"file": "../../'))
    assert all(Path(part.path).parent == root / "tracks" for track in read_packed(root)
               for parts in track.stems.values() for part in parts if isinstance(part, packed.PackedPart))  # fmt: skip
    (root / "packed.json").write_text(index)
    with next((root / "tracks").glob("song1*.i16")).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match="cut short"):
        read_packed(root)


def test_a_file_that_ends_early_stops_packing(tmp_path: Path) -> None:
    write_song(tmp_path / "in" / "song", 0)
    (track,) = find_tracks(tmp_path / "in")
    path = tmp_path / "in" / "song" / "vocals.flac"
    soundfile.write(path, noise(0, 60000).T, RATE)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"vocals\.flac"):
        pack(find_tracks(tmp_path / "in"), tmp_path / "out", sample_rate=RATE)
    assert not (tmp_path / "out" / "packed.json").exists()
    assert track.name == "song"


def test_a_recipe_packs_what_is_learnt_from(tmp_path: Path) -> None:
    folder = toys.songs(tmp_path / "songs")
    chosen = toys.recipe(data={"train": [str(folder)], "hold_out": ["song2"], "pack": str(tmp_path / "packed")})
    plain = replace(chosen, data=replace(chosen.data, pack=""))
    model = toys.Tiny(toys.STEMS)
    quick, slow = open_sources(chosen, model), open_sources(plain, model)
    assert [track.name for track in read_packed(tmp_path / "packed")] == ["song0", "song1"]
    assert quick.fingerprint == slow.fingerprint  # a run may go on with either
    torch.testing.assert_close(quick.items[4]["stems"], slow.items[4]["stems"], rtol=0, atol=1e-4)
    (tmp_path / "mine.toml").write_text(
        'loss = [{kind = "l1", on = "waveform"}]\ntraining = {steps = 1}\ndata = {pack = "here"}\n'
        'model = {architecture = "tiny", stems = ["tone", "noise"]}\n'
    )
    assert read_recipe(tmp_path / "mine.toml").data.pack == str(tmp_path / "here")


# ---------------------------------------------------------------- real music, where it is


def test_real_data_sets(shared_data: Path) -> None:
    train = find_tracks(shared_data / "train")
    assert {"caesium", "francium", "hydrogen", "lithium", "potassium"} <= {track.name for track in train}
    item = Excerpts(train, FOUR, sample_rate=44100, length=44100)[0]
    assert item["stems"].shape == (4, 2, 44100)
    clips = find_tracks(shared_data / "mir1k")
    assert sorted(sum(track.split == split for track in clips) for split in ("train", "validation", "test")) == [
        4,
        100,
        171,
    ]
    sources = find_tracks(shared_data / "sources")
    assert {next(iter(track.stems)) for track in sources} == set(FOUR)


# ---------------------------------------------------------------- the page about it


PAGE = Path(__file__).parents[1] / "docs/howto/datasets.md"


def test_the_page_names_every_layout_and_augmentation_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == {*LAYOUTS, *AUGMENTATIONS}
    for kind, augmentation in AUGMENTATIONS.items():
        what, scope, settings = (cell.strip() for cell in rows[kind].split("|")[2:5])
        assert what
        assert scope == augmentation.scope
        for name, default in settings_of(kind).items():
            shown = (
                ", ".join(default)
                if isinstance(default, tuple)
                else f"{default:g}"
                if isinstance(default, float)
                else default
            )
            assert f"`{name}` {str(shown).lower()}" in settings, (kind, name)
        assert len(re.findall("`", settings)) == 2 * len(settings_of(kind))
    write_song(tmp_path / "songs" / "song", 0)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, PAGE.name, "exec"), {})
    assert len(find_tracks("songs-packed")) == 1
