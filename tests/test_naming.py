"""Names from tags and templates can't leave the folder or break a file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmixcli.errors import OptionError
from unmixcli.naming import check_template, safe_name, target_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Björk – 04 絆", "Björk – 04 絆"),
        ("AC/DC", "AC_DC"),
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("..", "untitled"),
        ("", "untitled"),
        ("   ", "untitled"),
        ("a\nb\x00c", "a_b_c"),
        ("what?", "what_"),
        ("dots...", "dots"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        (".hidden", ".hidden"),
    ],
)
def test_safe_name(text: str, expected: str) -> None:
    assert safe_name(text) == expected


def test_long_names_are_cut_between_characters() -> None:
    name = safe_name("絆" * 500)
    assert len(name.encode()) <= 120
    assert set(name) == {"絆"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("../{stem}", "leaves the output folder"),
        ("/tmp/{stem}", "leaves the output folder"),
        ("a/../../{stem}", "leaves the output folder"),
        ("C:/{stem}", "leaves the output folder"),
        ("{stem}/{nonsense}", "unknown field {nonsense}"),
        ("{stem", "not valid"),
        ("{stem.__class__}", "unknown field"),
        ("  ", "empty"),
    ],
)
def test_bad_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_template(template)


def paths(template: str, **changes: object) -> dict[str, Path]:
    fields = {"track": "song", "model": "umxhq", "suffix": "wav", "tags": {}, **changes}
    return target_paths(Path("out"), template, ("vocals", "drums"), **fields)  # type: ignore[arg-type]


def test_default_layout() -> None:
    assert paths("{track}/{stem}") == {
        "vocals": Path("out/song/vocals.wav"),
        "drums": Path("out/song/drums.wav"),
    }


def test_tags_and_extension_in_a_template() -> None:
    tags = {"artist": "AC/DC", "title": "../x", "album": ""}
    found = paths("{artist}/{album}/{title} [{stem}] {model}.{ext}", tags=tags)
    assert found["vocals"] == Path("out/AC_DC/unknown album/.._x [vocals] umxhq.wav")
    assert Path("out") in found["vocals"].parents


def test_two_outputs_on_one_path_are_refused() -> None:
    with pytest.raises(OptionError, match="vocals and drums the same path"):
        paths("{track}")
