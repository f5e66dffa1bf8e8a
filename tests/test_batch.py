"""Folders: what is found, where results go, what a second run does, and that one bad file stops nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cli_toys
import pytest
from cli_toys import song

from unmixcli import batch
from unmixcli.batch import Interrupted, Job, Listener, Result, Summary, plan_batch, run_batch, separate_all
from unmixcli.errors import OptionError, OutputError, RegistryError
from unmixcli.inputs import find_inputs
from unmixcli.progress import Progress
from unmixcli.record import RECORD_NAME, Fingerprint, Record
from unmixcli.separator import Separator
from unmixcli.sinks import FileSink


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch, _own_folders: None) -> None:
    cli_toys.register()
    monkeypatch.setattr(cli_toys.Toy, "built", 0)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Three songs in two folders, a text and a picture beside them."""
    folder = tmp_path / "album"
    song(folder / "b.wav", seed=1)
    song(folder / "a.FLAC", seed=2)
    song(folder / "cd 2" / "Björk 04 絆.wav", seed=3)
    (folder / "notes.txt").write_text("no audio")
    return folder


def run(*paths: Path, output: Path, **fields: Any) -> Summary:
    return separate_all(paths, output, model="toy", **fields)


def statuses(summary: Summary) -> dict[str, str]:
    return {result.name: result.status for result in summary.results}


