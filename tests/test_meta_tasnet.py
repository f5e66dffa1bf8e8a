"""Meta-TasNet: its published size, container and outputs, gains, segments, and what its stages learn."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmixcli.checkpoint import build_model, load_model
from unmixcli.checkpoint_read import read_checkpoint
from unmixcli.entry import ModelEntry
from unmixcli.errors import CheckpointError
from unmixcli.models.meta_tasnet import MetaTasNet, _decimated, fitted_gains
from unmixcli.models.meta_tasnet_loss import si_snr, stage_loss
from unmixcli.models.settings import FOUR_STEMS
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.runner import Runner
from unmixcli.separator import ArraySource
from unmixcli.stems import plan_stems
from unmixcli.user_models import add_model

RECORDED = Path(__file__).parent / "references" / "meta_tasnet.npz"
SMALL: dict[str, Any] = {"N": 8, "B": 8, "H": 8, "E_1": 4, "E_2": 3, "layers": 2, "stack": 1, "num_mels": 2}


def network(config: dict[str, Any] | None = None, stems: tuple[str, ...] = FOUR_STEMS) -> MetaTasNet:
    torch.manual_seed(0)
    return MetaTasNet(SMALL | (config or {}), stems).eval()


def sound(length: int, seed: int = 0) -> Tensor:
    """Tones and noise, [1, 1, length] at 32 kHz."""
    t = torch.arange(length) / 32000
    noise = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return (0.2 * torch.sin(2 * torch.pi * 330 * t) + 0.05 * noise)[None, None]


# ---------------------------------------------------------------- the published one


def test_published_keys_and_values() -> None:
    with torch.device("meta"):
        state = MetaTasNet({}, FOUR_STEMS).state_dict()
    assert len(state) == 1539
    assert sum(tensor.numel() for tensor in state.values()) == 45_545_602
    for name in (
        "encoder.spectrogram.window", "encoder.filters.2.weight", "encoder.bottleneck.2.weight", "mask.prelu_4.weight",
        "decoder.bottleneck.0.weight", "mask.norm_4.affine.bias", "mask.tcn.17.dconv1d.kernel.weight",
        "mask.in_conv.bottleneck.bias", "instrument_embedding.weight",
    ):  # fmt: skip
        assert all(f"stages.{stage}.{name}" in state for stage in range(3))


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(RECORDED) as arrays:
        yield arrays


@pytest.mark.parametrize(("name", "stages"), [("generated", 3), ("independent", 2)])
def test_the_public_codes_container_and_outputs(recorded: Any, name: str, stages: int, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    path.write_bytes(recorded[f"{name}/checkpoint"].tobytes())
    checkpoint = read_checkpoint(path)
    config = MetaTasNet.complete_config({}, {"model": checkpoint.settings})
    entry = ModelEntry(
        name="toy", title="", architecture="meta_tasnet", config={}, stems=FOUR_STEMS, channels=1,
        sample_rate=8000 * 2 ** (stages - 1),
    )  # fmt: skip
    model = build_model(entry, config=config, stems=FOUR_STEMS, states={"model": checkpoint.tensors})
    assert isinstance(model, MetaTasNet)
    code: Tensor | None = None
    for number, stage in enumerate(model.stages):
        with torch.inference_mode():
            waves, _, code = stage(torch.from_numpy(recorded[f"{name}/signal{number}"])[None, None], code)
        expected = torch.from_numpy(recorded[f"{name}/output{number}"])
        assert expected.std() > 0.1
        torch.testing.assert_close(waves[0], expected, atol=1e-4, rtol=1e-5)


def test_the_published_file_is_added_by_itself(recorded: Any, tmp_path: Path) -> None:
    path = tmp_path / "best_model.pt"
    path.write_bytes(recorded["generated/checkpoint"].tobytes())
    entry = add_model([str(path)], name="mine").entry
    assert (entry.architecture, entry.stems, entry.sample_rate, entry.channels) == (
        "meta_tasnet",
        FOUR_STEMS,
        32_000,
        1,
    )
    assert isinstance(load_model(entry, stems=["bass"]), MetaTasNet)


def test_a_hostile_container_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'harm'}",)

    for args in (argparse.Namespace(stages_num=3, N=Hostile()), Hostile()):
        file = io.BytesIO()
        torch.save({"state_dict": {"a": torch.zeros(1)}, "args": args}, file)
        (tmp_path / "model.pt").write_bytes(file.getvalue())
        with pytest.raises(CheckpointError, match="refused"):
            read_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "harm").exists()


def test_other_namespaces_say_nothing(tmp_path: Path) -> None:
    args = argparse.Namespace(levels=6)
    assert b"argparse" in pickle.dumps(args)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "args": args}, tmp_path / "model.pt")
    assert read_checkpoint(tmp_path / "model.pt").settings == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"M": 3}, "has no M"),
        ({"sources": ["vocals"]}, "sources are"),
        ({"N": 12}, "N is 12"),
        ({"N": 8.0}, "N is 8.0"),
        ({"E_1": None}, "E_1 is None"),
        ({"B": 12}, "multiples of 8"),
        ({"L": 21}, "L is not W"),
        ({"kernel": 4}, "kernel is 4"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"layers": 30}, "more than 16"),
        ({"stages_num": 9}, "too many"),
        ({"sampling_rate": 4000}, "sampling_rate is 4000"),
    ],
)
def test_settings_that_cant_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        network(config)


def test_it_has_no_other_stems() -> None:
    with pytest.raises(CheckpointError, match="no stem piano; it gives drums"):
        network(stems=("vocals", "piano"))


# ---------------------------------------------------------------- masks, gains, signals


def test_masks_add_to_one() -> None:
    mask = network().stages[1].mask
    seen = torch.randn(2, 4, 24, 50)
    with torch.inference_mode():
        masks = mask(network().stages[1].instrument_embedding.weight, seen)
    assert masks.shape == (2, 4, 16, 50)
    assert (masks.sum(1) - 1).abs().max() < 1e-6


def test_gains_are_those_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    estimates = torch.randn(2, 4, 900, generator=generator)
    mixture = (estimates * torch.tensor([0.5, 2.0, -1.0, 1.0])[:, None]).sum(1, keepdim=True)
    mixture += 0.1 * torch.randn(2, 1, 900, generator=generator)
    gains = fitted_gains(estimates, mixture)
    for item in range(2):
        expected = np.linalg.lstsq(estimates[item].numpy().T, mixture[item, 0].numpy(), rcond=None)[0]
        np.testing.assert_allclose(gains[item, :, 0], expected, atol=1e-5)
    estimates[:, 2] = 0  # a silent stem takes no gain and harms nobody
    assert torch.isfinite(fitted_gains(estimates, mixture)).all()


def test_the_fit_brings_the_sum_nearer_to_the_mixture() -> None:
    model, mixture = network(), sound(20_000)
    with torch.inference_mode():
        raw = model._run(mixture)[-1][0][..., :20_000]
        fitted = model(mixture)[:, :, 0]
    before, after = ((mixture[:, 0] - waves.sum(1)).square().mean() for waves in (raw, fitted))
    assert after < before
    assert after < mixture.square().mean()


def test_one_stem_is_that_of_all() -> None:
    mixture = sound(9_001)
    with torch.inference_mode():
        torch.testing.assert_close(network(stems=("bass",))(mixture), network()(mixture)[:, 1:2])


@pytest.mark.parametrize("factor", [2, 4])
def test_lower_rates_keep_what_lies_below_them(factor: int) -> None:
    t = torch.arange(32_000, dtype=torch.float64) / 32_000
    low, high = torch.sin(2 * torch.pi * 1000 * t), torch.sin(2 * torch.pi * (16_000 / factor + 1500) * t)
    middle = slice(1000, 32_000 // factor - 1000)
    found = _decimated((low + high).float()[None], factor)[0]
    assert found.shape == (32_000 // factor,)
    torch.testing.assert_close(found[middle], low[::factor][middle].float(), atol=2e-4, rtol=0)


# ---------------------------------------------------------------- segments


def test_a_short_file_is_one_pass_and_a_long_one_the_same_chunks() -> None:
    model = network()
    model.segment_length, model.edge = 16_000, 4_000  # 8000 used
    model.overlap = 0.0
    runner = Runner(model, torch.device("cpu"))
    plan = plan_stems(model.stems, covers_mixture=True, residual="ignore")
    wave = sound(20_000)[0].numpy()

    def separated(samples: Any) -> Any:
        blocks = list(separate_blocks(ArraySource(samples, 32_000), runner, plan, Options()))
        return np.stack([np.concatenate([block[stem] for block in blocks], -1) for stem in FOUR_STEMS])

    mean, deviation = wave.mean(), wave.std(ddof=1) + 1e-8
    scaled = torch.from_numpy((wave - mean) / deviation)[None]
    parts = []
    for start in range(0, 20_000, 8_000):
        first, last = max(0, start - 4_000), min(20_000, start + 12_000)
        with torch.inference_mode():
            part = model(scaled[..., first:last])[0]
        parts.append(part[..., start - first : min(start + 8_000, 20_000) - first])
    expected = torch.cat(parts, -1).numpy() * deviation + mean
    np.testing.assert_allclose(separated(wave), expected, atol=1e-5)
    assert separated(wave[:, :7_000]).shape == (4, 1, 7_000)


def test_the_segments_are_the_published_context() -> None:
    model = network()
    assert (model.sample_rate, model.edge, model.segment_length) == (32_000, 256_000, 1_024_000)
    assert model.edge % model.segment_multiple == 0


# ---------------------------------------------------------------- training


def test_every_stage_learns() -> None:
    model = network().train()
    references = torch.cat([sound(12_000, seed) * gain for seed, gain in ((0, 0.3), (1, 0.5), (2, 1.0), (3, 0.2))])
    references = references[None].repeat(2, 1, 1, 1)  # [2, 4, 1, t]
    mixture = references.sum(1)
    model.hint(references)
    waves = model.training_outputs(mixture, {"waveforms"})["waveforms"]
    own = model.own_loss()
    assert waves.shape == references.shape
    assert own is not None
    (own - si_snr(waves, references).mean()).backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []  # nobody hears what the last layer of a stack would add: it asks for no gradient
    # the spectrogram's statistics are those of what was heard, and stay among the weights
    assert model.stages[0].encoder.spectrogram.mean.abs().min() > 0
    assert not model.stages[0].encoder.spectrogram.mean.requires_grad
    model.eval().hint(references)
    model.training_outputs(mixture, {"waveforms"})
    assert model.own_loss() is None


def test_it_can_be_learnt() -> None:
    """A few steps on one mixture bring the estimates nearer to the truth."""
    model = network({"stages_num": 1}).train()
    references = torch.stack([sound(4_000, seed)[0] * gain for seed, gain in ((0, 1), (5, 0.6), (6, 0.3), (7, 0.2))])[
        None
    ]
    references[0, 1:] = references[0, 1:] - references[0, 1:].mean(-1, keepdim=True) - references[0, :1] * 0.5
    mixture = references.sum(1)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    values = []
    for _ in range(25):
        model.hint(references)
        waves = model.training_outputs(mixture, {"waveforms"})["waveforms"]
        own = model.own_loss()
        assert own is not None
        loss = own - si_snr(waves, references).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(si_snr(waves.detach(), references).mean()))
    assert values[-1] > values[0] + 3


def test_the_loss_of_a_stage() -> None:
    """Against a plain loop over items, pairs and frames."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    references, estimates, codes = drawn(3, 4, 90), drawn(3, 4, 90), drawn(3, 4, 5, 7)
    decoded, mixture = drawn(3, 90), drawn(3, 90)
    sounds = torch.ones(3, 4)
    sounds[1, 2] = 0
    weights = {"reconstruction_loss_weight": 0.05, "similarity_loss_weight": 2.0, "dissimilarity_loss_weight": 3.0}
    expected = -0.05 * sum(float(si_snr(decoded[b], mixture[b])) for b in range(3)) / 3
    for s in range(4):
        heard = [float(si_snr(estimates[b, s], references[b, s])) for b in range(3) if sounds[b, s]]
        expected -= sum(heard) / len(heard)
    unlike, alike = [], []
    for b in range(3):
        for s in range(4):
            for frame in range(7):
                others = [other for other in range(s + 1, 4) if sounds[b, s] and sounds[b, other]]
                unlike += [_cosine(codes[b, s, :, frame].abs(), codes[b, o, :, frame].abs()) for o in others]
                if sounds[b, s] and sounds[b - 1, s]:
                    alike.append(_cosine(codes[b, s, :, frame], codes[b - 1, s, :, frame]))
    expected += 3 * sum(unlike) / len(unlike) - 2 * sum(alike) / len(alike)
    found = stage_loss(estimates, references, sounds, codes, decoded, mixture, weights)
    assert float(found) == pytest.approx(expected, abs=1e-4)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))
