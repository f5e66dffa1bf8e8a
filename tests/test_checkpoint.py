"""Reading weights as data, refusing everything else, and getting from an entry to a model."""

from __future__ import annotations

import argparse
import builtins
import collections
import functools
import json
import operator
import os
import pickle
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from unmixcli import checkpoint, user_models
from unmixcli.cache import converted_path, file_path, hash_file
from unmixcli.checkpoint import choose_model, load_model, read_package, read_state
from unmixcli.entry import ModelEntry
from unmixcli.errors import (
    CheckpointError,
    OptionError,
    OutputError,
    RegistryError,
    UnknownModelError,
    UnmixError,
)
from unmixcli.models import ARCHITECTURES, open_unmix
from unmixcli.models.base import SeparationModel
from unmixcli.registry import Registry, load_registry
from unmixcli.unpickle import Inert, Name
from unmixcli.user_models import add_model, remove_model

# --- reading what is good


def states() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 6, generator=generator)
    return {
        "float32": noise,
        "transposed": noise.T,
        "piece": noise[1:3, 2:],
        "float16": noise.half(),
        "bfloat16": noise.bfloat16(),
        "float64": noise.double(),
        "int64": torch.arange(5),
        "int32": torch.arange(5, dtype=torch.int32),
        "int16": torch.arange(5, dtype=torch.int16),
        "int8": torch.arange(-2, 3, dtype=torch.int8),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(noise * 2),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_both_torch_formats_give_the_tensors(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(collections.OrderedDict(states()), path, _use_new_zipfile_serialization=zipped)
    found = read_state(path)
    assert list(found) == list(states())
    for name, expected in states().items():
        assert found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name


def test_safetensors_give_the_tensors(tmp_path: Path) -> None:
    expected = {name: tensor.detach().contiguous().clone() for name, tensor in states().items()}
    save_file(expected, tmp_path / "w.bin")
    found = read_state(tmp_path / "w.bin")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_network_and_tied_weights(tmp_path: Path) -> None:
    network = torch.nn.LSTM(3, 4, bidirectional=True)
    state = network.state_dict()
    torch.save({**state, "tied": state["weight_ih_l0"]}, tmp_path / "w.pth")
    found = read_state(tmp_path / "w.pth")
    assert torch.equal(found.pop("tied"), state["weight_ih_l0"])
    network.load_state_dict(found, strict=True)


@pytest.mark.parametrize("key", ["state", "state_dict", "model_state_dict", "model"])
def test_state_dicts_are_found_where_trainers_put_them(tmp_path: Path, key: str) -> None:
    tensor = torch.ones(2)
    torch.save({"epoch": 3, key: {"module.model.a": tensor, "module.model.b": tensor}}, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["a", "b"]
    torch.save({"lightning": {"x": 1}, "note": "none"}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"no tensors were found .*lightning, note"):
        read_state(tmp_path / "w.pth")


def test_a_prefix_that_not_all_names_have_is_a_name(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["model.a", "b"]


@pytest.fixture
def demucs_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as Demucs'."""
    module = types.ModuleType("demucs.hdemucs")
    klass = type("HDemucs", (), {"__module__": "demucs.hdemucs"})
    module.HDemucs = klass  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "demucs", types.ModuleType("demucs"))
    monkeypatch.setitem(sys.modules, "demucs.hdemucs", module)
    return klass


@pytest.mark.parametrize("zipped", [True, False])
def test_a_package_keeps_what_is_not_tensors(tmp_path: Path, demucs_class: type, zipped: bool) -> None:
    package = {
        "klass": demucs_class,
        "made": demucs_class(),
        "kwargs": {"segment": Fraction(39, 5), "sources": ["drums", "bass"], "depth": 6},
        "training_args": argparse.Namespace(lr=1e-3, names={"a", "b"}),
        "loss": np.float64(0.25),
        "count": np.int64(7),
        "array": np.arange(3.0),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "default": collections.defaultdict(dict, {"a": 1}),
        "state": {"w": torch.arange(3.0)},
    }
    torch.save(package, tmp_path / "w.th", _use_new_zipfile_serialization=zipped)
    found = read_package(tmp_path / "w.th")
    assert found["klass"] == Name("demucs.hdemucs.HDemucs")
    assert isinstance(found["made"], Inert)
    assert found["kwargs"] == package["kwargs"]
    assert found["training_args"].state == [{"lr": 1e-3, "names": {"a", "b"}}]
    assert (found["loss"], found["count"]) == (0.25, 7)
    assert isinstance(found["array"], Inert)
    assert (found["device"], found["size"], found["default"]) == ("cpu", (1, 2), {"a": 1})
    assert torch.equal(read_state(tmp_path / "w.th")["w"], torch.arange(3.0))


def test_the_published_checkpoint(shared_data: Path) -> None:
    path = shared_data / "checkpoints" / "cac_tdc_17_vocals_top1.pt"
    found = read_state(path)
    expected = torch.load(path, map_location="cpu", weights_only=True)
    assert len(found) == 716
    assert (
        sum(tensor.numel() for name, tensor in found.items() if "running" not in name and "num_b" not in name) == 535924
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


# --- refusing what is bad


def attacks(canary: Path) -> dict[str, Any]:
    command = f"echo owned > {canary}"
    return {
        "os.system": hostile.Call(os.system, command),
        "eval": hostile.Call(builtins.eval, f"open({str(canary)!r}, 'w')"),
        "exec": hostile.Call(builtins.exec, f"open({str(canary)!r}, 'w')"),
        "getattr": hostile.Call(builtins.getattr, {}, "get"),
        "open": hostile.Call(open, str(canary), "w"),
        "popen": hostile.Call(subprocess.Popen, ["sh", "-c", command]),
        "import": hostile.Call(builtins.__import__, "os"),
        "attrgetter": hostile.Call(operator.attrgetter, "system"),
        "partial": hostile.Call(functools.partial, os.system, command),
        "pickle": hostile.Call(pickle.loads, pickle.dumps(hostile.Call(os.system, command))),
        "load_from_bytes": hostile.Call(torch.storage._load_from_bytes, b"x"),
        "torch.load": hostile.Call(torch.load, str(canary)),
        "deep": {"state": {"w": [({"x": hostile.Call(os.system, command)},)]}},
    }


@pytest.mark.parametrize("name", list(attacks(Path())))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path: Path, name: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    data = pickle.dumps(attacks(canary)[name], protocol)
    for path in (
        hostile.zip_checkpoint(tmp_path / "w.pth", data),
        hostile.legacy_checkpoint(tmp_path / "old.pth", data),
        # the header's pickles and the list of keys are as dangerous as the content
        tmp_path / "head.pth",
        tmp_path / "keys.pth",
    ):
        if path.name == "head.pth":
            path.write_bytes(hostile.LEGACY_MAGIC + data)
        if path.name == "keys.pth":
            path.write_bytes(hostile.LEGACY_HEAD + pickle.dumps({}, 2) + data)
        with pytest.raises(CheckpointError):
            read_package(path)
        assert not canary.exists()


def test_the_attacks_would_work_on_python(tmp_path: Path) -> None:
    """Otherwise the tests above prove nothing."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(attacks(canary)["deep"]))
    assert canary.exists()


def test_the_refusal_names_what_it_found(tmp_path: Path) -> None:
    path = hostile.zip_checkpoint(tmp_path / "w.pth", pickle.dumps(hostile.Call(os.system, "true"), 2))
    with pytest.raises(
        CheckpointError, match=r"w\.pth: the checkpoint is refused: it names '(posix|nt)\.system'"
    ) as caught:
        read_state(path)
    assert "nothing of the file was run" in str(caught.value.hint)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8c\x0ctorch._utils\x94\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",  # a dotted name
        b"\x80\x02\x82\x01.",  # EXT1
        b"(S'true'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"Pstorage\n.",  # PERSID
        b"\x80\x02X\x01\x00\x00\x00aQ.",  # a persistent id that is no storage
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sbb.",
        b"\x80\x02}}b.",  # state for a dict
        b"\x80\x02]ccollections\nOrderedDict\na)R.",  # calls a list
        b"\x80\x02}]K\x01s.",  # a list as a key
        b"\x80\x02(",
        b"\x80\x02.",
        b"\x80\x02h\x05.",  # a memo that is not there
        b"\x80\x02cfractions\nFraction\nX\x0b\x00\x00\x001e999999999\x85R.",
        b"\x80\x05\x96" + b"\xff" * 8 + b".",  # a bytearray of 2**64 bytes
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",  # bytes of 2**60
    ],
)
def test_odd_instructions_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_package(hostile.zip_checkpoint(tmp_path / "w.pth", data))


def test_pickle_bombs_cost_neither_time_nor_memory(tmp_path: Path) -> None:
    begin = time.monotonic()
    doubled = b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(80))
    as_key = doubled + b"0}hPK\x01s."  # a tuple nested 80 deep, each twice: 2**80 hashes
    memo = b"\x80\x02Nr\xff\xff\xff\x7f."  # a memo of two billion places
    circle = b"\x80\x02]q\x00h\x00a."
    states_of_states = b"\x80\x02}q\x000"  # a dictionary nested 40 deep, each found twice in the next
    for i in range(40):
        pairs = b"".join(hostile.text(key) + b"h%c" % i for key in ("state", "model"))
        states_of_states += b"}q%c(" % (i + 1) + pairs + b"u0"
    states_of_states += b"h%c" % 40
    for data in (as_key, circle):
        with pytest.raises(CheckpointError):
            read_package(hostile.zip_checkpoint(tmp_path / "w.pth", data))
    assert read_package(hostile.zip_checkpoint(tmp_path / "w.pth", memo)) is None
    with pytest.raises(CheckpointError, match="no tensors were found"):
        read_state(hostile.zip_checkpoint(tmp_path / "w.pth", states_of_states + b"."))
    assert time.monotonic() - begin < 5


STORAGE = {"archive/data/0": np.arange(4, dtype="<f4").tobytes()}


def test_handmade_tensors_are_read(tmp_path: Path) -> None:
    """The base of the refusals below."""
    path = hostile.zip_checkpoint(tmp_path / "w.pth", hostile.tensor_pickle(), STORAGE)
    assert torch.equal(read_state(path)["w0"], torch.arange(4.0))
    path = hostile.zip_checkpoint(tmp_path / "w.pth", hostile.tensor_pickle(view=None), STORAGE)
    assert torch.equal(read_state(path)["w0"], torch.arange(4.0))
    storage = (4).to_bytes(8, "little") + STORAGE["archive/data/0"]
    path = hostile.legacy_checkpoint(tmp_path / "w.pth", hostile.tensor_pickle(), ("0",), storage)
    assert torch.equal(read_state(path)["w0"], torch.arange(4.0))


@pytest.mark.parametrize(
    "values",
    [
        {"size": (5,)},
        {"offset": 1},
        {"offset": -1},
        {"size": (-4,)},
        {"stride": (-1,)},
        {"size": (2, 2), "stride": (3, 1)},
        {"size": (1 << 40,), "stride": (0,)},
        {"size": (2, 4), "stride": (0, 1)},
        {"size": (4,), "stride": (1, 1)},
        {"size": (1,) * 40, "stride": (1,) * 40},
        {"size": (1 << 200,), "stride": (1 << 200,)},
        {"numel": 1 << 40, "size": (1 << 40,)},
        {"numel": 5},
        {"numel": -4},
        {"storage": "torch QInt8Storage"},
        {"storage": "os system"},
        {"storage": "collections OrderedDict"},
        {"storage": "torch ByteStorage"},
        {"view": ("0", 0, 4)},
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    data = hostile.tensor_pickle(**values)
    storage = (4).to_bytes(8, "little") + STORAGE["archive/data/0"]
    with pytest.raises(CheckpointError):
        read_state(hostile.zip_checkpoint(tmp_path / "w.pth", data, STORAGE))
    with pytest.raises(CheckpointError):
        read_state(hostile.legacy_checkpoint(tmp_path / "old.pth", data, ("0",), storage))


def test_many_views_of_one_storage_are_refused(tmp_path: Path) -> None:
    data = hostile.tensor_pickle(numel=1 << 18, size=(1 << 18,), count=6)
    with pytest.raises(CheckpointError, match="overlap"):
        read_state(hostile.zip_checkpoint(tmp_path / "w.pth", data, {"archive/data/0": bytes(4 << 18)}))


def test_bools_are_zero_or_one(tmp_path: Path) -> None:
    data = hostile.tensor_pickle(storage="torch BoolStorage")
    path = hostile.zip_checkpoint(tmp_path / "w.pth", data, {"archive/data/0": b"\x00\x01\x02\xff"})
    assert read_state(path)["w0"].view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_odd_zips_are_refused(tmp_path: Path) -> None:
    good = hostile.tensor_pickle()
    path = tmp_path / "w.pth"
    with pytest.raises(CheckpointError, match="compressed"):
        read_state(hostile.zip_checkpoint(path, good, STORAGE, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match=r"2 files data\.pkl"):
        read_state(hostile.zip_checkpoint(path, good, {**STORAGE, "other/data.pkl": good}))
    with pytest.raises(CheckpointError, match="big-endian"):
        read_state(hostile.zip_checkpoint(path, good, {**STORAGE, "archive/byteorder": b"big"}))
    with pytest.raises(CheckpointError, match="missing"):
        read_state(hostile.zip_checkpoint(path, good))
    hostile.zip_checkpoint(path, good, STORAGE)
    with zipfile.ZipFile(path, "a") as archive:
        for member in archive.infolist():
            member.header_offset = 0
        archive.writestr("x", b"")
    with pytest.raises(CheckpointError):
        read_state(path)


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    members = {**STORAGE, "../../evil.txt": b"x", "/etc/evil": b"x"}
    path = hostile.zip_checkpoint(tmp_path / "w.pth", hostile.tensor_pickle(), members)
    assert list(read_state(path)) == ["w0"]
    assert [found.name for found in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (pickle.dumps({"a": 1}), "a pickle, but not one of torch"),
        (b"RIFF....WAVE", "begins with"),
        (b"\x08\x00\x00\x00\x00\x00\x00\x00{bad json", "safetensors file is damaged"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_state(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="can't be read"):
        read_state(tmp_path / "gone.pth")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_raise_nothing_else(tmp_path: Path, kind: str, rng: np.random.Generator) -> None:
    path = tmp_path / "w"
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state": state, "x": Fraction(1, 3)}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    refused = 0
    for length in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_state(path)
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_state(path)
        except CheckpointError:
            refused += 1
    assert refused > 20


# --- from an entry to a model


class Toy(SeparationModel):
    """One gain per stem, from one file per stem; with `joint`, all files are needed for every stem."""

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.stems = tuple(stems)
        self.channels = config.get("channels", 2)
        self.gains = torch.nn.ParameterDict({stem: torch.nn.Parameter(torch.zeros(1)) for stem in stems})

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Toy:
        return cls(config, stems)

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        return tuple(parts) if config.get("joint") else tuple(part for part in parts if part in stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {f"gains.{part}": state["gain"] for part, state in states.items()}

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.gains[stem] * mixture for stem in self.stems], dim=1)


class Whole(Toy):
    """The same from one file, as most networks are."""

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        return tuple(parts)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return dict(states["checkpoint"])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., ModelEntry]:
    """Makes an entry of two toy files that "was downloaded"."""
    monkeypatch.setitem(ARCHITECTURES, "toy", f"{__name__}:Toy")

    def make(**config: Any) -> ModelEntry:
        files = []
        for index, stem in enumerate(("vocals", "other")):
            path = tmp_path / f"{stem}-toy.pth"
            torch.save({"gain": torch.tensor([index + 0.25])}, path)
            file = load_registry().get("umxhq").files[index]
            files.append(
                replace(
                    file, part=stem, name=path.name, size=None, sha256=hash_file(path), sha256_prefix=None, md5=None
                )
            )
        entry = ModelEntry("toy", "Toy", "toy", config, ("vocals", "other"), 44100, 2, tuple(files))
        for file in entry.files:
            target = file_path(entry, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((tmp_path / file.name).read_bytes())
        return entry

    return make


def test_a_model_is_loaded_ready_to_run(toy: Callable[..., ModelEntry]) -> None:
    model = load_model(toy(), offline=True)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    mixture = torch.ones(1, 2, 5)
    assert torch.equal(model(mixture)[0, :, 0, 0], torch.tensor([0.25, 1.25]))


def test_only_the_parts_needed_are_read(toy: Callable[..., ModelEntry]) -> None:
    entry = toy()
    file_path(entry, entry.file("vocals")).unlink()
    model = load_model(entry, stems=["other"], offline=True)
    assert model.stems == ("other",)
    with pytest.raises(UnmixError, match="no network may be used"):
        load_model(entry, stems=["vocals"], offline=True)


def test_stems_come_in_the_entrys_order(toy: Callable[..., ModelEntry]) -> None:
    assert load_model(toy(), stems=["other", "vocals"], offline=True).stems == ("vocals", "other")
    with pytest.raises(OptionError, match="no stem guitar; it gives vocals, other"):
        load_model(toy(), stems=["guitar"], offline=True)


def test_overrides_need_a_key_in_the_config(toy: Callable[..., ModelEntry]) -> None:
    entry = toy(joint=False)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(entry, stems=["vocals"], overrides={"joint": True}, offline=True)
    with pytest.raises(OptionError, match="no setting niter; what can be set is joint"):
        load_model(entry, overrides={"niter": 0}, offline=True)


def test_an_entry_that_contradicts_its_model_is_refused(toy: Callable[..., ModelEntry]) -> None:
    with pytest.raises(RegistryError, match="channels is 2, but the model's is 1"):
        load_model(toy(channels=1), offline=True)


def test_conversion_happens_once_and_later_starts_hash_nothing(
    toy: Callable[..., ModelEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = toy()
    load_model(entry, offline=True)
    assert all(converted_path(str(file.sha256)).is_file() for file in entry.files)

    def not_again(*_: Any) -> Any:
        raise AssertionError("the original is read again")

    monkeypatch.setattr(checkpoint, "read_state", not_again)
    monkeypatch.setattr("unmixcli.cache.digests_of", not_again)
    model = load_model(entry, offline=True)
    assert model.gains["other"].item() == 1.25  # type: ignore[index,union-attr]


def test_a_damaged_copy_is_made_again(toy: Callable[..., ModelEntry]) -> None:
    entry = toy()
    load_model(entry, offline=True)
    copy = converted_path(str(entry.file("other").sha256))
    other = bytes(save({"gain": torch.tensor([9.0])}))
    for content in (copy.read_bytes()[:-3], b"", other):
        copy.write_bytes(content)
        assert load_model(entry, offline=True).gains["other"].item() == 1.25  # type: ignore[index,union-attr]
        assert len(copy.read_bytes()) > 40


def test_the_hash_is_checked_before_a_byte_is_parsed(
    toy: Callable[..., ModelEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = toy()
    path = file_path(entry, entry.file("vocals"))
    path.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setattr(checkpoint, "read_state", lambda path: pytest.fail("parsed before it was checked"))
    with pytest.raises(UnmixError, match="no network may be used"):
        load_model(entry, stems=["vocals"], offline=True)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_a_cache_that_can_not_be_written_still_serves(
    toy: Callable[..., ModelEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = toy()

    def read_only(*arguments: Any, **options: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(checkpoint, "save_tensors", read_only)
    monkeypatch.setattr("unmixcli.cache.write_atomically", read_only)
    assert load_model(entry, offline=True).stems == entry.stems
    assert not converted_path(str(entry.files[0].sha256)).exists()


# --- auto


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether mirrors answer; each question is an item."""
    asked: list[bool] = []

    def answer(entry: ModelEntry, parts: Sequence[str]) -> bool:
        asked.append(True)
        return bool(getattr(network, "up", False))

    monkeypatch.setattr(checkpoint, "can_download", answer)
    return asked


def test_a_model_named_is_never_replaced(network: list[bool]) -> None:
    entry, warning = choose_model("UMXHQ", ("bass",), "fast", offline=True)
    assert (entry.name, warning) == ("umxhq", None)
    with pytest.raises(UnknownModelError):
        choose_model("umxhqq")
    assert not network


def test_auto_without_a_network_falls_back_and_says_what_to_do(network: list[bool]) -> None:
    entry, warning = choose_model("auto", ("vocals", "accompaniment"))
    assert entry.name == "unmix_small"
    assert warning is not None
    for word in ("umxhq", "could not be reached", "built-in unmix_small", "unmix models download umxhq", "--model"):
        assert word in warning
    assert len(network) == 1
    entry, warning = choose_model("auto", offline=True)
    assert entry.name == "unmix_small"
    assert "no network may be used" in str(warning)
    assert len(network) == 1, "offline asks nobody"


def test_auto_with_a_network_shows_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "can_download", lambda entry, parts: True)
    entry, warning = choose_model("auto", ("vocals",))
    assert entry.name == "umxhq"
    assert warning == "umxhq is fetched once; licence of its weights: MIT, commercial use allowed."
    entry, warning = choose_model("auto", ("vocals",), "best")
    assert entry.name == "htdemucs_ft"
    assert "no commercial use" in str(warning)


def test_auto_with_the_files_here_is_silent(monkeypatch: pytest.MonkeyPatch, network: list[bool]) -> None:
    monkeypatch.setattr(checkpoint, "is_cached", lambda entry, parts=None: entry.name == "umxhq")
    entry, warning = choose_model("auto", ("bass",), offline=True)
    assert (entry.name, warning) == ("umxhq", None)
    assert entry.config["niter"] == 1
    entry, _ = choose_model("auto", ("bass",), "fast", offline=True)
    assert entry.config["niter"] == 0
    entry, warning = choose_model("auto", (), "best", offline=True)
    assert entry.name == "umxhq", "the next best that is here"
    assert "htdemucs_ft" in str(warning)


def test_auto_takes_another_trained_model_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "is_cached", lambda entry, parts=None: entry.name == "cac_tdc_17")
    entry, warning = choose_model("auto", ("accompaniment",), offline=True)
    assert entry.name == "cac_tdc_17"
    assert "used instead: cac_tdc_17" in str(warning)
    assert choose_model("auto", (), offline=True)[0].name == "unmix_small", "it gives fewer stems than were asked for"


def test_auto_asks_only_for_the_files_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(checkpoint, "is_cached", lambda entry, parts=None: bool(asked.append(parts)))
    choose_model("auto", ("no_vocals",), "fast", offline=True)
    assert asked[0] == ("vocals",), "without its Wiener filter, one network is enough"


def test_a_stem_that_can_not_be_given_is_a_clear_error(network: list[bool]) -> None:
    with pytest.raises(UnmixError, match="the built-in unmix_small gives no speech, noise") as caught:
        choose_model("auto", ("speech", "noise"))
    assert "unmix models download umxse" in str(caught.value.hint)
    with pytest.raises(OptionError, match="no model gives harpsichord"):
        choose_model("auto", ("harpsichord",))


def test_auto_names_models_that_no_preset_is_for(network: list[bool]) -> None:
    registry = load_registry()
    harpsichord = ModelEntry("axe", "Axe", "toy", {}, ("harpsichord",), 44100, 2)
    with pytest.raises(OptionError) as caught:
        choose_model("auto", ("harpsichord",), registry=Registry((*registry.entries, harpsichord), registry.presets))
    assert "axe" in str(caught.value.hint)


# --- models of the user's own


def save_toy(path: Path, gain: float = 0.5, **more: Tensor) -> str:
    torch.save({"state_dict": {"module.gain": torch.tensor([gain]), **more}}, path)
    return str(path)


def test_weights_become_a_model(toy: Callable[..., ModelEntry], tmp_path: Path) -> None:
    files = [save_toy(tmp_path / "vocals.pth", 0.5), f"other={save_toy(tmp_path / 'x.pth', 2.0)}"]
    added = add_model(files, name="mine", architecture="toy", stems=["vocals", "other"], licence="CC0")
    assert not added.recognised
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    entry = load_registry().get("mine")
    assert entry.licence.name == "CC0"
    model = load_model(entry, offline=True)
    assert [model.gains[stem].item() for stem in entry.stems] == [0.5, 2.0]  # type: ignore[index,union-attr]
    removed = remove_model("mine")
    assert {path.name for path in removed} == {"mine.json", "vocals.safetensors", "other.safetensors"}
    assert not any(path.exists() for path in removed)
    with pytest.raises(UnknownModelError):
        load_registry().get("mine")


def test_one_file_may_hold_all_stems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ARCHITECTURES, "whole", f"{__name__}:Whole")
    torch.save({"gains.vocals": torch.ones(1), "gains.other": torch.ones(1)}, tmp_path / "best_epoch.pth")
    added = add_model([str(tmp_path / "best_epoch.pth")], architecture="whole", stems=["vocals", "other"])
    assert (added.entry.name, added.entry.parts) == ("best_epoch", ("checkpoint",))
    assert load_model(added.entry, offline=True).stems == ("vocals", "other")


PUBLISHED = """
model: {channels: 1}
training: {instruments: [Vocals, other], target_instrument: Vocals, betas: !!python/tuple [0.9, 0.99]}
"""


@pytest.mark.parametrize("beside", ["mine.yaml", "mine.pth.yaml", "mine.yml"])
def test_the_published_config_beside_the_weights_is_read(
    toy: Callable[..., ModelEntry], tmp_path: Path, beside: str
) -> None:
    pth = save_toy(tmp_path / "mine.pth")
    (tmp_path / beside).write_text("model_type: scnet\n" + PUBLISHED)
    entry = add_model([pth], architecture="toy").entry
    assert (entry.name, entry.stems, entry.config["target_instrument"]) == ("mine", ("vocals",), "vocals")
    assert f"settings: those of {beside}" in entry.notes
    assert load_model(entry, offline=True).stems == ("vocals",)
    remove_model("mine")
    (tmp_path / beside).write_text("models: [955717e8]\n")
    assert add_model([pth], architecture="toy").entry.stems == ("checkpoint",), "another program's file"


def test_settings_come_from_json_or_yaml(toy: Callable[..., ModelEntry], tmp_path: Path) -> None:
    pth = save_toy(tmp_path / "vocals.pth")
    (tmp_path / "a.yaml").write_text("architecture: toy\nstems: [vocals]\nconfig: {channels: 1}\ntitle: A title\n")
    entry = add_model([pth], name="a", config=tmp_path / "a.yaml").entry
    assert (entry.title, entry.channels, dict(entry.config)) == ("A title", 1, {"channels": 1})
    (tmp_path / "b.json").write_text(json.dumps({"channels": 1}))
    entry = add_model([pth], name="b", architecture="toy", stems=["vocals"], config=tmp_path / "b.json").entry
    assert entry.channels == 1
    (tmp_path / "p.yaml").write_text(PUBLISHED)
    entry = add_model([pth], name="p", architecture="toy", config=tmp_path / "p.yaml").entry
    assert (entry.stems, entry.channels) == (("vocals",), 1)
    assert dict(entry.config) == {
        "channels": 1,
        "instruments": ["vocals", "instrumental"],
        "target_instrument": "vocals",
    }
    for name, text, reason in (
        ("c.yaml", "model: {channels: 1}\ntraining: {instruments: [a]}", r"c\.yaml: what network this file is of"),
        ("c.yaml", "!!python/object/apply:os.system ['true']", "not plain YAML"),
        ("c.yaml", "[1, 2]", "expected settings by name"),
        ("c.json", "{", "not JSON"),
        ("c.yaml", "architecture: toy\nfiles: []\n", "unknown key files"),
        ("gone.yaml", None, "can't be read"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(RegistryError, match=reason):
            add_model([pth], name="c", config=tmp_path / name)


def test_nothing_is_recorded_that_does_not_fit(
    toy: Callable[..., ModelEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"gain": torch.ones(3)}, tmp_path / "vocals.pth")
    with pytest.raises(CheckpointError, match="do not fit"):
        add_model([str(tmp_path / "vocals.pth")], name="mine", architecture="toy", stems=["vocals"])
    pth = save_toy(tmp_path / "vocals.pth")
    with pytest.raises(OptionError, match="must be said"):
        add_model([pth])
    with pytest.raises(RegistryError, match="taken"):
        add_model([pth], name="umxhq", architecture="toy", stems=["vocals"])
    with pytest.raises(RegistryError, match="can't be used"):
        add_model([pth], name="../evil", architecture="toy", stems=["vocals"])
    with pytest.raises(RegistryError, match="architecture 'nothing'"):
        add_model([pth], name="mine", architecture="nothing", stems=["vocals"])
    with pytest.raises(OptionError, match="without weights"):
        add_model([pth], name="mine", architecture="repet_sim", stems=["vocals"])
    with pytest.raises(OptionError, match="can't be read off its name; parts are vocals, other"):
        add_model([pth, save_toy(tmp_path / "x.pth")], name="mine", architecture="toy", stems=["vocals", "other"])
    with pytest.raises(OptionError, match="both taken for the part 'vocals'"):
        add_model([pth, f"vocals={pth}"], name="mine", architecture="toy", stems=["vocals"])
    with pytest.raises(CheckpointError, match="can't be read"):
        add_model([str(tmp_path / "gone.pth")], name="mine", architecture="toy")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(user_models, "write_atomically", full)
    with pytest.raises(OutputError, match="No space left"):
        add_model([pth], name="mine", architecture="toy", stems=["vocals"])
    assert [entry.name for entry in load_registry().entries if not entry.bundled] == []
    assert not list(user_models.user_models_folder().glob("*"))


def test_a_known_file_goes_to_the_cache(shared_data: Path) -> None:
    source = shared_data / "checkpoints" / "cac_tdc_17_vocals_top1.pt"
    added = add_model([str(source)])
    assert added.recognised
    assert added.entry.name == "cac_tdc_17"
    model = load_model(choose_model("cac_tdc_17", offline=True)[0], offline=True)
    assert model.stems == ("vocals",)
    twin = add_model([str(source)], name="twin").entry
    assert not twin.bundled
    assert twin.licence == added.entry.licence, "the same weights have the same licence"
    same = load_model(twin, offline=True).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in model.state_dict().items())
    assert {path.name for path in remove_model("cac_tdc_17")} >= {source.name}


def test_open_unmix_weights_need_only_be_named(tmp_path: Path) -> None:
    """Two published-format files of a small network, with the settings of a known model."""
    config = {"hidden_size": 8, "nb_layers": 1, "nfft": 64, "nhop": 16, "max_bin": 20, "nb_output_bins": 33}
    (tmp_path / "c.json").write_text(json.dumps(config))
    shapes = open_unmix._published_shapes(open_unmix.Shape.read(config))
    files = []
    for target in ("vocals", "drums"):
        state = {name: torch.rand(size) + 0.5 for name, size in shapes.items()}
        torch.save(state, tmp_path / f"{target}-0123.pth")
        files.append(str(tmp_path / f"{target}-0123.pth"))
    entry = add_model(files, name="small", like="umxhq", config=tmp_path / "c.json").entry
    assert entry.stems == ("vocals", "drums")
    assert entry.config["targets"] == ["vocals", "drums"]
    assert isinstance(load_model(entry, stems=["drums"], offline=True), open_unmix.OpenUnmix)