def written(folder: Path) -> set[str]:
    """All files below a folder but the record."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != RECORD_NAME}


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in written(folder)}


# ---------------------------------------------------------------- what is found


def test_a_folder_gives_its_audio_files_sorted_in_any_letter_case(album: Path) -> None:
    names = [file.name for file in find_inputs([album]).files]
    assert names == ["a.FLAC", "b.wav", "cd 2/Björk 04 絆.wav"]


def test_hidden_files_and_the_output_folder_inside_are_left_out(album: Path) -> None:
    song(album / ".hidden.wav")
    song(album / ".git" / "x.wav")
    song(album / "separated" / "b" / "vocals.wav")
    assert len(find_inputs([album], output=album / "separated").files) == 3
    assert len(find_inputs([album], output=album / "elsewhere").files) == 4


def test_links_in_a_circle_end_and_a_dead_link_is_named(album: Path) -> None:
    (album / "again").symlink_to(album, target_is_directory=True)
    (album / "dead.wav").symlink_to(album / "gone.wav")
    found = find_inputs([album])
    assert len(found.files) == 3
    assert [problem.path.name for problem in found.problems] == ["dead.wav"]


def test_the_same_file_given_twice_is_taken_once(album: Path) -> None:
    assert len(find_inputs([album, album / "b.wav", album / "b.wav"]).files) == 3


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    song(tmp_path / "song.wav")
    (tmp_path / "song.wav").rename(tmp_path / ".odd")
    assert [file.name for file in find_inputs([tmp_path / ".odd"]).files] == [".odd"]


def test_a_folder_that_may_not_be_read_is_named(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "cd 2":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("unmixcli.inputs.os.scandir", refuse)
    found = find_inputs([album])
    assert [file.name for file in found.files] == ["a.FLAC", "b.wav"]
    assert "cd 2: Permission denied" in str(found.problems[0].error)


def test_stems_in_the_input_folder_are_not_separated_again(album: Path) -> None:
    assert run(album, output=album).count("done") == 3
    again = run(album, output=album)
    assert statuses(again) == dict.fromkeys(["a.FLAC", "b.wav", "cd 2/Björk 04 絆.wav"], "skipped")
    found = find_inputs([album], output=album.parent / "elsewhere")
    assert (len(found.files), found.left_out) == (3, 6)


# ---------------------------------------------------------------- where results go


def test_sub_folders_are_kept(album: Path, tmp_path: Path) -> None:
    assert run(album, output=tmp_path / "out").complete
    assert written(tmp_path / "out") == {
        f"{track}/{stem}.wav" for track in ("a", "b", "cd 2/Björk 04 絆") for stem in ("vocals", "other")
    }


def test_inputs_with_one_name_are_told_apart_and_it_is_said(tmp_path: Path) -> None:
    for name in ("x/song.wav", "x/song.flac", "y/SONG.wav"):
        song(tmp_path / name)
    separator = Separator("toy")
    paths = [tmp_path / "x" / "song.wav", tmp_path / "x" / "song.flac", tmp_path / "y" / "SONG.wav"]
    plans = [plan_batch(find_inputs(order), separator, tmp_path / "out") for order in (paths, paths[::-1])]
    tracks = [{str(job.source.path): job.targets["vocals"].parent.name for job in plan.jobs} for plan in plans]
    assert tracks[0] == tracks[1]
    assert list(tracks[0].values()) == ["song (x, wav)", "song (flac)", "SONG (y, wav)"]
    assert len(plans[0].notes) == 3
    assert "song.flac: named 'song (flac)'" in plans[0].notes[1]


def test_a_template_without_track_fails_for_all_but_breaks_nothing(album: Path, tmp_path: Path) -> None:
    summary = run(album / "a.FLAC", album / "b.wav", output=tmp_path / "out", template="{stem}")
    assert statuses(summary) == {"a.FLAC": "failed", "b.wav": "failed"}
    assert "{track}" in (summary.failed[0].hint or "")
    assert not (tmp_path / "out").exists()


def test_a_result_never_replaces_an_input(album: Path) -> None:
    before = (album / "b.wav").read_bytes()
    summary = run(album / "b.wav", output=album, template="{track}", stems="vocals", overwrite=True)
    assert "would replace an input" in summary.failed[0].message
    assert (album / "b.wav").read_bytes() == before


def test_tags_can_not_leave_the_folder(tmp_path: Path) -> None:
    from mutagen.flac import FLAC

    song(tmp_path / "evil.flac")
    tags = FLAC(tmp_path / "evil.flac")
    tags["artist"], tags["title"] = "../../..", "/etc/\x1b[31mpasswd"
    tags.save()
    assert run(tmp_path / "evil.flac", output=tmp_path / "out", template="{artist}/{title}/{stem}").complete
    assert written(tmp_path) == {"evil.flac", *(f"out/.._.._/_etc_[31mpasswd/{s}.wav" for s in ("vocals", "other"))}


# ---------------------------------------------------------------- the second run


def test_a_second_run_does_nothing_and_a_third_only_what_is_missing(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(album, output=out)
    before = times(out)
    second = run(album, output=out)
    assert (first.count("done"), second.count("done"), second.count("skipped")) == (3, 0, 3)
    assert second.results[0].outputs == first.results[0].outputs
    assert times(out) == before
    (out / "b" / "other.wav").unlink()
    third = run(album, output=out)
    assert {name for name, status in statuses(third).items() if status == "done"} == {"b.wav"}
    assert {name for name, moment in times(out).items() if moment != before[name]} == {"b/vocals.wav", "b/other.wav"}


def test_folders_can_be_moved_and_dates_lost(album: Path, tmp_path: Path) -> None:
    run(album, output=tmp_path / "out")
    moved, out = tmp_path / "elsewhere" / "songs", tmp_path / "results"
    shutil.copytree(album, moved, copy_function=shutil.copyfile)
    (tmp_path / "out").rename(out)
    assert run(moved, output=out).count("skipped") == 3


def test_options_that_do_not_matter_do_not_matter(album: Path, tmp_path: Path) -> None:
    run(album, output=tmp_path / "out")
    again = run(
        album,
        output=tmp_path / "out",
        jobs=2,
        device="cpu",
        batch_size=3,
        offline=True,
        quality="best",
        seed=3,
        format="wav",
    )
    assert again.count("skipped") == 3


def test_other_settings_are_refused_by_name_and_replaced_if_asked(album: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", album / "b.wav"
    run(source, output=out)
    before = times(out)
    refused = run(source, output=out, bit_depth="24")
    assert "other settings (bit_depth: default → 24)" in refused.failed[0].message
    assert "--overwrite" in (refused.failed[0].hint or "")
    assert "model: toy → twin" in separate_all([source], out, model="twin").failed[0].message
    assert times(out) == before
    assert run(source, output=out, bit_depth="24", overwrite=True).count("done") == 1
    assert run(source, output=out, bit_depth="24").count("skipped") == 1
    # what the 24-bit run replaced is not taken for what the first run wrote
    assert run(source, output=out).count("failed") == 1


def test_other_stems_of_the_same_song_may_come_later(album: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", album / "b.wav"
    assert run(source, output=out, stems="vocals").count("done") == 1
    assert run(source, output=out, stems="other").count("done") == 1
    assert run(source, output=out, stems="vocals").count("skipped") == 1


def test_a_changed_input_is_refused_and_done_again_if_asked(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(album, output=out)
    song(album / "b.wav", seed=9)
    refused = run(album, output=out)
    assert statuses(refused)["b.wav"] == "failed"
    assert "before b.wav changed" in refused.failed[0].message
    replaced = run(album, output=out, overwrite=True)
    assert statuses(replaced) == {"a.FLAC": "skipped", "b.wav": "done", "cd 2/Björk 04 絆.wav": "skipped"}


def test_files_nobody_knows_are_refused(album: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "b" / "vocals.wav"
    song(mine, seed=7)
    before = mine.read_bytes()
    summary = run(album, output=tmp_path / "out")
    assert statuses(summary)["b.wav"] == "failed"
    assert "no record says how it was made" in summary.failed[0].message
    assert mine.read_bytes() == before
    assert not (tmp_path / "out" / "b" / "other.wav").exists()


def test_an_edited_stem_is_kept(album: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", album / "b.wav"
    run(source, output=out)
    edited = out / "b" / "vocals.wav"
    edited.write_bytes(b"my own work")
    assert run(source, output=out).count("skipped") == 1
    assert run(source, output=out, overwrite=True).count("done") == 1
    edited.write_bytes(b"my own work")
    (out / "b" / "other.wav").unlink()
    assert "was changed since it was written" in run(source, output=out).failed[0].message
    assert edited.read_bytes() == b"my own work"
    assert run(source, output=out, overwrite=True).count("done") == 1


def test_without_resume_nothing_is_skipped_and_nothing_replaced(album: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", album / "b.wav"
    run(source, output=out)
    assert run(source, output=out, resume=False).count("failed") == 1
    assert run(source, output=out, resume=False, overwrite=True).count("done") == 1


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_what_was_begun_and_not_ended_is_done_again(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    """The process dies while outputs get their names."""
    out, source = tmp_path / "out", album / "b.wav"

    def die(sink: FileSink) -> None:
        for name in list(sink.targets)[:renamed]:
            sink._parts[name].replace(sink.targets[name])
        raise KeyError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(FileSink, "commit", die)
        assert run(source, output=out).count("failed") == 1
    assert len(written(out)) == renamed
    assert run(source, output=out).count("done") == 1
    assert run(source, output=out).count("skipped") == 1


def test_a_cut_last_line_is_ignored_and_stays_a_line_of_its_own(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(album / "b.wav", output=out)
    with (out / RECORD_NAME).open("a") as record:
        record.write('{"state":"done","id":"12')
    assert run(album / "b.wav", output=out).count("skipped") == 1
    assert run(album, output=out).count("done") == 2
    assert run(album, output=out).count("skipped") == 3


@pytest.mark.parametrize(
    "line", ["[]", "null", '{"state": "done"}', '{"state": "begin", "outputs": 3}', "[" * 5000, "\xff"]
)
def test_a_record_of_nonsense_is_no_record(tmp_path: Path, line: str) -> None:
    (tmp_path / RECORD_NAME).write_text(line + "\n", encoding="latin-1")
    assert Record(tmp_path).owner(tmp_path / "x.wav") is None


def test_several_processes_share_a_record(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from unmixcli.record import *\n"
        "record, who = Record(Path(sys.argv[1])), sys.argv[2]\n"
        "for n in range(40):\n"
        "    source = Fingerprint(f'{who}{n}', 1, None, '')\n"
        "    with record.locked():\n"
        "        record.done(record.begin(source, who, {'options': {}, 'model': {}},\n"
        "                                 {Path(sys.argv[1]) / f'{who}{n}.wav': 1}, {}))\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who]) for who in "abc"]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    lines = (tmp_path / RECORD_NAME).read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 3 + 3 * 40 * 2
    record = Record(tmp_path)
    owners = [record.owner(tmp_path / f"{who}{n}.wav") for who in "abc" for n in range(40)]
    assert all(owner is not None and owner.done for owner in owners)


def test_a_record_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    first, second, entered = Record(tmp_path), Record(tmp_path), threading.Event()

    def enter() -> None:
        with second.locked():
            entered.set()

    thread = threading.Thread(target=enter)
    with first.locked():
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    thread.join()


def test_two_runs_at_once_do_not_mix_their_results(album: Path, tmp_path: Path) -> None:
    """Both plan, both separate; the second finds the first's results complete when it wants to name its own."""
    out, separator = tmp_path / "out", Separator("toy")
    plans = [plan_batch(find_inputs([album]), separator, out) for _ in range(2)]
    assert run_batch(plans[0], separator).count("done") == 3
    before = times(out)
    second = run_batch(plans[1], separator)
    assert {result.message for result in second.results} == {"done meanwhile by another run"}
    assert times(out) == before


