"""NMF: divergences that only fall, scikit-learn's numbers, and dictionaries that tell two instruments apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.nmf import NMF, grouped
from unmixcli.models.nmf_supervised import NMFSupervised, learn_dictionary
from unmixcli.models.nmf_updates import (
    divergence,
    exponent,
    factorise,
    scaled,
    starting_point,
    update_activations,
    update_atoms,
)

RATE = 16000
CONFIG: dict[str, Any] = {
    "sample_rate": RATE, "n_fft": 1024, "hop": 256, "atoms": 12, "sources": ["low", "high"], "channels": 1,
}  # fmt: skip


@pytest.fixture
def picture(rng: np.random.Generator) -> Tensor:
    return scaled(torch.from_numpy(rng.random((40, 5)) ** 3 @ rng.random((5, 60)) ** 3))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_no_round_makes_it_worse(beta: float, picture: Tensor) -> None:
    w, h = starting_point(picture, 5)
    errors = [divergence(picture, w @ h, beta)]
    for _ in range(60):
        w = update_atoms(picture, w, h, beta)
        h = update_activations(picture, w, h, beta)
        errors.append(divergence(picture, w @ h, beta))
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5])
def test_is_scikit_learns(beta: float, picture: Tensor) -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    w, h = starting_point(picture, 5)
    theirs = decomposition.non_negative_factorization(
        picture.numpy(), W=w.numpy().copy(), H=h.numpy().copy(), n_components=5, init="custom", solver="mu",
        beta_loss=beta, tol=0, max_iter=20,
    )  # fmt: skip
    for _ in range(20):
        w = update_atoms(picture, w, h, beta)
        h = update_activations(picture, w, h, beta)
    # Theirs adds 1e-7 (single precision's epsilon) to what it divides by; ours only keeps away from zero.
    np.testing.assert_allclose((w @ h).numpy(), theirs[0] @ theirs[1], rtol=1e-3, atol=1e-5)


def test_exponents() -> None:
    assert [exponent(beta) for beta in (0, 0.5, 1, 1.5, 2, 3)] == [1 / 2, 1 / 1.5, 1, 1, 1, 1 / 2]


def test_atoms_are_found_again(rng: np.random.Generator) -> None:
    true = np.zeros((30, 3))
    for n in range(3):
        true[10 * n : 10 * n + 6, n] = 1 / 6
    v = scaled(torch.from_numpy(true @ (rng.random((3, 80)) > 0.5)))
    w, h = factorise(v, 3, beta=1.0, iterations=200)
    assert torch.allclose(w.sum(dim=0), torch.ones(3, dtype=w.dtype))
    order = w.argmax(dim=0).argsort()
    np.testing.assert_allclose(w[:, order].numpy(), true, atol=1e-3)
    assert float((w @ h - v).abs().max()) < 1e-3


def test_groups_go_from_dark_to_bright() -> None:
    bins = torch.arange(513)
    centres = [30, 32, 34, 400, 402, 404, 150, 152]
    atoms = torch.stack([torch.exp(-(((bins - c) / 8.0) ** 2)) for c in centres], dim=1)
    found = grouped(atoms / atoms.sum(dim=0), torch.ones(8), 3, RATE)
    assert found.tolist() == [0, 0, 0, 2, 2, 2, 1, 1]


def test_components_of_a_song_differ(rng: np.random.Generator) -> None:
    """A bass note and a cymbal that take turns."""
    t = np.arange(6 * RATE) / RATE
    turns = np.sin(2 * np.pi * t) > 0
    bass = 0.3 * np.sin(2 * np.pi * 110 * t) * turns
    cymbal = np.diff(0.1 * rng.standard_normal(len(t) + 1)) * ~turns
    model = NMF({"sample_rate": RATE, "atoms": 8, "n_fft": 1024, "hop": 256})
    stems = model(torch.from_numpy((bass + cymbal).astype(np.float32)).expand(1, 2, -1))[0]
    dark, bright = stems[0, 0].numpy(), stems[1:, 0].sum(dim=0).numpy()
    assert 10 * np.log10(np.sum(bass**2) / np.sum((dark - bass) ** 2)) > 15
    assert 10 * np.log10(np.sum(cymbal**2) / np.sum((bright - cymbal) ** 2)) > 15


# ---------------------------------------------------------------- supervised


def melody(rng: np.random.Generator, harmonics: tuple[int, ...], seconds: int = 6) -> Tensor:
    """Notes of a major scale, all with the same harmonics, [1, T]."""
    steps = rng.integers(0, 12, 4 * seconds)
    pitch = np.repeat(220 * 2 ** (steps / 12), RATE // 4)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    wave = 0.2 * sum(np.sin(k * phase) for k in harmonics) / len(harmonics)
    return torch.from_numpy(wave.astype(np.float32))[None]


@pytest.fixture(scope="module")
def learnt() -> dict[str, Tensor]:
    rng = np.random.default_rng(7)
    return {
        f"dictionaries.{stem}": learn_dictionary([melody(rng, harmonics, 20)], n_fft=1024, hop=256, atoms=12)
        for stem, harmonics in (("low", (1, 2, 3)), ("high", (7, 9, 11)))
    }


@pytest.fixture(scope="module")
def duet() -> dict[str, Tensor]:
    rng = np.random.default_rng(8)
    return {"low": melody(rng, (1, 2, 3)), "high": melody(rng, (7, 9, 11))}


def sdr(reference: Tensor, estimate: Tensor) -> float:
    return float(10 * torch.log10(reference.square().sum() / (estimate - reference).square().sum()))


@pytest.mark.parametrize("known", [("low", "high"), ("low",), ("high",)])
def test_dictionaries_tell_instruments_apart(
    known: tuple[str, ...], learnt: dict[str, Tensor], duet: dict[str, Tensor]
) -> None:
    """Both learnt, or one of them, the other found in the song."""
    model = NMFSupervised.from_config(CONFIG | {"learnt": list(known)}, ("low", "high"))
    model.load_state_dict({key: value for key, value in learnt.items() if key.split(".")[1] in known})
    mixture = duet["low"] + duet["high"]
    with torch.inference_mode():
        estimates = model(mixture[None])[0]
    assert (estimates.sum(dim=0) - mixture).abs().max() < 1e-5
    for stem, estimate in zip(model.stems, estimates, strict=True):
        assert sdr(duet[stem], estimate) > (8 if len(known) == 2 else 5)


def test_one_stem_is_the_same_as_of_all(learnt: dict[str, Tensor], duet: dict[str, Tensor]) -> None:
    mixture = (duet["low"] + duet["high"])[None]
    both, one = (NMFSupervised.from_config(CONFIG, stems) for stems in (("low", "high"), ("high",)))
    for model in (both, one):
        model.load_state_dict(learnt)
    with torch.inference_mode():
        assert torch.equal(both(mixture)[:, 1:], one(mixture))
    assert both.covers_mixture
    assert not one.covers_mixture


def test_it_can_be_trained(duet: dict[str, Tensor]) -> None:
    """Gradients go through the updates: a few steps make the estimates better."""
    torch.manual_seed(0)
    model = NMFSupervised.from_config(CONFIG | {"iterations": 8}, ("low", "high")).train()
    references = torch.stack([duet["low"], duet["high"]])[None, ..., : 2 * RATE]
    mixture = references.sum(dim=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(12):
        outputs = model.training_outputs(mixture, ("spectra",))
        loss = (outputs["spectra"] - model.training_spectra(references)).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_silence_teaches_nothing() -> None:
    with pytest.raises(CheckpointError, match="silent"):
        learn_dictionary([torch.zeros(1, 5000)], n_fft=256, hop=64, atoms=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"atoms": 0}, "atoms is 0"),
        ({"atoms": 2.5}, "atoms is 2.5"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"kind": 1}, "no setting 'kind'"),
        ({"sources": None}, "sources is None"),
        ({"sources": ["low"]}, "sources is"),
        ({"sources": ["low", "high", "a.b"]}, "sources is"),
        ({"learnt": []}, r"learnt is \[\]"),
        ({"learnt": ["kazoo"]}, "learnt is"),
        ({"channels": 3}, "channels is 3"),
        ({"hop": 600}, "hop is 600"),
        ({"segment_seconds": 1.0, "edge_seconds": 0.5}, "segment_seconds is 1.0"),
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        NMFSupervised.from_config(CONFIG | config, ("low", "high"))
