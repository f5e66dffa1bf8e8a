"""Bags: members averaged stem by stem, each with the context its own protocol gives it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import demucs_toys
import pytest
import torch
from demucs_toys import build, plain_protocol, write
from torch import Tensor

from unmixcli import Separator
from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.models.demucs_bag import DemucsBag
from unmixcli.registry import load_registry
from unmixcli.user_models import add_model

SEGMENT = 2100
PER_STEM = {"drums": {"drums": 1}, "vocals": {"vocals": 1}}


def add(tmp_path: Path, members: dict[str, str], weights: dict[str, Any] | None = None, **settings: Any) -> None:
    """Put a bag into the user's registry: part -> case."""
    folder = tmp_path / "packages"
    folder.mkdir()
    files = [f"{part}={write(folder, case, segment=Fraction(1, 21))}" for part, case in members.items()]
    config = settings | ({"weights": weights} if weights else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    add_model(files, name="bag", config=tmp_path / "config.json" if config else None)


def separate(track: Tensor, **options: Any) -> dict[str, Tensor]:
    result = Separator("bag", residual="ignore", precision="fp32", **options).separate(track.numpy(), sample_rate=44100)
    return {stem: torch.from_numpy(samples) for stem, samples in result.stems.items()}


def alone(case: str, track: Tensor) -> Tensor:
    """A member's own result, [S, C, T]."""
    model = build(case, segment="1/21")
    return plain_protocol(model, track, SEGMENT, lambda used: used + sum(model.context(used)))


@pytest.fixture
def track() -> Tensor:
    return 0.2 + 0.5 * demucs_toys.mixture(length=2 * SEGMENT + 77)[0]


@pytest.mark.parametrize(
    "members",
    [("hdemucs", "hdemucs_amplitude"), ("htdemucs", "htdemucs_6s"), ("demucs", "demucs_plain"), ("demucs", "hdemucs"),
     ("htdemucs", "hdemucs")],
)  # fmt: skip
def test_the_mean_of_each_members_own_protocol(tmp_path: Path, members: tuple[str, str], track: Tensor) -> None:
    add(tmp_path, {"a": members[0], "b": members[1]})
    entry = load_registry().get("bag")
    assert (entry.architecture, entry.stems) == ("demucs_bag", tuple(demucs_toys.SOURCES))
    expected = sum(alone(case, track) for case in members) / 2
    found = separate(track)
    for number, stem in enumerate(demucs_toys.SOURCES):
        torch.testing.assert_close(found[stem], expected[number], atol=2e-5, rtol=0)


def test_weights_are_relative_and_per_stem(tmp_path: Path, track: Tensor) -> None:
    weights = {"a": {"drums": 3, "vocals": 1}, "b": {"drums": 1}}
    add(tmp_path, {"a": "demucs", "b": "hdemucs"}, weights)
    a, b, found = alone("demucs", track), alone("hdemucs", track), separate(track)
    torch.testing.assert_close(found["drums"], 0.75 * a[0] + 0.25 * b[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(found["vocals"], a[1], atol=2e-5, rtol=0)


def test_only_the_networks_of_the_stems_asked_for_are_loaded(tmp_path: Path, track: Tensor) -> None:
    add(tmp_path, {"drums": "htdemucs", "vocals": "htdemucs_6s"}, PER_STEM)
    both = separate(track)
    separator = Separator("bag", residual="ignore", stems="vocals")
    assert separator.parts == ("vocals",)
    model = separator.runner.model
    assert isinstance(model, DemucsBag)
    networks = [network for network in model.networks.values() if isinstance(network, SeparationModel)]
    assert [network.stems for network in networks] == [("vocals",)]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in build("htdemucs_6s").parameters())
    found = separator.separate(track.numpy(), sample_rate=44100).stems
    torch.testing.assert_close(torch.from_numpy(found["vocals"]), both["vocals"], atol=1e-6, rtol=0)


def test_a_bags_segment_is_for_all_but_htdemucs() -> None:
    members = {case: {"architecture": case, "config": demucs_toys.CASES[case][2]} for case in ("hdemucs", "htdemucs")}
    with pytest.raises(CheckpointError, match="differ in sample rate"):
        DemucsBag.from_config({"members": members, "segment": 44}, demucs_toys.SOURCES)
    model = DemucsBag.from_config({"members": members, "segment": "1/21"}, demucs_toys.SOURCES)
    assert model.segment_length - 2 * model.edge == SEGMENT
    alone = DemucsBag.from_config({"members": {"a": members["hdemucs"]}, "segment": 44}, demucs_toys.SOURCES)
    assert alone.segment_length == 44 * 44100


def test_packages_that_differ_in_their_stems_are_no_bag(tmp_path: Path) -> None:
    first = write(tmp_path, "hdemucs")
    second = write(tmp_path, "htdemucs", sources=["vocals", "drums"])
    with pytest.raises(OptionError, match="same stems"):
        add_model([str(first), str(second)], name="bag")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"members": {}}, "members are missing"),
        ({"members": {"a": {"architecture": "open_unmix"}}}, "member a is"),
        ({"members": {"a": "hdemucs"}}, "member a is"),
        ({"surprise": 1}, "has no surprise"),
        ({"weights": {"b": {"drums": 1}}}, "expected some for each of a"),
        ({"weights": {"a": {"drums": -1}}}, "weights of a"),
        ({"weights": {"a": {"drums": "1"}}}, "weights of a"),
        ({"weights": {"a": {"drums": 1}}}, "no member of this bag counts for vocals"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(config: dict[str, Any], message: str) -> None:
    good = {"members": {"a": {"architecture": "hdemucs", "config": demucs_toys.CASES["hdemucs"][2]}}}
    with pytest.raises(CheckpointError, match=message):
        DemucsBag.from_config({**good, **config}, ["drums", "vocals"])
