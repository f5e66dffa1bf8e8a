"""HDemucs and HTDemucs against the public package's recorded results, and how they are loaded and cut."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import demucs_toys
import numpy as np
import pytest
import torch
from demucs_toys import build, plain_protocol, write
from hostile import Call

from unmixcli import Separator
from unmixcli.cache import hash_file
from unmixcli.checkpoint import load_model, stored_checkpoint
from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models import PACKAGE_CLASSES, architecture_class
from unmixcli.models.htdemucs import HTDemucs
from unmixcli.registry import load_registry
from unmixcli.segment import cut, make_grid
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "demucs.npz")
HYBRID = [case for case in demucs_toys.CASES if "htdemucs" in case or "hdemucs" in case]


@pytest.mark.parametrize("case", HYBRID)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.square().mean() > 0.01
    torch.testing.assert_close(build(case)(demucs_toys.mixture()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["htdemucs", "hdemucs", "hdemucs_amplitude", "hdemucs_wiener"])
def test_a_stem_alone_is_the_same(case: str) -> None:
    together, alone = build(case), build(case, ["vocals"])
    mixture = demucs_toys.mixture()
    torch.testing.assert_close(alone(mixture)[:, 0], together(mixture)[:, 1], atol=1e-6, rtol=0)


def test_the_published_shapes_have_the_published_sizes() -> None:
    # counted from the sizes of the files
    registry = load_registry(user=False)
    for name, parameters in (("htdemucs", 41984456), ("htdemucs_6s", 27414996), ("hdemucs_mmi", 83637832)):
        entry = registry.get(name)
        with torch.device("meta"):
            model = architecture_class(entry.architecture).from_config(entry.config, entry.stems)
        assert sum(p.numel() for p in model.parameters()) == parameters == entry.parameters
        assert model.sample_rate == entry.sample_rate
    assert HTDemucs.from_config(registry.get("htdemucs").config, ["bass"]).segment_length == 343980


@pytest.mark.parametrize("used", [1, 2, 1000, 1574])
def test_a_short_last_segment_stands_in_the_middle(used: int) -> None:
    model = build("htdemucs")
    length = model.segment_length
    grid = make_grid(length=length, edge=0, overlap=0.25, padding=model.edge_padding, fixed=True, context=model.context)
    total = 2 * grid.stride + used  # the third segment starts where two strides end
    track = torch.arange(1, total + 1, dtype=torch.float32).expand(1, 2, -1)
    *_, last = cut(track.split(700, dim=-1), grid)
    assert (last.start, last.used) == (2 * grid.stride, used)
    before = (length - used) // 2
    wanted = torch.nn.functional.pad(track, (0, length))[..., last.start - before :][..., :length]
    assert last.mixture is not None
    assert last.offset == before
    assert torch.equal(last.mixture, wanted)


# ---------------------------------------------------------------- packages


def add(tmp_path: Path, case: str, name: str = "mine", **changes: Any) -> Path:
    """Put a package of this case into the user's registry."""
    path = write(tmp_path, case, **changes)
    added = add_model([str(path)], name=name)
    assert not added.recognised
    assert added.entry.architecture == demucs_toys.CASES[case][1]
    assert added.entry.stems == tuple(demucs_toys.SOURCES)
    return path


@pytest.mark.parametrize("case", ["htdemucs", "hdemucs_bands"])
def test_a_package_becomes_a_model_by_itself(tmp_path: Path, case: str) -> None:
    add(tmp_path, case)
    model = load_model(load_registry().get("mine"))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    expected = torch.from_numpy(REFERENCE[case])
    torch.testing.assert_close(model(demucs_toys.mixture()), expected, atol=1e-5, rtol=0)


def test_the_converted_copy_keeps_the_arguments(tmp_path: Path) -> None:
    path = write(tmp_path, "htdemucs")
    sha256 = hash_file(path)
    first = stored_checkpoint(path, sha256)
    path.unlink()  # from here on there is only the copy
    second = stored_checkpoint(path, sha256)
    assert first.settings == second.settings
    assert second.settings["class"] == "demucs.htdemucs.HTDemucs"
    assert second.settings["kwargs"] == {"sources": demucs_toys.SOURCES, **demucs_toys.CASES["htdemucs"][2]}
    assert {name: value.dtype for name, value in second.tensors.items()} == dict.fromkeys(first.tensors, torch.float16)


