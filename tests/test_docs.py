"""The documentation against the program: code runs, commands parse, the reference is current, links lead somewhere."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
import soundfile
import torch
import yaml
from numpy.typing import NDArray

from unmixcli.checkpoint import FALLBACK
from unmixcli.cli import COMMANDS, DEFAULT, cli
from unmixcli.models import ARCHITECTURES, architecture_class, architectures
from unmixcli.registry import load_registry
from unmixcli.registry_parse import parse_entry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOY = ROOT / "docs/howto/add-an-architecture.md"


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def typed(page: Path) -> list[list[str]]:
    """The words of every `unmix …` line in a page's shell blocks, pipes and comments left out."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [re.search(r"(?:^|\| )(unmix .*)", line) for line in lines]
    words = [shlex.split(found[1], comments=True)[1:] for found in commands if found]
    return [line[: next((n for n, word in enumerate(line) if word in ("|", ">")), len(line))] for line in words]


def run(line: str) -> None:
    """Type a command line that must succeed."""
    words = shlex.split(line)
    assert words[0] == "unmix"
    assert cli.main(words[1:], standalone_mode=False) in (None, 0), line


@pytest.fixture
def folder(tmp_path: Path, music: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own current folder with a song in it; modules that a test imports from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "album").mkdir()
    for name in ("song.wav", "album/one.wav"):
        soundfile.write(tmp_path / name, music.T, 44100)
    yield tmp_path
    sys.modules.pop("filter_bank", None)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/make_reference.py"""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_commands(generator: ModuleType) -> Iterator[tuple[str, click.Command]]:
    yield from generator.walk(cli, "unmix")


# ---------------------------------------------------------------- reference


def test_the_reference_is_what_the_generator_gives(generator: ModuleType) -> None:
    text = generator.REFERENCE.read_text(encoding="utf-8")
    assert text == generator.update(text), "run `python docs/make_reference.py`"


def test_every_command_and_option_has_help(generator: ModuleType) -> None:
    names = []
    for path, command in all_commands(generator):
        assert command.help, path
        names.append(path)
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path} {option.opts}"
    assert {f"unmix {name}" for name in COMMANDS} < set(names)
    assert "unmix models add" in names


def test_every_environment_variable_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "unmixcli").rglob("*.py"))
    named = set(re.findall(r"\b_?UNMIX_[A-Z]+\b", sources))
    assert {"UNMIX_CACHE", "UNMIX_CONFIG", "UNMIX_MIRROR"} <= named
    assert [name for name in sorted(named) if f"`{name}`" not in reference] == []


def test_the_keys_of_json_are_in_the_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "unmix song.wav --model harmonic_percussive --to 0.3 --json"
    run(line)
    run(f"{line} --dry-run -o other")
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {"run", "start", "progress", "result", "summary", "planned", "plan"} <= {event["event"] for event in printed}
    tables = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    for event in printed:
        row = re.search(rf"^\| `{event['event']}` \|(.*)$", tables, re.MULTILINE)
        assert row, event["event"]
        assert {key for key in event if f"`{key}`" not in row[1]} == {"event"}


# ---------------------------------------------------------------- what stands in the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_that_are_shown_exist(page: Path) -> None:
    for words in typed(page):
        command: click.Command = cli
        context = click.Context(cli, info_name="unmix")
        if words and words[0] not in COMMANDS and words[0] not in ("-h", "--help", "--version"):
            words = [DEFAULT, *words]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            assert found is not None, words
            command, words = found, words[1:]
            context = click.Context(command, info_name=command.name, parent=context)
        values, _, _ = command.make_parser(context).parse_args(list(words))  # an unknown option raises
        for option in command.params:
            if isinstance(option, click.Option) and option.name in values and option.name != "config":
                option.type_cast_value(context, values[option.name])


def test_the_pages_show_enough_commands() -> None:
    """The test above must find what it looks for."""
    assert sum(len(typed(page)) for page in PAGES) > 30


def test_a_yaml_block_is_an_entry_that_can_be_added() -> None:
    settings, whole = map(yaml.safe_load, blocks(ROOT / "docs/howto/add-a-checkpoint.md", "yaml"))
    assert set(settings) <= set(load_registry(user=False).get("umxhq").config)
    entry = parse_entry({"name": "mine", "sample_rate": 44100, "channels": 2, **whole}, where="the page")
    assert architecture_class(entry.architecture).from_config(entry.config, entry.stems).stems == ("vocals",)


def test_the_table_of_segments_is_the_models() -> None:
    text = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z_0-9, ]+) \| ([\d.]+) s.* \| ([\d.]+) s \| ([\d.]+) \|", text, re.MULTILINE)
    described = []
    for names, segment, edge, overlap in rows:
        entries = [load_registry(user=False).get(name) for name in names.split(", ")]
        described += [entry.architecture for entry in entries]
        first = entries[0]  # those of a row share what decides this; building them all takes seconds
        with torch.device("cpu" if first.name == FALLBACK else "meta"):
            model = architecture_class(first.architecture).from_config(first.config, first.stems)
        for stated, samples in ((segment, model.segment_length), (edge, model.edge)):
            assert float(stated) == pytest.approx(samples / model.sample_rate, rel=0.01, abs=0.01), names
        assert float(overlap) == pytest.approx(model.overlap, abs=0.001), names
    assert set(described) == {entry.architecture for entry in load_registry(user=False).entries}


# ---------------------------------------------------------------- code that must run


def test_the_python_page_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    found = blocks(ROOT / "docs/howto/python.md", "python")
    assert len(found) >= 8
    for code in found:
        exec(compile(code, "python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "there is no model 'umxqh'" in said
    assert "one.wav done" in said
    assert "separate song.wav: 100%" in said
    assert (folder / "flac/song/drums.flac").is_file()
    assert (folder / "karaoke.flac").is_file()


def test_the_toy_architecture_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, training = blocks(TOY, "python")
    (folder / "filter_bank.py").write_text(module, encoding="utf-8")
    (row,) = blocks(TOY, "toml")
    package = folder / "filter_bank-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: filter-bank\nVersion: 1.0\n")
    section = re.search(r'"(.*)"\]\n(.*) = "(.*)"', row)
    assert section
    (package / "entry_points.txt").write_text(f"[{section[1]}]\n{section[2]} = {section[3]}\n")
    assert architectures()["filter_bank"] == "filter_bank:FilterBank"
    exec(compile(training, TOY.name, "exec"), {})
    for block in blocks(TOY, "sh"):
        for line in block.splitlines():
            run(line)
    mixture, _ = soundfile.read(folder / "song.wav", always_2d=True)
    stems = [soundfile.read(folder / f"separated/song/{name}.wav")[0] for name in ("vocals", "other")]
    assert np.abs(sum(stems) - mixture).max() < 2**-14
    (entry,) = blocks(TOY, "json")
    assert parse_entry(json.loads(entry), where=TOY.name).architecture == "filter_bank"


def test_the_toy_architecture_keeps_the_contract(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import test_model_contract as contract

    text = TOY.read_text(encoding="utf-8")
    (folder / "filter_bank.py").write_text(blocks(TOY, "python")[0], encoding="utf-8")
    row = re.search(r'^    ("filter_bank": "unmixcli\.models\.filter_bank:FilterBank"),$', text, re.MULTILINE)
    case = re.search(r'^    ("filter_bank": \[.*\]),$', text, re.MULTILINE)
    assert row
    assert case
    monkeypatch.setitem(ARCHITECTURES, "filter_bank", "filter_bank:FilterBank")
    ((name, builds),) = eval(f"{{{case[1]}}}").items()
    for config, stems in builds:
        checks = contract.TestContract()
        for check, function in inspect.getmembers(contract.TestContract, inspect.isfunction):
            lengths = [1, 63, 4097] if "length" in inspect.signature(function).parameters else [None]
            for length in lengths:
                extra = {} if length is None else {"length": length}
                getattr(checks, check)(name, config, stems, **extra)
