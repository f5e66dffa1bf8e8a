"""bytesep's networks against the public package, with narrow networks whose weights are drawn from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bytesep_toys import draw

from unmixcli.errors import CheckpointError
from unmixcli.models.bytesep import ByteSep

RECORDED = Path(__file__).parent / "references" / "bytesep.npz"
WIDTHS = {"ResUNet143_Subbandtime": [4, 6, 5, 7, 8, 8], "MobileNet_Subbandtime": [4, 6, 6, 6, 6, 6]}
KINDS = tuple(WIDTHS)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(RECORDED) as file:
        return {name: file[name] for name in file.files}


def published(recorded: dict[str, Any], kind: str) -> State:
    shapes = json.loads(str(recorded[f"{kind}/shapes"]))
    rng = np.random.default_rng(KINDS.index(kind))
    state = {name: torch.from_numpy(draw(name, tuple(shapes[name]), rng)).float() for name in sorted(shapes)}
    for part in ("ana", "syn"):
        state[f"pqmf.{part}_conv_filter.weight"] = torch.from_numpy(recorded[f"{part}_filter"])
    # what the package stores besides
    unused = {"stft.conv_real.weight": torch.zeros(257, 1, 512), "bn0.num_batches_tracked": torch.tensor(3)}
    return {**state, **unused}


def config_of(kind: str, *targets: str) -> dict[str, Any]:
    return {"model_type": kind, "widths": WIDTHS[kind], "targets": list(targets)}


def build(kind: str, state: State) -> ByteSep:
    config = config_of(kind, "vocals")
    model = ByteSep.from_config(config, ["vocals"])
    model.load_state_dict(ByteSep.convert_state(config, {"checkpoint": state}), strict=True)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
class TestPackage:
    def test_waveform(self, recorded: dict[str, Any], kind: str) -> None:
        mixture = torch.from_numpy(recorded[f"{kind}/mixture"]).float() / 32768
        expected = torch.from_numpy(recorded[f"{kind}/estimate"])
        estimate = build(kind, published(recorded, kind))(mixture[None])[0, 0]
        assert expected.abs().max() > 0.05
        assert (expected - mixture).abs().max() > 0.05
        torch.testing.assert_close(estimate, expected, atol=2e-5, rtol=0)

    def test_one_file_per_stem(self, recorded: dict[str, Any], kind: str) -> None:
        config = config_of(kind, "vocals", "accompaniment")
        state = published(recorded, kind)
        other = {name: value * 0.5 if name.endswith("after_conv2.weight") else value for name, value in state.items()}
        parts = ["vocals", "accompaniment"]
        assert ByteSep.parts_needed(config, parts, ["accompaniment"]) == ("accompaniment",)
        assert ByteSep.parts_needed(config, ["checkpoint"], ["vocals"]) == ("checkpoint",)
        both = ByteSep.from_config(config, parts).eval()
        both.load_state_dict(ByteSep.convert_state(config, {"vocals": state, "accompaniment": other}), strict=True)
        assert both.covers_mixture
        mixture = torch.from_numpy(recorded[f"{kind}/mixture"]).float()[None, :, :4000] / 32768
        estimates = both(mixture)
        torch.testing.assert_close(estimates[:, 0], build(kind, state)(mixture)[:, 0], atol=1e-6, rtol=0)
        torch.testing.assert_close(estimates[:, 1], build(kind, other)(mixture)[:, 0], atol=1e-6, rtol=0)
        one = ByteSep.from_config(config, ["accompaniment"])
        one.load_state_dict(ByteSep.convert_state(config, {"accompaniment": other}), strict=True)
        assert not one.covers_mixture

    def test_weights_that_do_not_fit(self, recorded: dict[str, Any], kind: str) -> None:
        config, state = config_of(kind, "vocals"), published(recorded, kind)
        missing = {name: value for name, value in state.items() if not name.startswith("pqmf.")}
        with pytest.raises(CheckpointError, match=r"weights of vocals: pqmf\.ana_conv_filter\.weight is missing"):
            ByteSep.convert_state(config, {"checkpoint": missing})
        with pytest.raises(CheckpointError, match=r"hold encoder_block9\.weight"):
            ByteSep.convert_state(config, {"checkpoint": {**state, "encoder_block9.weight": torch.zeros(2)}})
        norm = next(name for name in state if name.endswith(("conv_block1.bn2.weight", "conv_block.bn1b.weight")))
        cut = {name: v[:2] if name.startswith(norm.removesuffix("weight")) else v for name, v in state.items()}
        with pytest.raises(CheckpointError, match="don't fit each other"):
            ByteSep.convert_state(config, {"checkpoint": cut})
        other = config_of(next(name for name in KINDS if name != kind), "vocals")
        with pytest.raises(CheckpointError, match="is missing") as caught:
            ByteSep.convert_state(other, {"checkpoint": state})
        assert "model_type" in (caught.value.hint or "")


def test_the_bands_give_a_wave_back(recorded: dict[str, Any]) -> None:
    network = build(KINDS[1], published(recorded, KINDS[1])).networks["of_vocals"]
    wave = torch.randn(2, 2, 4000, generator=torch.Generator().manual_seed(0))
    back = network._wave(network._bands(wave))
    # the recorded filters are a rough design, but one sample too early or late would make the ratio 1.4
    assert (back - wave).norm() / wave.norm() < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1}, "has no dropout"),
        ({"model_type": "UNet"}, "model_type is 'UNet', expected ResUNet143_Subbandtime or MobileNet_Subbandtime"),
        ({"model_type": ["a"]}, "model_type"),
        ({"input_channels": 3}, "input_channels is 3"),
        ({"output_channels": 1}, "as many output_channels"),
        ({"sample_rate": "44100"}, "sample_rate is '44100'"),
        ({"widths": [32, 64]}, "expected 6 whole numbers"),
        ({"widths": [32, 64, 128, 256, 384, 0]}, "expected 6 whole numbers"),
        ({"targets": "vocals"}, "expected a list of stems"),
    ],
)
def test_config(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ByteSep.from_config(changes, ["vocals"])


def test_published_sizes_without_memory() -> None:
    with torch.device("meta"):
        models = [ByteSep.from_config({"model_type": kind}, ["vocals"]) for kind in KINDS]
    # the package has 102 643 603 and 318 495 numbers, statistics of normalisations included; ours are folded
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert counts == [102_556_722, 303_730]
