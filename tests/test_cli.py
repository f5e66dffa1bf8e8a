"""The `unmix` command from outside: what is printed where, exit codes, pipes, interrupts, kills."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cli_toys
import click
import numpy as np
import pytest
import soundfile
from cli_toys import RATE, song
from click.testing import CliRunner, Result

from unmixcli.cli import COMMANDS, _terminal, cli
from unmixcli.cli._options import ROWS, SectionCommand
from unmixcli.cli.separate import separate
from unmixcli.errors import OutputError
from unmixcli.options import Options
from unmixcli.record import RECORD_NAME

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _own_folders: None) -> Iterator[None]:
    cli_toys.register()
    monkeypatch.chdir(tmp_path)
    yield
    _terminal._level = 0


def unmix(*args: str, data: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, list(args), input=data)


def toy(*args: str, data: bytes | None = None) -> Result:
    return unmix(*args, "-m", "toy", "--offline", data=data)


def command(*args: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests" / "cli_toys.py"), *args]


def environment(delay: float = 0.0) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOY_DELAY": str(delay)}


def process(*args: str, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(*args), env=environment(), capture_output=True, timeout=120, check=False, **settings)


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# ---------------------------------------------------------------- commands and options


def test_alone_it_prints_help() -> None:
    result = unmix()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "unmix song.mp3" in result.stdout
    assert all(name in result.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_is_there_and_has_help(name: str) -> None:
    result = unmix(name, "--help")
    assert result.exit_code == 0
    assert f"unmix {name}" in result.stdout


def test_every_option_has_help_and_every_field_an_option() -> None:
    assert {row.field for row in ROWS} == set(Options.names())
    options = [parameter for parameter in separate.params if isinstance(parameter, click.Option)]
    assert all(option.help for option in options)
    text = unmix("separate", "--help").stdout
    assert isinstance(separate, SectionCommand)
    assert all(flag in text for row in ROWS for flag in row.flags[-1].split("/"))


def test_the_version_is_printed() -> None:
    assert unmix("--version").stdout.startswith("unmix 0.")


def test_separate_is_the_default_command(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    short, long = toy("song.wav", "-o", "short"), toy("separate", "song.wav", "-o", "long")
    assert (short.exit_code, long.exit_code) == (0, 0)
    assert short.stdout == "short/song/vocals.wav\nshort/song/other.wav\n"
    assert (tmp_path / "short/song/vocals.wav").read_bytes() == (tmp_path / "long/song/vocals.wav").read_bytes()
    assert toy("-o", "options first", "song.wav").exit_code == 0


@pytest.mark.parametrize("name", ["models", "-song.wav", "a song with spaces 絆 [live].WAV", "x" * 200 + ".wav"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    song(tmp_path / "song.wav")
    (tmp_path / "song.wav").rename(tmp_path / name)
    assert toy(f"./{name}").exit_code == 0
    assert len(list((tmp_path / "separated").rglob("vocals.wav"))) == 1
    if name.startswith("-"):
        assert unmix("-m", "toy", "-o", "other", "--", name).exit_code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["song.wav", "--stms", "vocals"], "--stms"),
        (["song.wav", "--stems", "vocals", "--minus", "other"], "stems and minus"),
        (["song.wav", "--stems", "vocal,kazoo"], "kazoo"),
        (["song.wav", "--overlap", "1"], "less than 1"),
        (["song.wav", "--from", "1:75"], "not a time"),
        (["song.wav", "--from", "nan"], "not a time"),
        (["song.wav", "--from", "5", "--to", "3"], "not after the start"),
        (["song.wav", "--bitrate", "loud"], "not a bit rate"),
        (["song.wav", "--template", "../{stem}"], "leaves the output folder"),
        (["song.wav", "--template", "{kazoo}"], "kazoo"),
        (["song.wav", "--model", "nothing-like-it"], "nothing-like-it"),
        (["song.wav", "--residual", "drop"], "residual"),
        (["song.wav", "--format", "stem.mp4"], "exactly drums, bass, other, vocals"),
        (["song.wav", "-q", "-v"], "-q and -v"),
        (["song.wav", "-o", "-"], "--stems"),
        (["song.wav", "song.wav", "-o", "-", "--stems", "vocals"], "one input"),
        (["song.wav", "-o", "-", "--stems", "vocals", "--json"], "--json"),
        (["modles"], "unmix models"),
        (["separate"], "INPUT"),
    ],
)
def test_wrong_usage_ends_with_2_and_writes_nothing(tmp_path: Path, args: list[str], message: str) -> None:
    song(tmp_path / "song.wav")
    result = unmix("-m", "toy", "--offline", *args) if args[0] == "song.wav" else unmix(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]


def test_times_are_understood(tmp_path: Path) -> None:
    samples = song(tmp_path / "song.wav", seconds=70, subtype="FLOAT")
    assert toy("song.wav", "--from", "1:02", "--to", "0:01:02.5", "--stems", "vocals").exit_code == 0
    part, _ = soundfile.read(tmp_path / "separated/song/vocals.wav")
    # 0.6 of the mixture, and half of the 0.1 that no stem holds
    np.testing.assert_allclose(part, 0.65 * samples[62 * RATE : 62 * RATE + RATE // 2], atol=1e-6)


def test_a_defect_is_one_line_and_a_traceback_only_if_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    song(tmp_path / "song.wav")

    def broken(*args: object, **named: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("unmixcli.batch.plan_batch", broken)
    result = toy("song.wav")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected ZeroDivisionError: oh\ntry:   ")
    assert "Traceback" not in result.stderr
    assert "Traceback" in toy("song.wav", "-vv").stderr


def test_an_error_has_its_exit_code_and_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    song(tmp_path / "song.wav")

    def broken(*args: object, **named: object) -> None:
        raise OutputError("the disk \x1b[2Jis gone.", hint="find it.")

    monkeypatch.setattr("unmixcli.batch.plan_batch", broken)
    result = toy("song.wav")
    assert (result.exit_code, result.stderr) == (1, "error: the disk �[2Jis gone.\ntry:   find it.\n")


def test_completion_knows_commands_options_and_files() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "unmix", "_UNMIX_COMPLETE")
    assert "models" in [item.value for item in complete.get_completions([], "mo")]
    assert "--stems" in [item.value for item in complete.get_completions(["song.mp3"], "--st")]
    assert [item.type for item in complete.get_completions([], "song")] == ["file"]
    assert [item.type for item in complete.get_completions(["song.mp3"], "so")] == ["file"]


# ---------------------------------------------------------------- what is said


def test_paths_go_to_standard_output_and_the_rest_to_standard_error(tmp_path: Path) -> None:
    song(tmp_path / "song.wav", subtype="FLOAT")
    result = toy("song.wav")
    assert result.stdout == "separated/song/vocals.wav\nseparated/song/other.wav\n"
    assert "device  cpu" in result.stderr
    assert "licence: unknown" in result.stderr
    assert "residual -20.0 dB" in result.stderr  # 0.1 of the mixture is in no stem
    again = toy("song.wav")
    assert again.stdout == result.stdout
    assert "skipped, done before" in again.stderr


def test_quiet_says_nothing_but_errors(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    result = toy("song.wav", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "separated/song/vocals.wav\nseparated/song/other.wav\n"
    assert "error: " in toy("gone.wav", "-q").stderr


def test_json_is_one_object_per_line(tmp_path: Path) -> None:
    song(tmp_path / "in/a.wav", subtype="FLOAT")
    (tmp_path / "in/b.mp3").write_text("no audio")
    result = toy("in", "--json")
    assert result.exit_code == 1
    found = events(result)
    assert [event["event"] for event in found if event["event"] != "progress"] == [
        "run", "start", "result", "start", "result", "summary",
    ]  # fmt: skip
    good, bad = [event for event in found if event["event"] == "result"]
    assert good["outputs"] == {"vocals": "separated/a/vocals.wav", "other": "separated/a/other.wav"}
    assert (good["status"], good["duration"], good["sample_rate"]) == ("done", 0.5, RATE)
    assert good["residual_db"] == pytest.approx(-20, abs=0.01)
    assert (bad["status"], bad["input"], bad["outputs"]) == ("failed", "b.mp3", {})
    assert bad["message"]
    assert found[-1] | {"seconds": 0} == {
        "event": "summary", "done": 1, "skipped": 0, "failed": 1, "not_tried": 0, "seconds": 0,
    }  # fmt: skip


def test_a_folder_ends_with_a_summary_that_names_failures(tmp_path: Path) -> None:
    song(tmp_path / "in/a.wav")
    song(tmp_path / "in/c.WAV")
    (tmp_path / "in/b.mp3").write_text("no audio")
    result = toy("in", "gone.wav")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2].startswith("2 done, 2 failed in ")
    assert result.stderr.splitlines()[-1] == "failed: gone.wav, b.mp3"
    assert result.stderr.count("error: ") == 2
    second = toy("in")
    assert "2 skipped (done before), 1 failed" in second.stderr


def test_a_file_can_not_be_the_output_folder(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    before = (tmp_path / "song.wav").read_bytes()
    result = toy("song.wav", "-o", "song.wav")
    assert result.exit_code == 1
    assert "song.wav is a file, expected a folder" in result.stderr
    assert (tmp_path / "song.wav").read_bytes() == before


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = unmix("in")
    assert (result.exit_code, result.stderr) == (1, "error: there is no audio file in in.\n")
    assert unmix("in", "gone.wav").exit_code == 1


def test_a_dry_run_tells_all_and_writes_nothing(tmp_path: Path) -> None:
    song(tmp_path / "in/a.wav", seconds=60)
    song(tmp_path / "in/b.wav", seconds=1)
    song(tmp_path / "in/b.flac", seconds=1)
    assert toy("in/a.wav").exit_code == 0
    (tmp_path / "in/bad.mp3").write_text("no audio")
    before = sorted(tmp_path.rglob("*"))
    result = toy("in", "--dry-run")
    assert result.exit_code == 1  # as the run would
    assert sorted(tmp_path.rglob("*")) == before
    out = result.stdout
    assert "skip     a.wav: done before" in out
    assert "separate b.wav (0:01 min)" in out
    assert "→ separated/b (wav)/vocals.wav" in out
    assert "fail     bad.mp3" in out
    assert "inputs   4: 2 to do, 1 done before" in out
    assert "error: " in result.stderr
    plan = events(toy("in", "--dry-run", "--json"))[-1]
    # two songs of one second, two stems: 16 bit in stereo, and float32 of one song at a time beside them
    assert plan["disk_bytes"] == 2 * 2 * RATE * 4 + 2 * RATE * 8
    assert (plan["to_do"], plan["skipped"], plan["seconds"], plan["download_files"]) == (2, 1, 2.0, [])


def test_progress_is_told_with_a_terminal(tmp_path: Path) -> None:
    """Bars are drawn on a real terminal, with names that look like markup, and leave it as it was."""
    pty = pytest.importorskip("pty")
    song(tmp_path / "in/[red] x.wav", seconds=2)
    song(tmp_path / "in/b.wav", seconds=2)
    master, slave = pty.openpty()
    done = subprocess.Popen(command("in", "-m", "toy"), env=environment(0.02), stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65536):
            seen += chunk
    except OSError:  # the other end was closed
        pass
    out, _ = done.communicate(timeout=60)
    os.close(master)
    assert done.returncode == 0
    assert len(out.splitlines()) == 4
    assert b"all 2 files" in seen
    assert b"[red] x.wav" in seen
    assert b"%" in seen


# ---------------------------------------------------------------- pipes


def test_standard_input_to_standard_output(tmp_path: Path) -> None:
    samples = song(tmp_path / "song.wav", subtype="PCM_24")
    data = (tmp_path / "song.wav").read_bytes()
    (tmp_path / "song.wav").unlink()
    result = toy("-", "-o", "-", "--minus", "vocals", data=data)
    assert result.exit_code == 0, result.stderr
    out, rate = soundfile.read(io.BytesIO(result.stdout_bytes))
    assert soundfile.info(io.BytesIO(result.stdout_bytes)).subtype == "FLOAT"
    assert rate == RATE
    # the vocals are 0.6 of the mixture and half of the 0.1 that no stem holds
    np.testing.assert_allclose(out, 0.35 * samples, atol=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_may_be_piped_and_standard_input_to_files(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    data = (tmp_path / "song.wav").read_bytes()
    result = toy("-", "-o", "-", "-s", "vocals", "-f", "flac", data=data)
    assert result.stdout_bytes[:4] == b"fLaC"
    assert toy("-", data=data).stdout == "separated/stdin/vocals.wav\nseparated/stdin/other.wav\n"
    assert "done before" in toy("-", data=data).stderr
    song(tmp_path / "song.wav", seed=5)
    assert "other data" in toy("-", data=(tmp_path / "song.wav").read_bytes()).stderr
    bad = toy("-", data=b"no audio at all")
    assert bad.exit_code == 1
    assert "standard input" in bad.stderr
    assert "unmix-input" not in bad.stderr
    assert toy("-", data=b"").exit_code == 1


def test_nobody_reading_is_quiet(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("song.wav", "-m", "toy", "-q", "-o", "-", "-s", "vocals"),
        env=environment(), stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# ---------------------------------------------------------------- stopping


def folder_of_ten(tmp_path: Path) -> Path:
    for number in range(10):
        song(tmp_path / f"in/{number}.wav", seconds=0.5, seed=number)
    return tmp_path / "separated"


def complete(out: Path) -> list[str]:
    """Tracks whose files are whole; a file that can't be read, or a track with one file only, fails the test."""
    tracks = sorted({path.parent.name for path in out.rglob("*.wav") if not path.name.startswith(".")})
    for track in tracks:
        for stem in ("vocals", "other"):
            assert soundfile.info(out / track / f"{stem}.wav").frames == RATE // 2
    return tracks


