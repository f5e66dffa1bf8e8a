"""The maintainers' scripts: what rotted in the registry, and how its entries are written."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_download import BODY, SHA256, Handler, Site, good, site

from unmixcli.registry import registry_path
from unmixcli.registry_parse import parse_registry

__all__ = ["site"]  # a fixture

SCRIPTS = Path(__file__).parents[1] / "docs" / "maintain"
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the scripts are in the repository only")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"maintain_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts add their folders to it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


# --- check_registry


def write_registry(folder: Path, site: Site, **files: dict[str, Any]) -> Path:
    models = [
        {
            "name": name, "architecture": "toy", "stems": ["vocals"], "sample_rate": 44100, "channels": 2,
            "files": [{"part": "checkpoint", "name": f"{name}.pth", "urls": [site.url(f"{name}.pth")], **values}],
        }
        for name, values in files.items()
    ]  # fmt: skip
    path = folder / "registry.json"
    path.write_text(json.dumps({"version": 1, "models": models}))
    return path


def page(request: Handler) -> None:
    request.reply(200, b"<html>", Content_Type="text/html; charset=utf-8")


def plain(request: Handler) -> None:
    """A server without ranges."""
    request.reply(200, BODY)


def test_mirrors_that_are_not_as_the_registry_says_are_listed(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"size": len(BODY), "sha256": SHA256}
    path = write_registry(
        tmp_path, site, whole=known, plain=known, short=known, other=known, gone=known, page=known,
        learned={"sha256_prefix": SHA256[:8]}, dead={**known, "urls": ["http://127.0.0.1:9/dead.pth"]},
    )  # fmt: skip
    wrong = bytes(len(BODY))
    site.behaviours |= {
        "whole.pth": good(), "plain.pth": plain, "short.pth": good(BODY[:-1]), "other.pth": good(wrong),
        "page.pth": page, "learned.pth": good(),
    }  # fmt: skip
    checker = script("check_registry")
    arguments = ["--registry", str(path), "--json", str(tmp_path / "rot.json"), "--timeout", "5"]
    assert checker.main(arguments) == 1
    states = {a["model"]: (a["state"], a["size"]) for a in json.loads((tmp_path / "rot.json").read_text())}
    assert states == {
        "whole": ("ok", len(BODY)), "plain": ("ok", len(BODY)), "short": ("size", len(BODY) - 1),
        "other": ("ok", len(BODY)), "gone": ("gone", None), "page": ("page", None), "learned": ("ok", len(BODY)),
        "dead": ("unreachable", None),
    }  # fmt: skip
    text = capsys.readouterr().out
    assert f"| short | {site.url('short.pth')} | size | {len(BODY) - 1} bytes, the registry says {len(BODY)} |" in text
    assert "4 of 8 mirrors are as the registry says; 4 of 8 models can't be fetched." in text
    assert site.ranges("whole.pth") == ["bytes=0-0"], "nothing is fetched"

    assert checker.main([*arguments, "--hash", "whole", "other", "learned"]) == 1
    answers = {a["model"]: a for a in json.loads((tmp_path / "rot.json").read_text())}
    assert {name: a["state"] for name, a in answers.items()} == {"whole": "ok", "other": "hash", "learned": "ok"}
    assert answers["learned"]["digests"]["sha256"] == SHA256
    assert answers["learned"]["digests"]["uvr_md5"] == hashlib.md5(BODY).hexdigest()
    assert checker.main(["--registry", str(path), "--hash", "whole"]) == 0
    with pytest.raises(SystemExit):
        checker.main(["--registry", str(path), "nobody"])


def test_another_mirror_that_has_the_file_is_said(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [site.url("gone.pth"), site.url("w.pth")]
    path = write_registry(tmp_path, site, toy={"urls": urls, "sha256": SHA256})
    site.behaviours["w.pth"] = good()
    assert script("check_registry").main(["--registry", str(path)]) == 1
    text = capsys.readouterr().out
    assert f"| toy | {urls[0]} | gone | 404 Not Found | yes |" in text
    assert "0 of 1 models can't be fetched" in text


# --- build_registry


def fact(**values: Any) -> dict[str, Any]:
    """A checkpoint as the facts file has it."""
    filename = values.pop("filename", "toy.ckpt")
    files = [{"role": "checkpoint", "filename": filename, "sha256": SHA256, **values.pop("file", {})}]
    return {
        "name": "mel_roformer-somebody-toy_v1", "family": "mel-band-roformer", "architecture": "mel_roformer",
        "authors": ["somebody"], "stems": ["instrum"], "flags": [], "filename": filename, "files": files,
        "urls": ["https://example.org/toy.ckpt"], "size_bytes": None, "sample_rate": 44100,
        "sources": {"url": "splifft"},
        "hyperparameters": {
            "dim": 8, "depth": 1, "chunk_size": 44100, "band_config": {"kind": "mel"}, "stft_hop_length": 441,
            "yaml_mask_estimator_depth": 2,
        },
        "licence": {"value": "not stated", "spdx": None, "commercial_ok": None, "source": "no statement found"},
        "sdr": [
            {"dataset": "MVSep Multisong (100 x 1 min), global SDR", "metric": "SDR",
             "scores": {"instrum": 10.0, "vocals": 5.0, "avg": 7.5}, "source": "somewhere"},
            {"dataset": "MUSDB18 test, partial", "n_tracks": 12, "metric": "museval", "scores": {"vocals": 1.0},
             "comparable": False, "source": "somewhere"},
        ],
        **values,
    }  # fmt: skip


def test_a_fact_becomes_an_entry() -> None:
    builder = script("build_registry")
    entry = builder.entry_of({**fact(), "also": ["other_name.ckpt"]})
    assert entry["name"] == "mel_roformer_somebody_toy_v1"
    assert (entry["architecture"], entry["stems"]) == ("mel_band_roformer", ["instrumental"])
    assert entry["config"]["target_instrument"] == "instrumental"
    assert entry["config"]["instruments"] == ["instrumental", "vocals"]
    assert entry["licence"]["name"] == "unknown"
    assert [score["values"] for score in entry["scores"]] == [{"instrumental": 10.0}]
    assert {"toy.ckpt", "toy", "other_name.ckpt"} <= set(entry["aliases"])
    assert entry["parameters"] > 0
    assert "checked" not in " ".join(entry["notes"])
    unhashed = builder.entry_of({**fact(file={"sha256": None}), "also": []})
    assert unhashed["files"][0]["unverified"] is True
    assert "Nobody publishes a hash" in " ".join(unhashed["notes"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"flags": ["DO NOT SHIP without legal review: suspected derivative"]}, "provenance: suspected derivative"),
        ({"flags": ["non-standard architecture; plain BSRoformer will not load it"]}, "non-standard architecture"),
        ({"urls": ["https://drive.google.com/file/d/1/view"]}, "a page for people"),
        ({"size_bytes": 10**9}, "its network needs"),
        ({"expected_params": 5}, "expected 5"),
        ({"hyperparameters": None}, "settings are not known"),
        ({"hyperparameters": {"use_pope": True}}, "a variant"),
        ({"family": "danna-sep", "architecture": "X-UMX + more (TorchScript)"}, "this program has no X-UMX"),
    ],
)
def test_what_gets_no_entry_is_listed_with_the_reason(values: dict[str, Any], reason: str) -> None:
    builder = script("build_registry")
    entries, left_out = builder.build(builder.merged([fact(**values)]))
    assert not entries
    assert reason in left_out[0][1]
    assert "| `toy.ckpt` |" in builder.report(left_out)


def test_the_same_file_twice_is_one_entry_with_both_mirrors() -> None:
    builder = script("build_registry")
    facts = [fact(), fact(filename="twin.ckpt", urls=["https://example.com/twin.ckpt"])]
    entries, _ = builder.build(builder.merged(facts))
    assert len(entries) == 1
    assert entries[0]["files"][0]["urls"] == ["https://example.org/toy.ckpt", "https://example.com/twin.ckpt"]
    assert "twin.ckpt" in entries[0]["aliases"]
    flagged = fact(filename="twin.ckpt", flags=["DO NOT SHIP: taken out of a program"])
    assert not builder.build(builder.merged([fact(), flagged]))[0], "a flag holds for every name of a file"


def test_merging_keeps_what_was_written_by_hand_and_changes_nothing_the_second_time() -> None:
    builder = script("build_registry")
    registry = json.loads(registry_path().read_text(encoding="utf-8"))
    entries, _ = builder.build(builder.merged([fact()]))
    once = builder.merge(registry, entries)
    assert builder.merge(once, entries) == once
    assert [m for m in once["models"] if m["name"] != "mel_roformer_somebody_toy_v1"] == registry["models"]
    assert json.loads(builder.dumps(once)) == once
    renamed = [{**entries[0], "name": "another"}]
    names = [m["name"] for m in builder.merge(once, renamed, owned=builder.files_owned([fact()]))["models"]]
    assert "another" in names
    assert "mel_roformer_somebody_toy_v1" not in names
    parse_registry(once)


def test_the_registry_is_as_the_script_writes_it() -> None:
    builder = script("build_registry")
    text = registry_path().read_text(encoding="utf-8")
    assert builder.dumps(json.loads(text)) + "\n" == text, "run docs/maintain/build_registry.py, or write it so"
