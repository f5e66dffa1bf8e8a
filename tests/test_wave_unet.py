"""Wave-U-Net: sizes, the public code's outputs and checkpoints, no seam, and what training and labels need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_writer as writer
import torch
from safetensors.torch import save_file
from torch import Tensor

from unmixcli.checkpoint import build_model
from unmixcli.checkpoint_read import read_state
from unmixcli.entry import ModelEntry
from unmixcli.errors import CheckpointError, OptionError
from unmixcli.models.wave_unet import WaveUNet
from unmixcli.models.wave_unet_labels import CONDITIONINGS, PLACES
from unmixcli.models.wave_unet_weights import to_tensorflow
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.registry_parse import parse_entry
from unmixcli.runner import Runner
from unmixcli.separator import ArraySource, Separator
from unmixcli.stems import plan_stems
from unmixcli.training.ema import MovingAverage
from unmixcli.training.losses import Loss, Objective
from unmixcli.user_models import add_model

RECORDED = Path(__file__).parent / "references" / "wave_unet.npz"
NAMES = ("m1", "m1-learned", "m2", "m3", "m5", "m6", "direct")
VOICE = ["accompaniment", "vocals"]
FOUR = ["bass", "drums", "other", "vocals"]
M3: dict[str, Any] = {"output_type": "difference", "context": True}
M4 = M3 | {"mono_downmix": False}
M5 = M4 | {"upsampling": "learned"}
M7 = M3 | {"num_frames": 768 * 127 + 1024, "expected_sr": 8192, "num_initial_filters": 34}
URMP = ["bassoon", "clarinet", "double_bass", "flute", "horn", "oboe", "sax", "tuba", "trombone", "trumpet", "viola",
        "cello", "violin"]  # fmt: skip
SMALL: dict[str, Any] = {"num_layers": 3, "num_initial_filters": 4, "filter_size": 5, "merge_filter_size": 3}


def network(config: dict[str, Any], sources: list[str] = VOICE, seed: int = 0) -> WaveUNet:
    torch.manual_seed(seed)
    model = WaveUNet({**SMALL, **config}, sources).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("config", "sources", "parameters"),
    [
        ({}, VOICE, 10_263_028),
        ({"output_type": "difference"}, VOICE, 10_263_002),
        (M3, VOICE, 10_263_002),
        (M4, VOICE, 10_263_390),
        (M5, VOICE, 10_265_550),
        (M4, FOUR, 10_263_498),
        (M7, VOICE, 20_594_652),
        (M3, URMP, 10_263_288),
        (M3 | {"conditioning": "stack"}, URMP, 15_654_648),
    ],
)
def test_published_numbers_of_parameters(config: dict[str, Any], sources: list[str], parameters: int) -> None:
    with torch.device("meta"):
        model = WaveUNet(config, sources)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("config", "lengths"), [(M4, (147_443, 16_389)), (M7, (233_459, 102_405)), ({}, (16_384, 16_384))]
)
def test_published_lengths(config: dict[str, Any], lengths: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = WaveUNet(config, VOICE)
    assert model.lengths(model.values["num_frames"]) == lengths


def test_the_published_size_gives_what_it_says() -> None:
    model = WaveUNet(M3 | {"num_initial_filters": 1}, VOICE).eval()
    with torch.inference_mode():
        assert model._centre(torch.zeros(1, 1, 147_443)).shape == (1, 2, 1, 16_389)


# ---------------------------------------------------------------- the public code


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(RECORDED) as arrays:
        yield arrays


def loaded(recorded: Any, name: str, folder: Path, stems: list[str] | None = None) -> WaveUNet:
    """The recorded network by way of TensorFlow's own files."""
    for suffix, key in ((".index", "index"), (".data-00000-of-00001", "data")):
        (folder / f"model{suffix}").write_bytes(recorded[f"{name}/{key}"].tobytes())
    config = json.loads(str(recorded[f"{name}/config"]))
    sources = tuple(config["source_names"])
    entry = ModelEntry(
        name="toy", title="", architecture="wave_unet", config=config, stems=sources, sample_rate=22050,
        channels=1 if config.get("mono_downmix", True) else 2,
    )  # fmt: skip
    model = build_model(entry, config=config, stems=stems or sources, states={"w": read_state(folder / "model.index")})
    assert isinstance(model, WaveUNet)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_public_codes_checkpoints_and_outputs(recorded: Any, name: str, tmp_path: Path) -> None:
    model = loaded(recorded, name, tmp_path)
    mixture = torch.from_numpy(recorded[f"{name}/mixture"])[None]
    with torch.inference_mode():
        found = model._centre(mixture)[0]
    expected = torch.from_numpy(recorded[f"{name}/estimates"]).clamp(-1, 1)  # the later public code clips at test time
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_some_stems_are_those_of_all(recorded: Any, tmp_path: Path) -> None:
    mixture = torch.from_numpy(recorded["m6/mixture"])[None]
    with torch.inference_mode():
        every = loaded(recorded, "m6", tmp_path)._centre(mixture)
        some = loaded(recorded, "m6", tmp_path, ["drums", "vocals"])
        assert torch.equal(some._centre(mixture), every[:, [1, 3]])
    assert not some.covers_mixture


