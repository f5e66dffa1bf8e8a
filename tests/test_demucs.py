"""Demucs on the waveform against the public package's recorded results, and the lengths it wants."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import demucs_toys
import numpy as np
import pytest
import torch
from demucs_toys import build, plain_protocol, published, write

from unmixcli import Separator
from unmixcli.checkpoint import load_model
from unmixcli.errors import CheckpointError
from unmixcli.models import architecture_class
from unmixcli.models.demucs import Demucs, TimeDemucs, resample_half, resample_twice
from unmixcli.user_models import add_model

FOLDER = Path(__file__).parent / "references"
REFERENCE = {**np.load(FOLDER / "demucs.npz"), **np.load(FOLDER / "demucs_old.npz")}
CASES = [case for case, values in demucs_toys.CASES.items() if values[1].startswith(("demucs", "conv_tasnet"))]
FOUR = ["drums", "bass", "other", "vocals"]
CONTEXT = [case for case in CASES if case not in ("demucs_v1", "conv_tasnet")]  # a segment hears the track around it


@pytest.mark.parametrize("case", CASES)
def test_equals_the_public_package(case: str) -> None:
    expected = torch.from_numpy(REFERENCE[case])
    assert expected.square().mean() > 0.003
    tolerance = 1e-6 * max(10.0, float(expected.abs().max()))  # rounding; the masks of Conv-TasNet have no upper limit
    torch.testing.assert_close(build(case)(demucs_toys.mixture()), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_stem_alone_is_the_same(case: str) -> None:
    mixture = demucs_toys.mixture()
    torch.testing.assert_close(build(case, ["vocals"])(mixture)[:, 0], build(case)(mixture)[:, 1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", CONTEXT)
@pytest.mark.parametrize("total", [500, 2 * 2100 + 77])
def test_a_track_is_separated_by_the_published_protocol(tmp_path: Path, case: str, total: int) -> None:
    add_model([str(write(tmp_path, case, segment=Fraction(1, 21)))], name="mine")
    track = 0.2 + 0.5 * demucs_toys.mixture(length=total)[0] * torch.linspace(1, 0.2, total)
    found = Separator("mine", residual="ignore", precision="fp32").separate(track.numpy(), sample_rate=44100)
    model = build(case, segment="1/21")
    assert isinstance(model, TimeDemucs)
    expected = plain_protocol(model, track, 2100, model.valid_length)
    for number, stem in enumerate(demucs_toys.SOURCES):
        torch.testing.assert_close(torch.from_numpy(found.stems[stem]), expected[number], atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["demucs", "demucs_plain"])
def test_a_valid_length_is_the_shortest_that_the_strides_leave_whole(case: str) -> None:
    model = build(case)
    assert isinstance(model, TimeDemucs)
    valid = [model.valid_length(length) for length in range(1, 700)]
    assert all(v >= length for length, v in enumerate(valid, 1))
    assert all(model.valid_length(v) == v for v in valid)
    # the outputs of encoder and decoder fit together without a remainder
    for length in sorted(set(valid)):
        x = length * (2 if model.values["resample"] else 1)
        for _ in range(model.values["depth"]):
            assert (x - model.values["kernel_size"]) % model.values["stride"] in (0, 1)
            x = (x - model.values["kernel_size"]) // model.values["stride"] + 1
        assert x >= 1


@pytest.mark.parametrize(("case", "overlap"), [("demucs_v1", 0.0), ("conv_tasnet", 0.25)])
def test_a_segment_of_these_hears_nothing_else(tmp_path: Path, case: str, overlap: float) -> None:
    add_model([str(write(tmp_path, case))], name="mine", **as_version(case))
    total = 2 * 2100 + 77
    track = 0.2 + 0.5 * demucs_toys.mixture(length=total)[0]
    found = Separator("mine", residual="ignore", segment=2100 / 44100).separate(track.numpy(), sample_rate=44100)
    model = build(case)
    assert model.overlap == overlap
    expected = plain_protocol(model, track, 2100, lambda used: used, overlap)
    for number, stem in enumerate(demucs_toys.SOURCES):
        torch.testing.assert_close(torch.from_numpy(found.stems[stem]), expected[number], atol=2e-5, rtol=0)


def as_version(case: str) -> dict[str, Any]:
    """What must be said of a package whose class has the name of version 2."""
    return {"architecture": case, "stems": demucs_toys.SOURCES} if case == "demucs_v1" else {}


@pytest.mark.parametrize("case", ["demucs_v1", "conv_tasnet"])
def test_a_file_of_version_1_becomes_a_model(tmp_path: Path, case: str) -> None:
    model = build(case, FOUR, sources=FOUR)
    counted = {"demucs_v1": {"sources": 4}, "conv_tasnet": {"C": 4}}[case]
    path = demucs_toys.package_of_version_1(tmp_path / "old.th", case, published(model), **counted)
    entry = add_model([str(path)], name="mine").entry
    assert (entry.architecture, entry.stems) == (case, tuple(FOUR))
    mixture = demucs_toys.mixture()
    torch.testing.assert_close(load_model(entry)(mixture), model(mixture), atol=1e-6, rtol=0)


def test_resampling_keeps_what_is_below_the_cut_off() -> None:
    t = torch.arange(2000)
    low, high = torch.sin(0.3 * t), torch.sin(3.05 * t)  # radians per sample; above 0.97 of Nyquist nothing is kept
    kept = resample_half(resample_twice(low[None, None]))[0, 0]
    torch.testing.assert_close(kept[200:-200], low[200:-200], atol=1e-3, rtol=0)
    assert resample_half(resample_half(resample_twice(high[None, None])))[0, 0, 100:-100].abs().max() < 0.02
    assert resample_twice(low[None, None]).shape[-1] == 4000
    assert resample_half(low[None, None, :1999]).shape[-1] == 999


def test_names_of_older_packages_are_moved() -> None:
    config = {**demucs_toys.CASES["demucs"][2], "dconv_mode": 0, "norm_starts": 9, "sources": demucs_toys.SOURCES}
    model = Demucs.from_config(config, demucs_toys.SOURCES)
    state = published(model)
    old = {name.replace(".3.", ".2.") if name.count(".") == 3 else name: tensor for name, tensor in state.items()}
    assert set(old) != set(state)
    converted = Demucs.convert_state(config, {"checkpoint": old})
    assert set(converted) == set(state)
    assert all(torch.equal(converted[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewrite": False}, "only True is supported"),
        ({"depth": 0}, "depth is 0"),
        ({"stride": 9}, "stride is not between"),
        ({"context": 99}, "context is 99"),
        ({"lstm_layers": 99}, "lstm_layers is 99"),
        ({"dconv_comp": 8}, "dconv_comp is not"),
        ({"audio_channels": 3}, "audio_channels is 3"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        architecture_class("demucs").from_config({**demucs_toys.CASES["demucs"][2], **changes}, demucs_toys.SOURCES)
