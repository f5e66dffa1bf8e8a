"""The PyTorch version of Wave-U-Net: its size, the public code's containers and outputs, segments and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmixcli.checkpoint import build_model
from unmixcli.checkpoint_read import read_state
from unmixcli.entry import ModelEntry
from unmixcli.errors import CheckpointError
from unmixcli.models.wave_unet_pytorch import WaveUNetPytorch

RECORDED = Path(__file__).parent / "references" / "wave_unet_pytorch.npz"
NAMES = ("separate", "joint", "learned", "normal")
FOUR = ("bass", "drums", "other", "vocals")
SMALL: dict[str, Any] = {"features": 8, "levels": 3, "strides": 2, "output_size": 0.01, "sr": 8000}


def test_published_size_and_lengths() -> None:
    with torch.device("meta"):
        model = WaveUNetPytorch({"instruments": list(FOUR)}, ("vocals",))
    assert model.lengths(88_200) == (97_961, 88_409)
    assert (model.segment_length, model.edge, model.fixed_segment) == (97_961, 4_776, True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 17_477_538
    taps = [tensor for name, tensor in model.state_dict().items() if name.endswith("conv.filter")]
    assert sum(tensor.numel() for tensor in taps) == 59_520
    assert "waveunets.vocals.upsampling_blocks.4.post_shortcut_convs.0.norm.bias" in model.state_dict()


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(RECORDED) as arrays:
        yield arrays


def loaded(recorded: Any, name: str, folder: Path, stems: tuple[str, ...] | None = None) -> WaveUNetPytorch:
    path = folder / "model"
    path.write_bytes(recorded[f"{name}/checkpoint"].tobytes())
    config = json.loads(str(recorded[f"{name}/config"]))
    sources = tuple(config["instruments"])
    entry = ModelEntry(
        name="toy", title="", architecture="wave_unet_pytorch", config=config, stems=sources, sample_rate=8000,
        channels=config.get("channels", 2),
    )  # fmt: skip
    model = build_model(entry, config=config, stems=stems or sources, states={"model": read_state(path)})
    assert isinstance(model, WaveUNetPytorch)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_public_codes_containers_and_outputs(recorded: Any, name: str, tmp_path: Path) -> None:
    model = loaded(recorded, name, tmp_path)
    mixture = torch.from_numpy(recorded[f"{name}/mixture"])[None]
    expected = torch.from_numpy(recorded[f"{name}/estimates"])[None]
    assert mixture.shape[-1] == model.segment_length
    assert expected.std() > 0.05
    with torch.inference_mode():
        found = model(mixture)
    torch.testing.assert_close(found[..., model.edge : -model.edge], expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", ["separate", "joint"])
def test_one_stem_is_that_of_all(recorded: Any, name: str, tmp_path: Path) -> None:
    every, one = loaded(recorded, name, tmp_path), loaded(recorded, name, tmp_path, ("vocals",))
    mixture = torch.from_numpy(recorded[f"{name}/mixture"])[None]
    with torch.inference_mode():
        torch.testing.assert_close(one(mixture), every(mixture)[:, 1:])
    assert not one.covers_mixture
    if name == "separate":  # only its network is there
        assert sum(p.numel() for p in one.parameters()) * 2 == sum(p.numel() for p in every.parameters())


def test_training_learns_the_middle_of_a_segment() -> None:
    model = WaveUNetPytorch(SMALL, FOUR).train()
    given = model.segment_length - 2 * model.edge
    segment = torch.randn(2, 2, model.segment_length)
    waves = model.training_outputs(segment, {"waveforms"})["waveforms"]
    assert waves.shape == (2, 4, 2, given)
    assert model.training_outputs(segment[..., :50], {"waveforms"})["waveforms"].shape == (2, 4, 2, 50)
    waves.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 3}, "has no width"),
        ({"depth": 2}, "depth is 2"),
        ({"kernel_size": 4}, "kernel_size is 4"),
        ({"features": 12}, "multiple of 8"),
        ({"levels": 1}, "levels is 1"),
        ({"strides": 1}, "strides is 1"),
        ({"res": "sinc"}, "res is 'sinc'"),
        ({"sr": "44100"}, "sr is '44100'"),
        ({"output_size": 0.0}, "output_size is 0.0"),
        ({"instruments": ["vocals"]}, "no stem bass, drums, other"),
        ({"instruments": "vocals"}, "expected a list"),
    ],
)
def test_settings_that_cant_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        WaveUNetPytorch({**SMALL, **config}, FOUR)