def test_a_checkpoint_that_we_write_comes_back(tmp_path: Path) -> None:
    model = network(M5, FOUR)
    variables = {
        name: tensor.detach().numpy() for name, tensor in to_tensorflow(model.state_dict(), 3, channels=2).items()
    }
    assert variables["separator/conv1d/kernel"].shape == (5, 2, 4)
    assert set(variables) >= {"separator/conv1d_9/bias", "separator/interp_2"}
    solver = {
        "separator_solver/beta1_power": np.float32(0.9).reshape(()),
        "separator_solver/separator/conv1d/kernel/Adam": variables["separator/conv1d/kernel"] * 0,
        "separator_solver/separator/conv1d/kernel/Adam_1": variables["separator/conv1d/kernel"] * 0,
        "global_step": np.array(186_093),
    }
    for name, content in writer.bundle({**variables, **solver}).files("baseline_stereo-186093").items():
        (tmp_path / name).write_bytes(content)
    state = WaveUNet.convert_state(SMALL | M5, {"weights": read_state(tmp_path)})
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_the_own_state_is_taken_as_it_is() -> None:
    state = network(M5).state_dict()
    assert WaveUNet.convert_state(SMALL | M5, {"weights": state}) == dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"separator/conv1d_3/kernel": None}, "conv1d_3/kernel is missing"),
        ({"separator/interp_1": None}, "interp_1 is missing"),
        ({"separator/interp_7": torch.zeros(3)}, "interp_7, which"),
        ({"discriminator/conv1d/kernel": torch.zeros(3)}, "discriminator/conv1d/kernel, which"),
        ({"separator/conv1d_3/bias": torch.zeros(1)}, "conv1d_3 has a kernel"),
        ({"separator/conv1d_8/kernel": torch.zeros(3, 3, 2)}, "different shapes"),
        (
            {"separator/conv1d_9/kernel": torch.zeros(1, 6, 2), "separator/conv1d_9/bias": torch.zeros(3)},
            "conv1d_9 has",
        ),
    ],
)
def test_other_checkpoints_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    variables: dict[str, Any] = to_tensorflow(network(M5, FOUR).state_dict(), 3, channels=2) | change
    kept = {name: tensor for name, tensor in variables.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        WaveUNet.convert_state(SMALL | M5, {"weights": kept})


# ---------------------------------------------------------------- segments


def separated(model: WaveUNet, wave: Tensor, **options: Any) -> Tensor:
    plan = plan_stems(model.stems, covers_mixture=model.covers_mixture, residual="ignore")
    source = ArraySource(wave.numpy(), model.sample_rate)
    blocks = list(separate_blocks(source, Runner(model, torch.device("cpu")), plan, Options(**options)))
    return torch.from_numpy(np.stack([np.concatenate([block[stem] for block in blocks], -1) for stem in model.stems]))


@pytest.mark.parametrize("length", [1, 7, 8, 9, 200, 1001])
def test_segments_of_any_length_give_what_one_pass_gives(length: int) -> None:
    model = network(M5)
    wave = torch.randn(2, length, generator=torch.Generator().manual_seed(length)) * 0.1
    padded = torch.nn.functional.pad(wave, (model.edge, model.edge))[None]
    with torch.inference_mode():
        whole = model(padded)[0, ..., model.edge : -model.edge]
    for grids in (1, 3, 40):
        model.segment_length = 8 * grids + 2 * model.edge
        found = separated(model, wave)
        assert found.shape == whole.shape
        torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


def test_moved_by_the_grid_it_gives_the_same_and_else_not() -> None:
    model = network(M4)
    wave = torch.randn(1, 2, 400, generator=torch.Generator().manual_seed(0)) * 0.3
    edge = model.edge

    def moved(by: int) -> Tensor:
        with torch.inference_mode():
            return model(torch.nn.functional.pad(wave, (edge + by, edge)))[..., edge + by : -edge]

    assert (moved(8) - moved(0)).abs().max() < 1e-6
    assert (moved(3) - moved(0)).abs().max() > 1e-3


@pytest.mark.parametrize("config", [M4, {"output_type": "difference"}])
def test_a_difference_adds_up_to_the_mixture(config: dict[str, Any]) -> None:
    model = network(config, FOUR)
    wave = torch.randn(model.channels, 700, generator=torch.Generator().manual_seed(0)) * 0.05
    model.output.weight.data *= 0.1  # nothing is clipped
    residual = separated(model, wave).sum(0) - wave
    assert residual.square().mean() < 1e-9 * wave.square().mean()


def test_what_is_too_loud_is_clipped_only_when_separating() -> None:
    model = network(M4)
    model.output.bias.data += 3
    wave = torch.full((1, 2, model.lengths(8)[0]), -0.9)
    with torch.no_grad():
        assert model._centre(wave).min() == -1
        assert model.train()._centre(wave).min() < -1


@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_activations(activation: str) -> None:
    model = network({"output_activation": activation})
    model.output.weight.data *= 20
    assert model(torch.randn(1, 1, 64)).abs().max() <= 1
    if activation == "linear":
        assert model.train()(torch.randn(1, 1, 64)).abs().max() > 1


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"levels": 3}, "has no levels"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": "12"}, "num_layers is '12'"),
        ({"filter_size": 4}, "odd number"),
        ({"context": 1}, "context is 1"),
        ({"upsampling": "nearest"}, "upsampling is 'nearest'"),
        ({"network": "unet_spectrogram"}, "network is 'unet_spectrogram'"),
        ({"input_filter_size": 31}, "input_filter_size"),
        ({"task": "choir"}, "task is 'choir'"),
        ({"source_names": ["vocals"]}, "no stem accompaniment"),
        ({"source_names": "vocals"}, "expected a list"),
        ({"source_names": ["vocals", "vocals"]}, "different"),
        ({"labels": ["vocals"]}, "not conditioned"),
        ({"conditioning": "stack", "labels": ["harp"]}, "knows no harp; .* accompaniment, vocals"),
        ({"conditioning": "stack", "labels": "vocals"}, "expected a list"),
    ],
)
def test_settings_that_cant_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        WaveUNet({**SMALL, **config}, VOICE)


