"""The registry: the bundled file against its schema, both checkers against each other, the user's entries."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from unmixcli.entry import ModelEntry
from unmixcli.errors import RegistryError, UnknownModelError
from unmixcli.models import architecture_class, architectures
from unmixcli.paths import cache_folder, config_folder, user_models_folder
from unmixcli.registry import Registry, can_give, load_registry, registry_path
from unmixcli.registry_parse import check_name, parse_entry, parse_registry

SCHEMA = json.loads((Path(__file__).parents[1] / "unmixcli" / "registry_schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bundled() -> dict[str, Any]:
    """The whole bundled file; not to be edited."""
    values: dict[str, Any] = json.loads(registry_path().read_text(encoding="utf-8"))
    return values


@pytest.fixture
def data(bundled: dict[str, Any]) -> dict[str, Any]:
    """A registry of the first entries, to be broken."""
    models = copy.deepcopy(bundled["models"][:2])
    names = [model["name"] for model in models]
    return {**bundled, "models": models, "presets": [p for p in bundled["presets"] if p["model"] in names]}


def user_entry(name: str = "mine", **values: Any) -> dict[str, Any]:
    entry = {"name": name, "architecture": "tdc_unet", "stems": ["vocals"], "sample_rate": 44100, "channels": 2}
    return {**entry, **values}


def write_user_entry(text: str, name: str = "mine") -> Path:
    path = user_models_folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_bundled_registry_follows_the_schema(bundled: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(bundled, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_bundled_entries_are_complete() -> None:
    registry = load_registry(user=False)
    for entry in registry.entries:
        assert entry.architecture in architectures(), entry.name
        assert entry.licence.source, entry.name
        assert entry.training_data != "unknown", entry.name
        assert entry.notes, entry.name
        assert all(score.source and set(score.values) <= set(entry.stems) for score in entry.scores), entry.name
    names = [file.name.casefold() for entry in registry.entries for file in entry.files]
    assert len(names) == len(set(names)), "UNMIX_MIRROR holds all files in one folder"


def test_facts_that_matter() -> None:
    registry = load_registry(user=False)
    assert registry.get("umxl").licence.commercial_ok is False
    assert registry.get("umx").licence.commercial_ok is None
    assert registry.get("umxhq").licence.commercial_ok is True
    assert registry.get("umxse").sample_rate == 16000
    cac = registry.get("CAC_TDC_17_vocals_top1.pt")
    assert (cac.name, cac.files[0].size) == ("cac_tdc_17", 2289554)
    assert cac.files[0].sha256 == "45c7dd11479a4922119cafde0196304b39d240504ac52fbd07f8676ec32a9a0f"
    for entry in registry.entries:
        for file in entry.files:
            if entry.architecture == "open_unmix":
                assert file.name == f"{file.part}{'_' if entry.name == 'umxse' else '-'}{file.sha256_prefix}.pth"


def test_recommended_is_free_to_use_and_answers_for_the_usual_stems() -> None:
    registry = load_registry(user=False)
    for stems in ((), ("vocals",), ("bass", "drums"), ("accompaniment",), ("no_drums",), ("vocals", "instrumental")):
        assert registry.recommended(stems) == "umxhq"
    assert registry.get("umxhq").licence.commercial_ok
    assert registry.recommended(("drums", "rest")) == "harmonic_percussive"
    assert registry.recommended(("speech",)) == "umxse"
    assert registry.recommended(("vocals",), "best") == "htdemucs_ft"
    assert registry.recommended(("guitar", "bass"), "fast") == "htdemucs_6s"
    assert registry.recommended(("harpsichord",)) is None
    fast = registry.preset(("vocals",), "fast")
    assert fast is not None
    assert fast.overrides == {"niter": 0}


def test_can_give_takes_rest_only_by_name() -> None:
    assert can_give(("drums", "rest"), ("rest",))
    assert not can_give(("vocals", "drums"), ("rest",))
    assert can_give(("vocals",), ("no_vocals", "karaoke"))
    assert not can_give(("drums",), ("karaoke",))


def test_nothing_of_unclear_origin_is_in_it() -> None:
    """Models reported to be taken out of a commercial program, and what was made of them."""
    text = registry_path().read_text(encoding="utf-8").casefold()
    for word in ("fruit", "logic pro", "roformer-sw", "hyperace", "resurrection", "anvuew_sdr_12", "roformer-fp16"):
        assert word not in text, word
    for entry in load_registry(user=False).entries:
        shape = (entry.config.get("dim"), entry.config.get("depth"))
        assert entry.architecture != "bs_roformer" or shape != (256, 12), entry.name


def test_files_that_can_not_be_checked_are_said_to_be() -> None:
    for entry in load_registry(user=False).entries:
        for file in entry.files:
            assert file.hashes or "Nobody publishes a hash" in " ".join(entry.notes), entry.name
            assert file.package or not any("?" in word for word in file.hashes.values())


def test_scores_of_a_protocol_are_comparable() -> None:
    """No model has two scores under one protocol, and partial test sets say how many tracks."""
    for entry in load_registry(user=False).entries:
        protocols = [score.protocol for score in entry.scores]
        assert len(set(protocols)) == len(protocols), entry.name
        assert all("partial" not in protocol for protocol in protocols), entry.name


# Several networks whose sum the entry says, or settings that only the file has: their own tests count those.
COUNTED_ELSEWHERE = ("open_unmix", "demucs_bag", "demucs")
NAMES_AND_PROTOCOL = ("instruments", "target_instrument", "primary_stem", "chunk_size", "num_overlap", "compensate")


def counted() -> list[Any]:
    """One entry of each network there is: what differs in names or protocol only has the same parameters."""
    seen: dict[str, Any] = {}
    for entry in load_registry(user=False).entries:
        if entry.parameters is not None and entry.files and entry.architecture not in COUNTED_ELSEWHERE:
            shape = {key: value for key, value in entry.config.items() if key not in NAMES_AND_PROTOCOL}
            key = json.dumps([entry.architecture, shape, len(entry.stems), entry.parameters])
            seen.setdefault(key, pytest.param(entry, id=entry.name))
    return list(seen.values())


@pytest.mark.parametrize("entry", counted())
def test_networks_have_as_many_parameters_as_published(entry: ModelEntry) -> None:
    architecture = architecture_class(entry.architecture)
    with torch.device("cpu" if architecture.trainable else "meta"):  # one that is trained looks at its own numbers
        model = architecture.from_config(entry.config, entry.stems)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    assert (model.sample_rate, model.channels, model.stems) == (entry.sample_rate, entry.channels, entry.stems)


# Ways to break a registry: path to the value, the value instead. Both checkers must refuse each.
BREAKS: list[tuple[tuple[str | int, ...], Any]] = [
    (("version",), 2),
    (("models",), {}),
    (("surprise",), 1),
    (("models", 0, "surprise"), 1),
    (("models", 0, "name"), "../umx"),
    (("models", 0, "name"), "UMX"),
    (("models", 0, "name"), "."),
    (("models", 0, "name"), "a" * 65),
    (("models", 0, "name"), None),
    (("models", 0, "architecture"), "os.system"),
    (("models", 0, "stems"), []),
    (("models", 0, "stems"), ["vocals", "vocals"]),
    (("models", 0, "stems"), ["../../vocals"]),
    (("models", 0, "sample_rate"), 0),
    (("models", 0, "sample_rate"), "44100"),
    (("models", 0, "sample_rate"), True),
    (("models", 0, "channels"), 2.5),
    (("models", 0, "config"), []),
    (("models", 0, "licence"), {"spdx": "MIT"}),
    (("models", 0, "licence"), {"name": "MIT", "commercial_ok": "yes"}),
    (("models", 0, "paper"), {"title": "A", "year": 2019}),
    (("models", 0, "paper", "url"), "javascript:alert(1)"),
    (("models", 0, "scores", 0, "values", "vocals"), "6.25"),
    (("models", 0, "scores", 0, "values", "vocals"), True),
    (("models", 0, "notes"), [""]),
    (("models", 0, "files", 0, "part"), "../vocals"),
    (("models", 0, "files", 0, "name"), "../vocals.pth"),
    (("models", 0, "files", 0, "name"), ".hidden"),
    (("models", 0, "files", 0, "name"), "a/b.pth"),
    (("models", 0, "files", 0, "name"), "a\\b.pth"),
    (("models", 0, "files", 0, "name"), "vocals."),
    (("models", 0, "files", 0, "urls"), ["file:///etc/passwd"]),
    (("models", 0, "files", 0, "urls"), "https://example.org/vocals.pth"),
    (("models", 0, "files", 0, "size"), -1),
    (("models", 0, "files", 0, "sha256"), "B62C"),
    (("models", 0, "files", 0, "package"), "weights/../../x"),
    (("models", 1, "files", 0, "sha256_prefix"), None),
    (("models", 0, "files", 0, "unverified"), True),
    (("models", 0, "files", 0, "unverified"), "no"),
    (("models", 0, "files", 0, "sha1"), "0" * 39),
    (("models", 0, "files", 0, "uvr_md5"), "g" * 32),
    (("presets", 0, "quality"), "superb"),
    (("presets", 0, "stems"), []),
    (("presets", 0, "model"), ""),
]


@pytest.mark.parametrize(("place", "value"), BREAKS)
def test_both_checkers_refuse(data: dict[str, Any], place: tuple[str | int, ...], value: Any) -> None:
    broken = copy.deepcopy(data)
    target: Any = broken
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(RegistryError):
        parse_registry(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_names_with_a_line_break_or_of_a_device_are_refused() -> None:
    for name in ("umx\n", "nul", "con.1", "com1", "-x", "x-"):
        with pytest.raises(RegistryError):
            check_name(name)


def test_rules_across_entries(data: dict[str, Any]) -> None:
    twice = {**data, "models": [data["models"][0], data["models"][0]]}
    with pytest.raises(RegistryError, match="twice"):
        parse_registry({**twice, "presets": []})
    for preset, message in (
        ({"quality": "fast", "stems": ["vocals"], "model": "gone"}, "not an entry"),
        ({"quality": "fast", "stems": ["guitar"], "model": "umxhq"}, "expected some of"),
        ({"quality": "fast", "stems": ["vocals"], "model": "umxhq", "overrides": {"n": 1}}, "config has not"),
    ):
        with pytest.raises(RegistryError, match=message):
            parse_registry({**data, "presets": [preset]})


def test_chains(data: dict[str, Any]) -> None:
    first, second = data["models"][0], copy.deepcopy(data["models"][0])
    second.update(name="second", stems=["lead", "backing"], aliases=[])
    step = {"stem": first["stems"][0], "model": "second", "names": {"lead": "lead_vocals"}, "rest": "noise"}
    preset = {"quality": "fast", "stems": ["lead_vocals", "noise"], "model": first["name"], "then": [step]}

    def parse(**changes: Any) -> Any:
        values = {**data, "models": [first, second], "presets": [{**preset, **changes}]}
        jsonschema.validate(values, SCHEMA, cls=jsonschema.Draft202012Validator)
        return parse_registry(values)

    entries, (found,) = parse()
    assert found.then[0].names == {"lead": "lead_vocals"}
    registry = Registry(entries, (found,))
    assert registry.preset(("lead_vocals",), "fast") is None, "that is for models that give it directly"
    assert list(registry.chains_for(("lead_vocals", first["stems"][1]), "fast")) == [found]
    assert not list(registry.chains_for(("lead_vocals",), "best"))
    assert not list(registry.chains_for(("lead_vocals", "harp"), "fast"))
    for changes, message in (
        ({"stems": ["lead"]}, "expected some of backing, lead_vocals, noise"),
        ({"then": [{**step, "model": "gone"}]}, "'gone', which is not an entry"),
        ({"then": [{**step, "stem": "harp"}]}, "hear 'harp', which nothing before it gives"),
        ({"then": [{**step, "names": {"harp": "lead_vocals"}}]}, "second has no stem harp"),
        ({"then": [{**step, "rest": "backing"}]}, "there twice"),
        ({"then": [{**step, "names": {"lead": first["stems"][1]}}]}, "there twice"),
    ):
        with pytest.raises(RegistryError, match=message):
            parse(**changes)
    for broken in (
        {**step, "names": {"lead": "../x"}},
        {**step, "surprise": 1},
        {"model": "second"},
        {**step, "rest": "A"},
    ):
        with pytest.raises(RegistryError):
            parse_registry({**data, "models": [first, second], "presets": [{**preset, "then": [broken]}]})
        with pytest.raises(jsonschema.ValidationError):
            parse(then=[broken])


def test_hash_that_contradicts_its_prefix_is_refused(data: dict[str, Any]) -> None:
    data["models"][0]["files"][0]["sha256_prefix"] = "00000000"
    with pytest.raises(RegistryError, match="does not begin"):
        parse_registry(data)


def test_entry_survives_the_way_through_json() -> None:
    for entry in load_registry(user=False).entries:
        assert parse_entry(json.loads(json.dumps(entry.as_json())), where="test") == entry


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_registry().get("umxqh")
    assert "umxhq" in str(caught.value.hint)


def test_users_entry_is_found() -> None:
    write_user_entry(
        json.dumps(user_entry(files=[{"part": "checkpoint", "name": "c.safetensors", "sha256": "0" * 64}]))
    )
    entry = load_registry().get("mine")
    assert not entry.bundled
    assert entry.folder == user_models_folder() / "mine"
    with pytest.raises(UnknownModelError):
        load_registry(user=False).get("mine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (json.dumps(user_entry(surprise=1)), "unknown key"),
        (json.dumps(user_entry("other")), "expected 'mine'"),
        ("[" * 100000, "not JSON"),
        ('{"name": "\\ud800"}', "name"),
    ],
)
def test_broken_user_file_is_named_and_skipped(text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write_user_entry(text)
    write_user_entry(json.dumps(user_entry("good")), "good")
    with caplog.at_level(logging.WARNING):
        registry = load_registry()
    assert registry.get("good").name == "good"
    assert registry.get("umxhq").bundled
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert reason in caplog.text


def test_user_can_not_take_a_bundled_name(caplog: pytest.LogCaptureFixture) -> None:
    write_user_entry(json.dumps(user_entry("umxhq")), "umxhq")
    write_user_entry(json.dumps(user_entry("sly", aliases=["umxl"])), "sly")
    registry = load_registry()
    assert registry.get("umxhq").bundled
    assert registry.get("umxl").bundled
    assert "taken" in caplog.text


def test_folders_follow_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("UNMIX_CONFIG", str(tmp_path / "b"))
    assert (cache_folder(), config_folder()) == (tmp_path / "a", tmp_path / "b")
    monkeypatch.delenv("UNMIX_CACHE")
    monkeypatch.delenv("UNMIX_CONFIG")
    assert "unmixcli" in str(cache_folder())
    assert "unmixcli" in str(config_folder())


def test_loading_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from unmixcli.registry import load_registry; r = load_registry(); r.recommended(('vocals',)); "
        "print([m for m in ('torch', 'numpy', 'requests', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
