"""`unmix evaluate` as it is typed: layouts, what is missing, tables, CSV, JSON and the plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from unmixcli.cli import cli
from unmixcli.errors import InputError, OptionError
from unmixcli.evaluation import spool
from unmixcli.evaluation.families import FAMILIES
from unmixcli.evaluation.folders import find_tracks, match_tracks, stem_name
from unmixcli.evaluation.metrics import bss_eval, bss_eval_v4, median, to_16_bit
from unmixcli.evaluation.run import evaluate

RATE = 2000
Stems = dict[str, NDArray[np.float32]]


def _song(seed: int, stems: str = "vocals drums", seconds: float = 2.5) -> Stems:
    rng = np.random.default_rng(seed)
    return {stem: (0.1 * rng.standard_normal((1, int(seconds * RATE)))).astype(np.float32) for stem in stems.split()}


def _estimates(song: Stems, leak: float) -> Stems:
    mixture = np.sum(list(song.values()), axis=0)
    return {stem: (signal + leak * (mixture - signal)).astype(np.float32) for stem, signal in song.items()}


def _write(folder: Path, stems: Stems, suffix: str = "wav", subtype: str = "PCM_16", rate: int = RATE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, signal in stems.items():
        soundfile.write(folder / f"{stem}.{suffix}", signal.T, rate, subtype=subtype)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two songs in references/, two systems: good/ and bad/."""
    for index, name in enumerate(("test/One", "test/Two")):
        song = _song(index)
        _write(tmp_path / "references" / name, song, subtype="FLOAT")
        _write(tmp_path / "good" / name, _estimates(song, 0.05), subtype="FLOAT")
        _write(tmp_path / "bad" / name, _estimates(song, 0.5), suffix="flac")
    return tmp_path


def _run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, args)])


def test_table_compares_systems(data: Path) -> None:
    result = _run(data / "references", data / "good", f"worse={data / 'bad'}", "--tracks", "--oracle", "mixture")
    assert result.exit_code == 0, result.output
    lines = [line.replace("│", " ").split() for line in result.stdout.splitlines()]
    rows = {(words[0], words[1]): words[2:] for words in lines if len(words) == 7}
    assert float(rows["vocals", "good"][0]) == pytest.approx(26.0, abs=1.0)  # leak of 0.05: 20 log10(1/0.05)
    assert float(rows["vocals", "worse"][0]) == pytest.approx(6.0, abs=1.0)
    assert float(rows["drums", "mixture"][0]) == pytest.approx(3.0, abs=1.0)  # (s - s')/2 for equal sources
    assert rows["drums", "good"][-1] == "2"
    assert "test/One" in result.stdout
    assert "[2/2]" in result.stderr


def test_scores_are_those_of_the_arrays_after_rounding_to_16_bit(data: Path) -> None:
    song = {stem: to_16_bit(signal) for stem, signal in _song(0).items()}
    given = {stem: to_16_bit(signal) for stem, signal in _estimates(_song(0), 0.05).items()}
    expected = bss_eval_v4(list(song.values()), list(given.values()), sample_rate=RATE)
    found = evaluate(data / "references", [data / "good"])
    score = next(s for s in found.scores if s.track == "test/One" and s.stem == "vocals")
    for column in FAMILIES["v4"].columns:
        assert score.values["v4"][column] == median(getattr(expected, column.lower())[0])


def test_every_family(data: Path) -> None:
    result = _run(data / "references", data / "good", "-M", ",".join(FAMILIES), "--json", "-q")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {(row["protocol"], row["stem"]): row for row in found["summary"]}
    song, given = _song(0), _estimates(_song(0), 0.05)
    v3 = bss_eval(list(song.values()), list(given.values()), sources=True)
    base = bss_eval(list(song.values()), [np.sum(list(song.values()), axis=0)] * 2, sources=True)
    track = next(t for t in found["tracks"] if t["track"] == "test/One" and t["stem"] == "drums")["scores"]
    assert track["v3"]["SDR"] == pytest.approx(v3.sdr[1, 0], abs=0.01)
    assert track["v3"]["NSDR"] == pytest.approx(v3.sdr[1, 0] - base.sdr[1, 0], abs=0.01)
    assert rows["gnsdr", "drums"]["GSAR"] > 40
    assert rows["sdr", "vocals"]["NSDR"] == pytest.approx(26.0, abs=0.5)  # the mixture itself has 0 dB
    assert rows["si-sdr", "vocals"]["SI-SDRi"] == pytest.approx(26.0, abs=0.5)
    assert {row["over_tracks"] for row in found["protocols"].values()} == {
        "median", "mean", "mean weighted by length"}  # fmt: skip


def test_gnsdr_is_weighted_by_length(tmp_path: Path) -> None:
    for name, seconds, leak in (("long", 3.0, 0.5), ("short", 1.0, 0.05)):
        song = _song(3, seconds=seconds)
        _write(tmp_path / "r" / name, song)
        _write(tmp_path / "e" / name, _estimates(song, leak))
    found = json.loads(_run(tmp_path / "r", tmp_path / "e", "-M", "gnsdr", "-s", "vocals", "--json", "-q").stdout)
    long, short = (t["scores"]["gnsdr"]["GNSDR"] for t in found["tracks"])
    assert short > long + 10
    assert found["summary"][0]["GNSDR"] == pytest.approx((3 * long + short) / 4, abs=1e-3)