def test_every_class_that_is_recognised_has_an_architecture() -> None:
    for name, architecture in PACKAGE_CLASSES.items():
        assert architecture_class(architecture).has_weights, name


def test_a_package_with_a_hostile_argument_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "was here"
    with pytest.raises(CheckpointError, match="refused"):
        add(tmp_path, "htdemucs", t_dropout=Call(Path.touch, victim))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("htdemucs", {"t_cross_first": True}, "only False is supported"),
        ("htdemucs", {"t_heads": 5}, "t_heads does not divide"),
        ("htdemucs", {"segment": 0}, "segment is 0"),
        ("htdemucs", {"segment": "1/0"}, "segment is '1/0'"),
        ("htdemucs", {"nfft": 64}, "nfft is too small"),
        ("htdemucs", {"t_layers": 10**9}, "t_layers is 1000000000"),
        ("hdemucs", {"channels": "4"}, "channels is '4'"),
        ("hdemucs", {"channels": True}, "channels is True"),
        ("hdemucs", {"depth": 99}, "depth is 99"),
        ("hdemucs", {"multi_freqs": [0.5, 0.25]}, "multi_freqs do not rise"),
        ("hdemucs", {"multi_freqs": [2]}, "list of numbers between 0 and 1"),
        ("hdemucs", {"dconv_comp": 99}, "dconv_comp"),
        ("hdemucs", {"hybrid": False}, "only True is supported"),
        ("hdemucs", {"kernel_size": 6}, "twice its stride"),
        ("hdemucs", {"surprise": 1}, "has no surprise"),
        ("hdemucs", {"sources": ["drums"]}, "no stem vocals"),
        ("hdemucs", {"sources": "drums"}, "expected a list of names"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(case: str, changes: dict[str, Any], message: str) -> None:
    _, architecture, config = demucs_toys.CASES[case]
    with pytest.raises(CheckpointError, match=message):
        architecture_class(architecture).from_config({**config, **changes}, demucs_toys.SOURCES)


# ---------------------------------------------------------------- the published protocol


@pytest.mark.parametrize("case", ["htdemucs", "hdemucs"])
@pytest.mark.parametrize("total", [500, 2100, 3 * 2100 + 77])
def test_a_track_is_separated_by_the_published_protocol(tmp_path: Path, case: str, total: int) -> None:
    path = write(tmp_path, case, segment=Fraction(1, 21))
    add_model([str(path)], name="mine")
    track = 0.2 + 0.5 * demucs_toys.mixture(length=total)[0] * torch.linspace(1, 0.2, total)
    found = Separator("mine", residual="ignore", precision="fp32").separate(track.numpy(), sample_rate=44100)
    model = build(case, segment="1/21")
    expected = plain_protocol(model, track, 2100, lambda used: 2100 if case == "htdemucs" else used)
    for number, stem in enumerate(demucs_toys.SOURCES):
        torch.testing.assert_close(torch.from_numpy(found.stems[stem]), expected[number], atol=2e-5, rtol=0)


def test_a_fixed_segment_can_not_be_changed(tmp_path: Path) -> None:
    add(tmp_path, "htdemucs")
    with pytest.raises(OptionError, match=r"exactly 0\.048 s"):
        Separator("mine", segment=3).separate(demucs_toys.mixture()[0].numpy(), sample_rate=44100)


def test_registry_entries_of_the_family() -> None:
    for entry in load_registry(user=False).entries:
        if entry.architecture not in ("htdemucs", "hdemucs") or entry.name in ("hdemucs_drumsep", "htdemucs_vocals"):
            continue  # the two are by others
        assert entry.licence.commercial_ok is False
        assert entry.licence.spdx is None
        for file in entry.files:
            assert file.sha256 is not None
            assert file.name == f"{file.part}-{file.sha256[:8]}.th"
            assert file.urls[0].endswith("/" + file.name)
