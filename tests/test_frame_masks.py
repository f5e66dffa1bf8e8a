"""The homework's two networks and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmixcli.checkpoint_read import read_state
from unmixcli.errors import CheckpointError
from unmixcli.models.frame_masks import FrameMasks, LSTMMasks
from unmixcli.training.recipe import read_recipe
from unmixcli.training.run import build_network

STEMS = ("vocals", "accompaniment")
SMALL: dict[str, Any] = {"n_fft": 64, "hop": 32, "sample_rate": 8000}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def published(model: LSTMMasks, memory: str, fusion: str) -> dict[str, Tensor]:
    """A state dict under the names that students gave."""
    named = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("memory.", f"{memory}.").replace("_l0", "").replace("fuse", fusion)
        named[name] = tensor
    return named


def test_published_sizes_and_keys() -> None:
    with torch.device("meta"):
        frame, lstm = FrameMasks({}, STEMS), LSTMMasks({}, STEMS)
    assert sum(p.numel() for p in frame.parameters()) == 4_902_449
    assert sum(p.numel() for p in lstm.parameters()) == 6_185_249
    layers = {f"fc{k}.{part}" for k in (1, 2, 3, 4) for part in ("weight", "bias")}
    assert set(frame.state_dict()) == layers
    gates = {f"lstm.{part}_{where}" for part in ("weight", "bias") for where in ("ih", "hh")}
    fusion = {f"fuse{k}.{part}" for k in (1, 2) for part in ("weight", "bias")}
    assert set(published(lstm, "lstm", "fuse")) == layers | gates | fusion


def test_the_transform_is_exact_and_scaled_by_the_windows_sum() -> None:
    model = FrameMasks({}, STEMS)
    torch.nn.init.zeros_(model.fc4.weight)
    torch.nn.init.constant_(model.fc4.bias, 50.0)  # a mask of ones
    wave = 0.3 * noise(1, 1, 40_001)
    error = (model.eval()(wave)[:, 0] - wave).square().mean() / wave.square().mean()
    assert 10 * torch.log10(error) < -120
    seen = []
    model.fc1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.ones(1, 1, 40_960))
    torch.testing.assert_close(seen[0][0, 10, 0], torch.tensor(1.0))  # a constant 1 has magnitude 1 at 0 Hz


def test_frame_by_frame_is_all_at_once() -> None:
    model = FrameMasks(SMALL, STEMS)
    frames = noise(2, 9, 33).abs()
    apart = torch.cat([model.masks(frame) for frame in frames.split(1, 1)], 1)
    torch.testing.assert_close(apart, model.masks(frames), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_pieces_with_the_state_carried_on_are_the_whole(cell: str) -> None:
    model = LSTMMasks(SMALL | {"cell": cell}, STEMS)
    frames = 20 * noise(2, 20, 33).abs()
    state, pieces = None, []
    for piece in frames.split([7, 1, 12], 1):
        masks, state = model.masks_from(piece, state)
        pieces.append(masks)
    whole = model.masks(frames)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-6, rtol=0)
    assert not torch.allclose(model.masks(frames[:, 7:]), whole[:, 7:], atol=1e-6), "the state made no difference"


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_frame_networks_weights_begin_an_lstm_network(cell: str) -> None:
    frame = FrameMasks(SMALL, STEMS)
    config = SMALL | {"cell": cell}
    lstm = LSTMMasks(config, STEMS)
    lstm.load_state_dict(LSTMMasks.convert_state(config, {"weights": frame.state_dict()}))
    frames = 20 * noise(1, 8, 33).abs()
    torch.testing.assert_close(lstm.masks(frames), frame.masks(frames), atol=1e-5, rtol=0)
    # training can reach the memory: after a step its output counts
    optimiser = torch.optim.SGD(lstm.parameters(), 1e-6)
    for _ in range(2):
        optimiser.zero_grad()
        lstm.masks(frames)[:, :, 0].square().sum().backward()
        optimiser.step()
    assert lstm.memory.weight_ih_l0.grad.abs().max() > 0


@pytest.mark.parametrize("memory", ["mem1", "lstm", "grucell"])
@pytest.mark.parametrize("fusion", ["fuse", "fusefc", "fc_fuse"])
def test_published_containers(tmp_path: Path, memory: str, fusion: str) -> None:
    config = SMALL | {"cell": "gru" if memory == "grucell" else "lstm"}
    model = LSTMMasks(config, STEMS)
    path = tmp_path / "savedModel_RNN_best.pt"
    torch.save({"state_dict": published(model, memory, fusion), "minValLoss": 0.25}, path)
    read = LSTMMasks(config, STEMS)
    read.load_state_dict(LSTMMasks.convert_state(config, {"weights": read_state(path)}), strict=True)
    frames = noise(1, 5, 33).abs()
    assert torch.equal(read.masks(frames), model.masks(frames))


def test_the_frame_networks_container(tmp_path: Path) -> None:
    model = FrameMasks(SMALL, STEMS)
    path = tmp_path / "savedModel_feedforward_best.pt"
    torch.save({"state_dict": model.state_dict(), "minValLoss": torch.tensor(0.25)}, path)
    read = FrameMasks(SMALL, STEMS)
    read.load_state_dict(FrameMasks.convert_state(SMALL, {"weights": read_state(path)}), strict=True)
    assert torch.equal(read.fc3.weight, model.fc3.weight)


def test_a_memory_of_the_other_kind_is_refused() -> None:
    state = published(LSTMMasks(SMALL | {"cell": "gru"}, STEMS), "grucell", "fuse")
    with pytest.raises(CheckpointError, match="600 rows, expected 800") as caught:
        LSTMMasks.convert_state(SMALL, {"weights": state})
    assert 'cell = "gru"' in (caught.value.hint or "")


def test_a_missing_layer_is_not_made_up() -> None:
    state = published(LSTMMasks(SMALL, STEMS), "lstm", "fuse")
    del state["lstm.bias_hh"]
    with pytest.raises(RuntimeError, match=r"memory\.bias_hh_l0"):
        LSTMMasks(SMALL, STEMS).load_state_dict(LSTMMasks.convert_state(SMALL, {"weights": state}))


def test_the_mask_and_what_it_leaves() -> None:
    mixture = noise(1, 1, 3001)
    both = FrameMasks(SMALL, STEMS).eval()
    estimates = both(mixture)
    torch.testing.assert_close(estimates.sum(1), mixture, atol=1e-5, rtol=0)
    assert float(both.level(mixture)) == float(mixture.abs().max())
    with pytest.raises(CheckpointError, match="expected two"):
        FrameMasks(SMALL | {"targets": ["a", "b", "c"]}, ("a",))


@pytest.mark.parametrize(("name", "count"), [("frame_masks", 4_902_449), ("lstm_masks", 6_185_249)])
def test_recipes_build_the_published_networks(name: str, count: int) -> None:
    recipe = read_recipe(name)
    with torch.device("meta"):
        model = build_network(recipe.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.sample_rate == 32000