def test_a_difference_takes_two_sources() -> None:
    with pytest.raises(CheckpointError, match="two sources"):
        WaveUNet({**SMALL, "output_type": "difference"}, ["vocals"])


def test_published_settings_are_taken() -> None:
    config = {"batch_size": 16, "task": "multi_instrument", "num_channels": 2, "network": "unet", "cache_size": 4000}
    model = WaveUNet({**SMALL, **config}, ["vocals"])
    assert model.sources == tuple(FOUR)
    assert not model.covers_mixture


# ---------------------------------------------------------------- training


def test_training_hears_context_and_learns_the_middle() -> None:
    model = network(M4).train()
    mixture = torch.randn(2, 2, model.lengths(20)[0] + 3)
    outputs = model.training_outputs(mixture, {"waveforms"})["waveforms"]
    given = model.lengths(20)[1]
    assert outputs.shape == (2, 2, 2, given)
    # the middle of the references, to the sample: the difference output is the mixture minus the first
    cut = (mixture.shape[-1] - given) // 2
    torch.testing.assert_close(outputs.sum(1), mixture[..., cut : cut + given], atol=1e-6, rtol=0)
    references = torch.stack([torch.zeros_like(mixture), mixture], 1)
    loss, _ = Objective((Loss("mse", on="waveform"),))({"waveforms": outputs}, references, None, model, mixture)
    expected = (outputs - references[..., cut : cut + given]).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_excerpts_that_are_too_short_are_heard_with_silence() -> None:
    model = network(M4).train()
    assert model.training_outputs(torch.randn(1, 2, 30), {"waveforms"})["waveforms"].shape == (1, 2, 2, 30)