def wait_for(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.rglob("other.wav"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle_of_a_folder_the_second_run_does_the_rest(tmp_path: Path) -> None:
    out = folder_of_ten(tmp_path)
    first = subprocess.Popen(
        command("in", "-m", "toy"), env=environment(0.1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(out, 3)
    time.sleep(0.25)  # in the middle of the fourth
    first.kill()
    first.wait()
    done = complete(out)
    assert 3 <= len(done) < 10
    before = {track: (out / track / "vocals.wav").stat().st_mtime_ns for track in done}
    assert list(out.rglob(".unmix-part-*"))
    second = unmix("in", "-m", "toy", "--json")
    assert second.exit_code == 0
    results = {event["input"]: event["status"] for event in events(second) if event["event"] == "result"}
    assert results == {f"{n}.wav": "skipped" if str(n) in done else "done" for n in range(10)}
    assert complete(out) == [str(number) for number in range(10)]
    assert {track: (out / track / "vocals.wav").stat().st_mtime_ns for track in done} == before
    assert {path.name for path in out.rglob("*") if path.is_file()} == {"vocals.wav", "other.wav", RECORD_NAME}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_nothing_half_written_is_left(tmp_path: Path, number: signal.Signals) -> None:
    out = folder_of_ten(tmp_path)
    run = subprocess.Popen(
        command("in", "-m", "toy", "--jobs", "2"), env=environment(0.1), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(out, 2)
    time.sleep(0.1)
    run.send_signal(number)
    begun = time.monotonic()
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert time.monotonic() - begun < 8
    assert b"interrupted" in said
    assert b"not tried" in said
    assert b"Traceback" not in said
    assert 2 <= len(complete(out)) < 10
    assert list(out.rglob(".unmix-part-*")) == []


def test_a_process_with_failures_ends_with_1_and_names_them(tmp_path: Path) -> None:
    song(tmp_path / "in/good.wav")
    (tmp_path / "in/b\xe4d.mp3").write_text("no audio")
    odd = os.fsdecode(b"in/bytes \xff\xfe.wav")
    song(tmp_path / "song.wav")
    (tmp_path / "song.wav").rename(tmp_path / odd)
    done = process("in", "-m", "toy")
    assert done.returncode == 1
    assert "bäd.mp3" in done.stderr.decode()
    assert done.stdout.splitlines() == [
        *(os.fsencode(f"separated/bytes \udcff\udcfe/{stem}.wav") for stem in ("vocals", "other")),
        *(f"separated/good/{stem}.wav".encode() for stem in ("vocals", "other")),
    ]


# ---------------------------------------------------------------- real models


@pytest.mark.parametrize("model", ["centre_extraction", "harmonic_percussive"])
def test_a_classical_model_end_to_end(tmp_path: Path, music: Any, model: str) -> None:
    soundfile.write(tmp_path / "song.flac", music.T, 44100, subtype="PCM_24")
    result = unmix("song.flac", "-m", model, "-f", "flac", "-o", "out")
    assert result.exit_code == 0, result.stderr
    stems = [soundfile.read(path, dtype="float64")[0] for path in result.stdout.splitlines()]
    assert all(soundfile.info(path).subtype == "PCM_24" for path in result.stdout.splitlines())
    np.testing.assert_allclose(sum(stems), soundfile.read(tmp_path / "song.flac")[0], atol=2.0**-22)