def test_nothing_is_written_by_a_plan(album: Path, tmp_path: Path) -> None:
    plan_batch(find_inputs([album]), Separator("toy"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- running


def test_one_bad_file_stops_nothing(album: Path, tmp_path: Path) -> None:
    (album / "text.mp3").write_text("la la la")
    (album / "empty.wav").touch()
    song(album / "cut.flac", seconds=3)
    data = (album / "cut.flac").read_bytes()
    (album / "cut.flac").write_bytes(data[: len(data) // 2])
    header = bytearray((album / "b.wav").read_bytes())
    header[22:24] = b"\0\0"
    (album / "silent movie.wav").write_bytes(header)
    summary = run(album, tmp_path / "gone.wav", output=tmp_path / "out")
    bad = {"text.mp3", "empty.wav", "cut.flac", "silent movie.wav", str(tmp_path / "gone.wav")}
    assert {name for name, status in statuses(summary).items() if status == "failed"} == bad
    assert all(Path(result.name).name in result.message for result in summary.failed)
    assert summary.count("done") == 3
    assert not summary.complete
    assert len(written(tmp_path / "out")) == 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RECORD_NAME, "a", "b", "cd 2"}


def test_jobs_share_one_model_and_give_the_same(tmp_path: Path) -> None:
    for number in range(6):
        song(tmp_path / "in" / f"{number}.wav", seed=number)
    assert run(tmp_path / "in", output=tmp_path / "one").complete
    assert cli_toys.Toy.built == 1
    assert run(tmp_path / "in", output=tmp_path / "three", jobs=3).complete
    assert cli_toys.Toy.built == 2
    for name in written(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()


class Notebook(Listener):
    """Writes down what it is told, and may do something at the first progress."""

    def __init__(self, action: Any = None) -> None:
        self.starts: list[str] = []
        self.events: list[Progress] = []
        self.ends: list[Result] = []
        self.action = action

    def started(self, job: Job) -> None:
        self.starts.append(job.source.name)

    def progress(self, job: Job, event: Progress) -> None:
        self.events.append(event)
        if self.action is not None and event.done:
            action, self.action = self.action, None
            action()

    def finished(self, result: Result) -> None:
        self.ends.append(result)


def test_the_listener_hears_of_everything(album: Path, tmp_path: Path) -> None:
    notebook = Notebook()
    run(album, output=tmp_path / "out", listener=notebook)
    assert notebook.starts == [result.name for result in notebook.ends]
    last = [event for event in notebook.events if event.subject == "b.wav"][-1]
    assert last.done == last.total == 0.5
    part = Notebook()
    run(album / "b.wav", output=tmp_path / "part", end=0.25, listener=part)
    assert part.events[-1].done == part.events[-1].total == 0.25


def test_cancelling_stops_all_jobs_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DELAY", "0.1")
    for number in range(8):
        song(tmp_path / "in" / f"{number}.wav", seconds=30)
    cancel, separator, out = threading.Event(), Separator("toy", jobs=2), tmp_path / "out"
    plan = plan_batch(find_inputs([tmp_path / "in"]), separator, out)
    begun = time.monotonic()
    summary = run_batch(plan, separator, listener=Notebook(cancel.set), cancel=cancel)
    assert time.monotonic() - begun < 15
    assert (summary.results, summary.not_tried, summary.complete) == ((), 8, False)
    assert not out.exists() or written(out) == set()


def test_an_interrupt_stops_and_tells_what_was_done(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DELAY", "0.02")
    song(album / "c.wav", seconds=30)
    separator = Separator("toy")
    plan = plan_batch(find_inputs([album]), separator, tmp_path / "out")

    class Impatient(Listener):
        def started(self, job: Job) -> None:
            if job.source.name == "c.wav":
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        run_batch(plan, separator, listener=Impatient())
    summary = caught.value.summary
    assert (summary.count("done"), summary.not_tried, caught.value.stuck) == (2, 2, False)
    assert written(tmp_path / "out") == {f"{track}/{stem}.wav" for track in "ab" for stem in ("vocals", "other")}


def test_a_job_that_can_not_stop_is_left_behind_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song(tmp_path / "song.wav")
    monkeypatch.setattr(batch, "GRACE", 0.2)
    release, separator = threading.Event(), Separator("toy")
    forward = cli_toys.Toy.forward
    monkeypatch.setattr(cli_toys.Toy, "forward", lambda self, x: (release.wait(20), forward(self, x))[1])
    plan = plan_batch(find_inputs([tmp_path / "song.wav"]), separator, tmp_path / "out")
    run_ = batch._Run(plan, separator, Listener(), threading.Event())

    class Interrupting(threading.Event):
        """Ctrl-C comes while the first wait goes on and a temporary file is there."""

        interrupted = False

        def wait(self, timeout: float | None = None) -> bool:
            if self.interrupted:
                return super().wait(timeout)
            self.interrupted = True
            while not list(tmp_path.glob("out/song/.unmix-part-*")):
                time.sleep(0.01)
            raise KeyboardInterrupt

    run_.all_ended = Interrupting()
    with pytest.raises(Interrupted) as caught:
        run_.run()
    assert caught.value.stuck
    assert written(tmp_path) == {"song.wav"}
    release.set()
    assert run_.all_ended.wait(20)


def test_a_full_disk_is_not_tried_a_hundred_thousand_times(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def full(sink: FileSink) -> None:
        tries.append(sink)
        raise OutputError("no space") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSink, "prepare", full)
    summary = run(album, output=tmp_path / "out")
    assert len(tries) == 1
    assert [("not tried" in result.message) for result in summary.failed] == [False, True, True]


def test_leftovers_of_a_killed_run_are_removed(album: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / "out" / "b" / f".unmix-part-{dead.pid}-0123.wav"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    run(album, output=tmp_path / "out")
    assert not leftover.exists()
    leftover.touch()
    (tmp_path / "out" / "a" / "other.wav").unlink()
    assert run(album, output=tmp_path / "out").count("done") == 1
    assert not leftover.exists()


def test_what_can_not_begin_is_one_error(album: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="kazoo"):
        run(album, output=tmp_path / "out", stems="kazoo")
    with pytest.raises(OptionError, match="leaves the output folder"):
        run(album, output=tmp_path / "out", template="../{stem}")
    path = Path(os.environ["UNMIX_CONFIG"]) / "models" / "toy.json"
    path.write_text(path.read_text().replace('"sample_rate": 8000', '"sample_rate": 9000'))
    with pytest.raises(RegistryError, match="sample_rate"):
        run(album, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_defect_in_one_file_is_a_result_as_well(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = FileSink.prepare

    def odd(sink: FileSink) -> None:
        if "b" in sink.targets["vocals"].parts:
            raise ZeroDivisionError("oh")
        prepare(sink)

    monkeypatch.setattr(FileSink, "prepare", odd)
    summary = run(album, output=tmp_path / "out")
    assert summary.count("done") == 2
    assert summary.failed[0].message == "b.wav: ZeroDivisionError: oh"


def test_a_record_says_who_wrote_last(tmp_path: Path) -> None:
    record, settings = Record(tmp_path), {"options": {}, "model": {}}
    with record.locked():
        first = record.begin(Fingerprint("a", 1, 2, "x"), "k1", settings, {tmp_path / "o.wav": 5}, {})
        record.done(first)
        record.begin(Fingerprint("a", 1, 2, "x"), "k2", settings, {tmp_path / "o.wav": 6}, {})
    owner = Record(tmp_path).owner(tmp_path / "o.wav")
    assert owner is not None
    assert (owner.key, owner.done, owner.outputs) == ("k2", False, {"o.wav": 6})