def test_a_new_network_keeps_the_level() -> None:
    """The first weights neither silence nor overdrive what goes through."""
    torch.manual_seed(0)
    model = WaveUNet(SMALL | M3 | {"output_type": "direct"}, VOICE).eval()
    level = model(torch.randn(1, 1, 2000) * 0.2)[..., model.edge : -model.edge].std()
    assert 0.02 < level < 2


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", CONDITIONINGS)
@pytest.mark.parametrize("context", [True, False])
def test_labels_join_in_all_ways(kind: str, place: str, context: bool) -> None:
    config = {"conditioning": kind, "place": place, "context": context}
    models = {labels: network({**config, "labels": list(labels)}, FOUR) for labels in [(), ("drums",), ("bass",)]}
    for model in models.values():
        assert all(torch.equal(tensor, models[()].state_dict()[name]) for name, tensor in model.state_dict().items())
        assert not model.covers_mixture
    wave = torch.randn(1, 1, models[()].lengths(50)[0])
    with torch.inference_mode():
        outputs = {labels: model._centre(wave) for labels, model in models.items()}
    assert (outputs["drums",] - outputs["bass",]).abs().max() > 1e-3
    # each item of a batch with its own labels, as training has them
    model = models[()]
    heard = torch.zeros(2, 4, 1, 9)
    heard[0, 1], heard[1, 0] = 0.1, 0.1
    model.hint(heard)
    with torch.inference_mode():
        both = model._centre(wave.expand(2, -1, -1))
    torch.testing.assert_close(both[:1], outputs["drums",], atol=1e-6, rtol=0)
    torch.testing.assert_close(both[1:], outputs["bass",], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", CONDITIONINGS)
def test_what_a_batch_told_is_not_kept(kind: str) -> None:
    model = network({"conditioning": kind, "labels": ["bass"]}, FOUR)
    wave = torch.randn(3, 1, 64)
    with torch.inference_mode():
        untold = model(wave)
    average = MovingAverage(model, 0.9)
    model.hint(torch.randn(3, 4, 1, 64))
    model(wave).sum().backward()
    average.update(model, 1)
    with torch.inference_mode():
        assert torch.equal(model(wave), untold)
        torch.testing.assert_close(average.model(wave), untold)


@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_labels_change_nothing_before_training(kind: str) -> None:
    torch.manual_seed(0)
    plain = WaveUNet(SMALL, FOUR)
    torch.manual_seed(0)
    told = WaveUNet({**SMALL, "conditioning": kind, "labels": ["bass"]}, FOUR)
    wave = torch.randn(1, 1, 64)
    assert torch.equal(plain(wave), told(wave))


def test_many_instruments_need_not_cover_the_mixture() -> None:
    model = WaveUNet({**SMALL, **M3}, URMP)
    assert not model.covers_mixture
    values = {"architecture": "wave_unet", "stems": URMP, "sample_rate": 22050, "channels": 1, "covers_mixture": False}
    assert parse_entry({"name": "expanded", "config": M3, **values}, where="test").covers_mixture is False


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A conditioned network of the user's, whose first stem is louder with every label."""
    config = {**SMALL, "context": True, "conditioning": "multiplicative", "place": "after"}
    model = network(config, FOUR)
    assert model.condition is not None
    model.condition.gain.data.zero_()
    save_file(model.state_dict(), tmp_path / "told.safetensors")
    entry = {"architecture": "wave_unet", "config": config, "stems": FOUR, "sample_rate": 22050, "channels": 1}
    (tmp_path / "told.json").write_text(json.dumps({**entry, "covers_mixture": False}))
    return add_model([str(tmp_path / "told.safetensors")], config=tmp_path / "told.json").entry.name


def test_the_command_line_says_what_plays(told: str) -> None:
    wave = np.random.default_rng(0).standard_normal((1, 9000)).astype(np.float32) * 0.1
    found = Separator(told, labels=("drums", "vocals")).separate(wave, sample_rate=22050).stems
    assert list(found) == ["drums", "vocals"]
    every = Separator(told).separate(wave, sample_rate=22050).stems
    assert set(every) == {*FOUR, "rest"}
    other = Separator(told, labels="bass", stems="drums").separate(wave, sample_rate=22050).stems
    assert list(other) == ["drums"]
    assert np.abs(other["drums"] - found["drums"]).max() > 1e-3


def test_labels_that_cant_be(told: str) -> None:
    with pytest.raises(OptionError, match="knows no harp; the instruments that it knows: bass, drums, other, vocals"):
        Separator(told, labels=("harp", "drums"))
    with pytest.raises(OptionError, match="unmix_small can't be told what plays"):
        Separator("unmix_small", labels=("drums",))
