"""`unmix doctor`: what is broken is found, named and told apart from what works."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from unmixcli import doctor
from unmixcli.cli import _terminal, cli
from unmixcli.doctor import (
    Finding,
    all_checks,
    check_device,
    check_folder,
    check_models,
    check_network_settings,
    check_package,
    examine,
    judge_graphics_card,
    judge_round_trip,
    seeded_model,
)
from unmixcli.errors import OutputError
from unmixcli.models.base import SeparationModel
from unmixcli.registry import load_registry


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*doctor._VARIABLES, *doctor._CA_VARIABLES):
        for spelling in (name, name.lower()):
            if not name.startswith("UNMIX_C"):
                monkeypatch.delenv(spelling, raising=False)
    yield
    _terminal._level = 0


def unmix_doctor(*args: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *args])


def named(name: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.name == name)


# ---------------------------------------------------------------- all of it


def test_everything_works_here() -> None:
    result = unmix_doctor("--json")
    told = json.loads(result.stdout)
    names = [finding["name"] for finding in told["findings"]]
    assert [finding for finding in told["findings"] if finding["status"] == "broken"] == []
    assert result.exit_code == 0
    assert told["ok"] is True
    for name in ("python", "torch", "device cpu", "format mp3", "format opus", "cache folder", "registry", "models"):
        assert name in names


def test_a_broken_cache_folder_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "file" / "cache"))
    checks = [(name, check) for name, check in all_checks() if "folder" in name or name == "resampler"]
    monkeypatch.setattr(doctor, "all_checks", lambda: iter(checks))
    result = unmix_doctor()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert any(line.startswith("broken") and "cache folder" in line for line in lines)
    assert any("set UNMIX_CACHE" in line for line in lines)
    assert any(line.startswith("ok") and "settings folder" in line for line in lines)
    assert lines[-1] == "1 broken: cache folder"
    assert unmix_doctor("-q").stdout.count("\n") == 3


def test_checks_are_isolated() -> None:
    def explode() -> Finding:
        raise ZeroDivisionError("boom")

    def refuse() -> Finding:
        raise OutputError("no room", hint="make some")

    findings = list(
        examine([("first", explode), ("second", refuse), ("third", lambda: Finding("third", "ok", "fine"))])
    )
    assert [finding.status for finding in findings] == ["broken", "broken", "ok"]
    assert "ZeroDivisionError: boom" in findings[0].message
    assert findings[1].hint == "make some"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    list(examine((name, check) for name, check in all_checks() if "folder" in name or name.startswith("format")))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- devices


class Sick(SeparationModel):
    """Right the first two times (on the CPU), then as `illness` makes it."""

    stems = ("all",)
    has_weights = False

    def __init__(self, illness: float) -> None:
        super().__init__()
        self.illness = illness
        self.calls = 0

    def forward(self, mixture: Tensor) -> Tensor:
        self.calls += 1
        result = mixture.unsqueeze(1).clone()
        if self.calls > 2:
            result[..., 100] += self.illness
        return result


@pytest.mark.parametrize(
    ("illness", "status", "words"),
    [
        (0.0, "ok", "times real time"),
        (float("nan"), "broken", "not a number"),
        (float("inf"), "broken", "not a number"),
        (0.1, "broken", "cpu"),
        (0.001, "warning", "cpu"),
    ],
)
def test_a_sick_device_is_found(illness: float, status: str, words: str) -> None:
    finding = check_device("cpu", Sick(illness))
    assert finding.status == status
    assert words in finding.message
    assert (finding.hint is None) == (status == "ok")


def test_the_seeded_network_says_something() -> None:
    model = seeded_model()
    mixture = torch.from_numpy(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 2, 20000)).astype("f4"))
    with torch.inference_mode(), doctor._one_thread():
        first, second = model(mixture), seeded_model()(mixture)
    assert torch.equal(first, second)
    assert first.shape == (1, 2, 2, 20000)
    assert float(first.abs().max()) > 0.05
    assert not torch.allclose(first[:, 0], first[:, 1])


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    check_device("cpu", Sick(0.0))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("card", "cuda", "available", "status", "words"),
    [
        (None, None, False, "ok", "no NVIDIA card"),
        ("RTX", "12.6", True, "ok", "RTX"),
        ("RTX", None, False, "warning", "the CPU only"),
        ("RTX", "12.6", False, "warning", "can't use the card"),
    ],
)
def test_an_unused_card_is_told(card: str | None, cuda: str | None, available: bool, status: str, words: str) -> None:
    finding = judge_graphics_card(card, cuda, available)
    assert finding.status == status
    assert words in finding.message
    assert (finding.hint is None) == (status == "ok")


def test_the_card_is_found_through_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-123)"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    if sys.platform == "win32":
        pytest.skip("shell scripts are no programs there")
    assert doctor.nvidia_card() == "NVIDIA GeForce RTX 4090"
    tool.write_text("#!/bin/sh\necho failed >&2; exit 9\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.nvidia_card() is None


# ---------------------------------------------------------------- formats


def signal() -> np.ndarray:
    return doctor._test_signal(44100)


@pytest.mark.parametrize(
    ("change", "lossless", "words"),
    [
        (lambda x: x[:, :-1], True, "samples came back"),
        (lambda x: np.roll(x, 1105, axis=1), False, "1105 samples late"),
        (lambda x: np.roll(x, -3, axis=1), False, "-3 samples late"),
        (lambda x: 0.5 * x, False, "-6.0 dB louder"),
        (lambda x: x + 0.001, True, "off"),
    ],
)
def test_a_bad_codec_is_found(change: object, lossless: bool, words: str) -> None:
    finding = judge_round_trip("format x", signal(), change(signal()), lossless=lossless)  # type: ignore[operator]
    assert finding.status == "broken"
    assert words in finding.message


def test_a_known_offset_is_no_fault() -> None:
    late = np.roll(signal(), 7, axis=1)
    assert judge_round_trip("format x", signal(), late, lossless=False, offset=7).status == "ok"


# ---------------------------------------------------------------- packages, folders, models, network


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_package("numpy").facts["version"] == np.__version__
    monkeypatch.setitem(sys.modules, "soxr", None)
    finding = check_package("soxr")
    assert finding.status == "broken"
    assert "pip install" in str(finding.hint)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.99.0")
    assert check_package("torch").status == "warning"


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10**8})())
    finding = check_folder(tmp_path / "new", "UNMIX_CACHE")
    assert finding.status == "warning"
    assert "0.1 GB free" in finding.message


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    finding = check_folder(tmp_path, "UNMIX_CONFIG")
    assert finding.status == "broken"
    assert "Permission denied" in finding.message


def test_damaged_weights_are_found() -> None:
    from unmixcli.cache import file_path

    assert check_models().facts == {"installed": ["unmix_small"], "damaged": []}
    entry = next(entry for entry in load_registry().entries if any(file.urls and file.size for file in entry.files))
    path = file_path(entry, entry.files[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of it")
    finding = check_models()
    assert finding.status == "broken"
    assert entry.name in finding.message
    assert f"unmix models verify {entry.name}" in str(finding.hint)


def test_network_settings_are_shown_without_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.example:3128")
    finding = check_network_settings()
    assert finding.status == "ok"
    assert "proxy.example:3128" in finding.message
    assert "secret" not in json.dumps(finding.as_json())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    assert "SSL_CERT_FILE" in check_network_settings().message
    assert check_network_settings().status == "broken"


def test_a_broken_mirror_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMIX_MIRROR", "mirror.example")
    assert check_network_settings().status == "broken"
    monkeypatch.setenv("UNMIX_MIRROR", "https://mirror.example/models")
    assert check_network_settings().status == "ok"


def test_a_broken_registry_entry_is_reported() -> None:
    from unmixcli.paths import user_models_folder

    folder = user_models_folder()
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text("{")
    findings = list(examine((name, check) for name, check in all_checks() if name in ("registry", "resampler")))
    assert named("resampler", findings).status == "ok"
    assert named("registry", findings).status == "warning"
    assert "mine.json" in named("registry", findings).message