def test_csv_and_plot(data: Path) -> None:
    pytest.importorskip("matplotlib")
    result = _run(data / "references", data / "good", data / "bad", "--csv", data / "out/s.csv",
                  "--plot", data / "boxes.png", "--published", "umxhq", "--oracle", "irm2")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((data / "out/s.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3 * 2 * 2 * 4  # systems, tracks, stems, scores
    assert {row["protocol"] for row in rows} == {"v4"}
    assert all(float(row["value_db"]) for row in rows)
    assert (data / "boxes.png").read_bytes().startswith(b"\x89PNG")
    assert "Published, not measured here: MUSDB18-HQ" in result.stdout
    assert sorted(p.name for p in data.iterdir() if p.is_file()) == ["boxes.png"]  # nothing half-written


def test_published_scores_keep_a_table_of_their_own(data: Path) -> None:
    result = _run(data / "references", data / "good", "--published", "sisec:irm2,cac_tdc_17", "--json")
    found = json.loads(result.stdout)
    assert {item["system"] for item in found["published"]} == {"IRM2", "cac_tdc_17"}
    assert all(item["protocol"] and item["source"] for item in found["published"])
    assert {row["system"] for row in found["summary"]} == {"good"}
    assert _run(data / "references", data / "good", "--published", "no_such").exit_code == 2
    assert "IRM2" in _run(data / "references", data / "good", "--published", "sisec:xyz").stderr


def test_a_missing_track_is_named(data: Path) -> None:
    for path in (data / "bad/test/Two").iterdir():
        path.unlink()
    result = _run(data / "references", data / "good", data / "bad")
    assert result.exit_code == 1
    assert "bad: the track 'test/Two' is missing" in result.stderr
    assert "good" in result.stdout  # the rest is scored


def test_a_missing_stem_is_named_where_others_have_it(data: Path) -> None:
    (data / "bad/test/Two/drums.flac").unlink()
    result = _run(data / "references", data / "bad")
    assert result.exit_code == 1
    assert "bad: 'test/Two' has no drums" in result.stderr


def test_a_stem_never_given_is_a_note_unless_asked_for(data: Path) -> None:
    for name in ("One", "Two"):
        (data / f"bad/test/{name}/drums.flac").unlink()
    result = _run(data / "references", data / "bad")
    assert result.exit_code == 0, result.output
    assert "bad gives no drums" in result.stderr
    asked = _run(data / "references", data / "bad", "--stems", "drums")
    assert asked.exit_code == 1
    assert "has no drums" in asked.stderr


def test_silent_reference_is_not_defined(tmp_path: Path) -> None:
    song = _song(0, "vocals drums bass")
    given = _estimates(song, 0.1)
    song["vocals"] = np.zeros_like(song["vocals"])
    _write(tmp_path / "r/A", song)
    _write(tmp_path / "e/A", given)
    result = _run(tmp_path / "r", tmp_path / "e", "--tracks", "-M", "v4,si-sdr,sdr,v3")
    assert result.exit_code == 0, result.output
    assert "0 of 1, 1 not defined" in result.stdout
    assert "silent reference: the estimate is at" in result.stdout
    found = json.loads(_run(tmp_path / "r", tmp_path / "e", "--json", "-q").stdout)
    by_stem = {track["stem"]: track for track in found["tracks"]}
    assert by_stem["vocals"]["scores"]["v4"]["SDR"] is None
    assert by_stem["drums"]["scores"]["v4"]["SDR"] > 10
    assert by_stem["vocals"]["level_db"] == pytest.approx(-3.0, abs=0.2)  # as loud as one of the mixture's two stems


def test_accompaniment_is_the_sum_of_the_others(tmp_path: Path) -> None:
    song = _song(0, "vocals drums bass")
    rest = song["drums"] + song["bass"]
    _write(tmp_path / "r/A", song)
    _write(tmp_path / "e/A", {"vocals": song["vocals"] + 0.1 * rest, "no_vocals": rest + 0.1 * song["vocals"]})
    found = evaluate(tmp_path / "r", [tmp_path / "e"], metrics=["sdr"], oracles=["irm2"])
    scores = {(s.system, s.stem): s.values["sdr"]["SDR"] for s in found.scores}
    assert scores["e", "accompaniment"] == pytest.approx(20 + 10 * np.log10(2), abs=0.3)
    assert scores["irm2", "accompaniment"] > 0
    assert found.complete


def test_an_accompaniment_among_the_references_is_no_further_source(tmp_path: Path) -> None:
    """It is the sum of the others, so as interference of theirs it would be counted twice."""
    song = _song(0, "vocals drums bass")
    _write(tmp_path / "r/A", {**song, "accompaniment": song["drums"] + song["bass"]}, subtype="FLOAT")
    _write(tmp_path / "plain/A", song, subtype="FLOAT")
    _write(tmp_path / "e/A", _estimates(song, 0.1))
    found = evaluate(tmp_path / "r", [tmp_path / "e"], metrics=["v4", "si-sdr"])
    expected = evaluate(tmp_path / "plain", [tmp_path / "e"], metrics=["v4", "si-sdr"])
    assert [s.values for s in found.scores] == [s.values for s in expected.scores]


def test_a_small_difference_of_length_is_said_and_a_large_one_refused(data: Path) -> None:
    song = _song(0)
    cut = {"vocals": song["vocals"][:, :-100], "drums": song["drums"][:, :-1000]}
    _write(data / "cut/test/One", cut)
    _write(data / "cut/test/Two", _song(1))
    result = _run(data / "references", data / "cut")
    assert result.exit_code == 1
    assert "filled with 100 zero samples" in result.stderr
    assert "0.50 s less" in result.stderr
    scored = json.loads(_run(data / "references", data / "cut", "--json", "-q").stdout)["tracks"]
    assert [t["stem"] for t in scored if t["track"] == "test/One"] == ["vocals"]


def test_another_rate_or_channel_count_is_refused(data: Path) -> None:
    song = _song(0)
    _write(data / "e/test/One", {"vocals": song["vocals"]}, rate=2 * RATE)
    _write(data / "e/test/One", {"drums": np.concatenate([song["drums"]] * 2)})
    _write(data / "e/test/Two", _song(1))
    result = _run(data / "references", data / "e")
    assert result.exit_code == 1
    assert "is at 4000 Hz" in result.stderr
    assert "has 2 channel(s)" in result.stderr


def test_a_damaged_reference_stops_its_track_only(data: Path) -> None:
    (data / "references/test/One/drums.wav").write_bytes(b"RIFF nonsense")
    result = _run(data / "references", data / "good")
    assert result.exit_code == 1
    assert "drums.wav" in result.stderr
    assert "vocals" in result.stdout


def test_mixture_of_the_references_is_used_and_compared(data: Path) -> None:
    for index, name in enumerate(("One", "Two")):
        song = _song(index)
        loud = 2 * np.sum(list(song.values()), axis=0)
        soundfile.write(data / f"references/test/{name}/Mix.wav", loud.T, RATE, subtype="FLOAT")
    result = _run(data / "references", "--oracle", "mixture", "-M", "sdr", "--json")
    assert "differs from the sum of the stems by 0.0 dB" in result.stderr
    assert {row["stem"] for row in json.loads(result.stdout)["summary"]} == {"vocals", "drums"}


def test_one_track_without_folders(tmp_path: Path) -> None:
    song = _song(0)
    _write(tmp_path / "r", {"Vocals": song["vocals"], "DRUM": song["drums"]})
    _write(tmp_path / "out" / "some song", _estimates(song, 0.1))
    result = _run(tmp_path / "r", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "drums" in result.stdout


def test_matching_of_tracks() -> None:
    references = {"test/A - B": {}, "test/C": {}, "x/D": {}, "y/D": {}}
    assert match_tracks(references, {"a - b": {}, "test/C": {}, "D": {}}) == {"test/A - B": "a - b", "test/C": "test/C"}


def test_names() -> None:
    assert stem_name(" No-Vocals") == "accompaniment"
    assert stem_name("Voice") == "vocals"
    assert stem_name("lead guitar") == "lead_guitar"


def test_wrong_usage(data: Path) -> None:
    references, good = data / "references", data / "good"
    for args, word in (
        ((references,), "nothing to score"),
        ((references, good, "-M", "pesq"), "si-sdr"),
        ((references, good, "--oracle", "magic"), "mwf"),
        ((references, good, "--stems", "tuba"), "drums, vocals"),
        ((references, good, "--plot", "x.txt"), ".png"),
        ((references, good, good), "two systems"),
    ):
        result = _run(*args)
        assert result.exit_code == 2, args
        assert word in result.stderr
    assert _run(data / "nowhere", good).exit_code == 1


def test_folders_that_can_not_be_used(tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio file"):
        find_tracks(tmp_path / "empty")
    _write(tmp_path / "twice", _song(0))
    _write(tmp_path / "twice", _song(0), suffix="flac")
    with pytest.raises(InputError, match="one file for each stem"):
        find_tracks(tmp_path / "twice")
    _write(tmp_path / "others/Three", _song(0))
    with pytest.raises(InputError, match="none of its tracks"):
        evaluate(data / "references", [tmp_path / "others"])
    with pytest.raises(OptionError, match="jobs"):
        evaluate(data / "references", [data / "good"], jobs=0)


def test_long_audio_on_disk_and_jobs_change_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (data / "references", data / "good", "--oracle", "mwf", "-M", "v4,gnsdr", "--json", "-q")
    before = _run(*args).stdout
    monkeypatch.setattr(spool, "_IN_MEMORY", 1000)
    assert isinstance(spool.read(find_tracks(data / "good")["test/One"]["drums"]).samples.base, np.memmap)
    assert _run(*args, "-j", "2").stdout == before
