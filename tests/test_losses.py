"""Losses: closed forms, gradients against the papers', and what must not be a number nowhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from unmixcli.errors import OptionError
from unmixcli.models.base import SeparationModel
from unmixcli.spectrum import stft
from unmixcli.training import losses
from unmixcli.training.losses import DISTANCES, KINDS, Loss, Objective, discriminative

torch.set_num_threads(1)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Spectral(SeparationModel):
    """Works in a transform of 64 samples."""

    def training_spectra(self, waves: Tensor) -> Tensor:
        return stft(waves, 64, 16)


def outputs_of(waves: Tensor) -> Mapping[str, Tensor]:
    return {"waveforms": waves, "spectra": stft(waves, 64, 16)}


def value(loss: Loss, estimates: Tensor, references: Tensor, known: Tensor | None = None) -> float:
    return float(Objective([loss])(outputs_of(estimates), references, known, Spectral())[0])


# ---------------------------------------------------------------- each one


@pytest.mark.parametrize("kind", DISTANCES)
def test_of_the_same_it_is_least(kind: str) -> None:
    references = noise(2, 3, 2, 400).abs() + 0.1
    distance = DISTANCES[kind][0]
    at_best = distance(references, references)
    assert at_best.shape == (2, 3)
    for seed in range(3):
        worse = distance(references + 0.05 * noise(2, 3, 2, 400, seed=seed + 1).abs(), references)
        assert (worse > at_best).all()


def test_values_by_hand() -> None:
    y, s = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 1.0]]])
    assert float(losses.mse(y, s)) == 2.5
    assert float(losses.l1(y, s)) == 1.5
    kl = sum(b * math.log(b / a) - b + a for a, b in ((1, 3), (2, 1))) / 2
    assert float(losses.kl(y, s)) == pytest.approx(kl, abs=3e-3)  # the guard of 1e-3
    ratios = [9.0, 0.25]
    assert float(losses.itakura_saito(y, s)) == pytest.approx(sum(r - math.log(r) - 1 for r in ratios) / 2, rel=3e-3)


def test_complex_numbers_are_compared_in_both_parts() -> None:
    y, s = torch.tensor([[[1 + 2j]]]), torch.tensor([[[1 - 2j]]])
    assert float(losses.mse(y, s)) == 8.0
    assert float(losses.l1(y, s)) == 2.0


def test_itakura_saito_does_not_hear_the_level() -> None:
    s, y = noise(1, 1, 50).abs() + 1, noise(1, 1, 50, seed=1).abs() + 1
    assert float(losses.itakura_saito(100 * y, 100 * s)) == pytest.approx(
        float(losses.itakura_saito(10 * y, 10 * s)), rel=1e-4
    )


def test_si_sdr_is_the_evaluation_s_and_ignores_the_scale() -> None:
    from unmixcli.evaluation.metrics import plain_sdr, si_sdr

    reference = noise(1, 1, 2, 4000)
    estimate = 0.3 * reference + 0.1 * noise(1, 1, 2, 4000, seed=1)
    pair = reference[0, 0].numpy(), estimate[0, 0].numpy()
    assert -float(losses.si_sdr(estimate, reference)) == pytest.approx(si_sdr(*pair), abs=1e-3)
    assert -float(losses.sdr(estimate, reference)) == pytest.approx(plain_sdr(*pair), abs=1e-3)
    assert float(losses.si_sdr(5 * estimate, reference)) == pytest.approx(
        float(losses.si_sdr(estimate, reference)), abs=1e-3
    )


def test_mrstft_by_the_formula() -> None:
    estimates, references = noise(2, 1, 1, 3000), noise(2, 1, 1, 3000, seed=1)
    total = torch.zeros(2)
    for n_fft in (256, 512):
        y, s = (stft(x, n_fft, n_fft // 4).abs() for x in (estimates, references))
        convergence = torch.stack([torch.linalg.norm(b - a) / torch.linalg.norm(b) for a, b in zip(y, s, strict=True)])
        total += convergence + ((y + 1e-3).log() - (s + 1e-3).log()).abs().mean((1, 2, 3, 4))
    found = losses.mrstft(estimates, references, ((256, 64), (512, 128)))
    torch.testing.assert_close(found[:, 0], total / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("silent", ["reference", "estimate", "both", "equal"])
def test_silence_gives_numbers_and_gradients_that_are_numbers(kind: str, silent: str) -> None:
    zero, sound = torch.zeros(1, 2, 1, 800), noise(1, 2, 1, 800)
    estimates = (zero if silent in ("estimate", "both") else sound).clone().requires_grad_()
    references = zero if silent in ("reference", "both") else sound
    loss = Loss(kind=kind, n_fft=() if DISTANCES.get(kind, (None, ("waveform",)))[1] == ("waveform",) else (256,),
                **({"on": "magnitude"} if kind in ("mse", "l1") else {}))  # fmt: skip
    total, _ = Objective([loss])({"waveforms": estimates}, references, None, Spectral())
    total.backward()
    assert estimates.grad is not None
    assert math.isfinite(total.item())
    assert torch.isfinite(estimates.grad).all()


# ---------------------------------------------------------------- the discriminative term


def test_the_discriminative_loss_is_that_of_the_paper() -> None:
    """L = D(s1, y1) + D(s2, y2) - γ [D(s2, y1) + D(s1, y2)] for two stems."""
    y, s, gamma = noise(1, 2, 1, 50).abs(), noise(1, 2, 1, 50, seed=1).abs(), 0.05
    for distance in (losses.mse, losses.kl):

        def d(reference: int, estimate: int, distance: losses.Distance = distance) -> Tensor:
            return distance(y[:, estimate : estimate + 1], s[:, reference : reference + 1])

        paper = d(0, 0) + d(1, 1) - gamma * (d(1, 0) + d(0, 1))
        torch.testing.assert_close(discriminative(distance, y, s, gamma).sum(), paper.sum())


def test_its_squared_form_regresses_on_a_shifted_target() -> None:
    """The gradient is that of (1 - γ) ‖y1 - (s1 - γ s2) / (1 - γ)‖²."""
    s, gamma = noise(1, 2, 1, 50), 0.3
    y = noise(1, 2, 1, 50, seed=1).requires_grad_()
    discriminative(losses.mse, y, s, gamma).sum().backward()
    shifted = (s - gamma * s.roll(1, 1)) / (1 - gamma)
    expected = (1 - gamma) * 2 * (y - shifted).detach() / 50
    torch.testing.assert_close(y.grad, expected)


def test_unknown_references_are_not_compared_with() -> None:
    y, s = noise(1, 3, 1, 50), noise(1, 3, 1, 50, seed=1)
    changed = s.clone()
    changed[:, 2] = 100.0
    known = torch.tensor([[True, True, False]])
    kept = [discriminative(losses.mse, y, x, 0.2, known)[:, :2] for x in (s, changed)]
    assert torch.equal(*kept)
    assert not torch.equal(*(discriminative(losses.mse, y, x, 0.2)[:, :2] for x in (s, changed)))


# ---------------------------------------------------------------- sums of losses


def test_an_objective_is_the_weighted_sum() -> None:
    estimates, references = noise(2, 2, 1, 800), noise(2, 2, 1, 800, seed=1)
    parts = [Loss("l1"), Loss("mse", on="spectrum", n_fft=(128, 256)), Loss("kl", weight=0.5)]
    objective = Objective(parts)
    assert objective.wanted == {"waveforms", "spectra"}
    total, values = objective(outputs_of(estimates), references, None, Spectral())
    expected = [
        losses.l1(estimates, references).mean(),
        sum(losses.mse(stft(estimates, n, n // 4), stft(references, n, n // 4)).mean() for n in (128, 256)) / 2,
        losses.kl(stft(estimates, 64, 16).abs(), stft(references, 64, 16).abs()).mean(),
    ]
    torch.testing.assert_close(values, torch.stack(expected))
    assert float(total) == pytest.approx(float(expected[0] + expected[1] + 0.5 * expected[2]))
    assert objective.titles == ("l1_waveform", "mse_spectrum_128_256", "kl_magnitude")


def test_stems_that_are_not_known_are_left_out() -> None:
    estimates, references = noise(2, 2, 1, 100), noise(2, 2, 1, 100, seed=1)
    known = torch.tensor([[True, False], [True, True]])
    rows = losses.l1(estimates, references)
    assert value(Loss("l1"), estimates, references, known) == pytest.approx(float(rows[known].mean()))
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert value(Loss("l1"), estimates, references, none) == 0.0


def test_stems_can_weigh_differently() -> None:
    estimates, references = noise(2, 2, 1, 100), noise(2, 2, 1, 100, seed=1)
    found = Objective([Loss("l1")], (3.0, 1.0))(outputs_of(estimates), references, None, Spectral())[0]
    rows = losses.l1(estimates, references).mean(0)
    assert float(found) == pytest.approx(float((3 * rows[0] + rows[1]) / 4))


def test_a_network_without_spectra_says_so() -> None:
    waves = noise(1, 2, 1, 100)
    with pytest.raises(OptionError, match="gives no spectra"):
        Objective([Loss("kl")])({"waveforms": waves}, waves, None, SeparationModel())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "l3"}, "known are mse, l1"),
        ({"kind": "kl", "on": "waveform"}, "expected magnitude"),
        ({"kind": "l1", "discriminative": 1.0}, "0 <= value < 1"),
        ({"kind": "sdr", "discriminative": 0.1}, "does not go"),
        ({"kind": "l1", "weight": 0.0}, "more than 0"),
        ({"kind": "l1", "weight": math.nan}, "more than 0"),
        ({"kind": "l1", "n_fft": (512,)}, "spectra"),
        ({"kind": "l1", "on": "spectrum", "n_fft": (4,)}, "32 to 65536"),
        ({"kind": "mrstft", "hop": 0.9}, "at most 0.5"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Loss(**values)  # type: ignore[arg-type]
