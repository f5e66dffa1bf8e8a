"""SCNet against the public package's recorded results, its bands, and what a config may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scnet_toys
import torch
from scnet_toys import CASES, LENGTHS, build, mixture
from torch import Tensor

from unmixcli import Separator
from unmixcli.errors import CheckpointError
from unmixcli.models import architecture_class
from unmixcli.models.scnet import SCNet
from unmixcli.published_config import flatten
from unmixcli.segment import cut, make_grid, overlap_add
from unmixcli.user_models import add_model

REFERENCE = np.load(Path(__file__).parent / "references" / "scnet.npz")
FOUR = ["drums", "bass", "other", "vocals"]
LARGE = {"dims": [4, 64, 128, 256], "band_SR": [0.225, 0.372, 0.403]}
XL = {"dims": [4, 64, 128, 256], "band_SR": [0.23, 0.37, 0.4], "num_dplayer": 8}
WIDE = {"band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "conv_depths": [3, 3, 3]}


def heard(case: str) -> Tensor:
    return mixture(CASES[case][1].get("audio_channels", 2), LENGTHS[case])


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.std() > 0.02
    torch.testing.assert_close(build(case)(heard(case)), expected, atol=2e-6, rtol=0)  # rounding


@pytest.mark.parametrize("case", ["small", "ihf", "odd", "masked"])
def test_a_stem_alone_is_the_same(case: str) -> None:
    together = build(case)
    alone = build(case, together.stems[1:2])
    expected = together(heard(case))[:, 1:2]
    torch.testing.assert_close(alone(heard(case)), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({}, 10_578_768),
        (LARGE, 42_181_232),
        (XL, 54_006_896),
        (XL | WIDE, 53_466_800),  # XL IHF: 213 867 200 bytes of the published 214 063 778
        (XL | WIDE | {"num_dplayer": 10}, 65_292_464),  # the "huge" one
    ],
    ids=["small", "large", "xl", "xl_ihf", "huge"],
)
def test_published_sizes(config: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = architecture_class("scnet").from_config(config, FOUR)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.segment_length == 485100
    assert model.overlap == 0.5


def test_what_the_pipeline_must_know_follows_from_the_config() -> None:
    model = build("small", chunk_size=3000, num_overlap=4, normalize=True, sample_rate=48000)
    assert (model.segment_length, model.overlap, model.sample_rate) == (3000, 0.75, 48000)
    assert model.normalization == "track"
    assert build("small").normalization == "none"
    assert model.context(2900) == (0, 100)  # a shorter last segment is filled up
    assert model.context(5000) == (0, 0)


def test_names_of_stems() -> None:
    def stems(**changes: Any) -> SCNet:
        config = {**CASES["odd"][1], **changes}
        wanted = changes.pop("wanted", None)
        config.pop("wanted", None)
        made = architecture_class("scnet").from_config(config, wanted or ["vocals", "other", "piano"])
        assert isinstance(made, SCNet)
        return made

    assert stems().covers_mixture
    # names of the instruments win over those of the sources: they are what the published program writes
    renamed = stems(instruments=["Lead Vocals", "Drums", "Bass"], wanted=["drums", "lead_vocals"])
    assert renamed.stems == ("drums", "lead_vocals")
    target = stems(instruments=["Piano", "Vocals", "Other"], target_instrument="Vocals", wanted=["vocals"])
    assert not target.covers_mixture
    expected = build("odd")(heard("odd"))[:, 1:2]
    target.load_state_dict(build("odd").state_dict())
    torch.testing.assert_close(target.eval()(heard("odd")), expected, atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="no stem drums; they give vocals, other, piano"):
        stems(wanted=["drums"])


@pytest.mark.parametrize("case", ["small", "masked_ihf"])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 600])
def test_what_is_shorter_than_half_a_window(case: str, length: int) -> None:
    # the public code fails on these
    sound = mixture(2, length)
    estimates = build(case)(sound)
    assert estimates.shape == (1, 4, 2, length)
    assert torch.isfinite(estimates).all()
    assert estimates.abs().max() > 1e-3


def write_yaml(path: Path, inference: dict[str, Any], **model: Any) -> Path:
    """A file as published with the weights."""
    values = {
        "audio": {"chunk_size": 2500, "num_channels": 2, "sample_rate": 44100, "min_mean_abs": 0.0},
        "model": {"sources": FOUR, **CASES["small"][1], **model},
        "training": {"instruments": FOUR, "target_instrument": None, "batch_size": 6},
        "inference": {"batch_size": 8, "dim_t": 256, **inference},
    }
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def test_a_track_is_separated_in_overlapping_segments(tmp_path: Path) -> None:
    model = build("small", num_overlap=4, normalize=True)
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, path)
    config = write_yaml(tmp_path / "small.yaml", {"normalize": True, "num_overlap": 4})
    entry = add_model([str(path)], name="mine", config=config).entry
    assert (entry.architecture, entry.stems) == ("scnet", tuple(FOUR))
    total = 7000
    track = 0.1 + 0.5 * mixture(length=total)[0] * torch.linspace(1, 0.2, total)
    found = Separator("mine", residual="ignore", precision="fp32").separate(track.numpy(), sample_rate=44100)
    mono = track.mean(0)
    normal = (track - mono.mean()) / (mono.std() + 1e-8)
    grid = make_grid(length=2500, edge=0, overlap=0.75, context=model.context)
    assert grid.stride == 625
    pieces = []
    for segment in cut([normal[None]], grid):
        assert segment.mixture is not None
        assert segment.mixture.shape[-1] == 2500
        pieces.append((segment.start, model(segment.mixture)[0][..., : segment.used]))
    expected = torch.cat(list(overlap_add(pieces, grid)), -1) * (mono.std() + 1e-8) + mono.mean()
    for number, stem in enumerate(FOUR):
        torch.testing.assert_close(torch.from_numpy(found.stems[stem]), expected[number], atol=2e-5, rtol=0)


def test_settings_that_only_training_needs_are_ignored() -> None:
    build("small", num_channels=2, min_mean_abs=0.001, batch_size=8, dim_t=256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bogus": 1}, "scnet has no bogus"),
        ({"dims": 4}, "dims is 4"),
        ({"dims": [4, "8"]}, "expected a list, each a whole number"),
        ({"dims": [4]}, "at least two"),
        ({"dims": [6, 8]}, "begin with 2"),
        ({"audio_channels": 3}, "audio_channels is 3"),
        ({"band_SR": [0.5, 0.5]}, "three numbers"),
        ({"band_SR": [0.5, 0.5, 0.5]}, "without any of 129 bins"),
        ({"band_kernel": [3, 6, 16]}, "does not fit"),
        ({"band_kernel": [3, 4, 64]}, "does not fit"),
        ({"nfft": 255, "win_size": 255}, "expected an even number"),
        ({"hop_size": 60}, "hop_size is 60"),
        ({"win_size": 128}, "win_size is 128"),
        ({"conv_kernel": 4}, "conv_kernel is 4"),
        ({"num_dplayer": 3}, "num_dplayer is 3"),
        ({"compress": 100}, "compress is not"),
        ({"normalized": 1}, "normalized is 1"),
        ({"num_overlap": 0}, "num_overlap is 0"),
        ({"num_overlap": True}, "num_overlap is True"),
        ({"sources": FOUR, "instruments": ["a", "b"]}, "not the same number"),
        ({"target_instrument": "choir"}, "not among the instruments"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build("small", **changes)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.ckpt"
    torch.save(build("small").state_dict(), path)
    with pytest.raises(CheckpointError, match="do not fit"):
        add_model([str(path)], name="mine", config=write_yaml(tmp_path / "a.yaml", {}, dims=[4, 8, 12, 20]))


def test_the_network_of_a_target_may_have_one_output_only() -> None:
    published = {
        "model": {**CASES["even"][1], "sources": ["difference"]},
        "audio": {"chunk_size": 2500},
        "training": {"instruments": ["similarity", "difference"], "target_instrument": "difference"},
    }
    architecture, config, stems = flatten(published)
    model = architecture_class(architecture).from_config(config, stems)
    assert model.stems == tuple(stems)
    model.load_state_dict(build("even").state_dict(), strict=True)


def test_the_toys_are_what_they_say() -> None:
    # the padding rule: 2100 samples make 34 frames, 33 whole hops 36
    assert (2100 // 64 + 1) % 2 == 1
    assert (LENGTHS["even"] // 64 + 1) % 2 == 0
    assert set(scnet_toys.CASES) == set(REFERENCE.files) - {"version"}
