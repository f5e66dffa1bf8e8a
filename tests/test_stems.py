"""Plans: sums, complements, residual policies, and names people type."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unmixcli.errors import OptionError
from unmixcli.stems import StemPlan, plan_stems

FOUR = ("drums", "bass", "other", "vocals")


def run(plan: StemPlan, rng: np.random.Generator) -> tuple[NDArray, dict[str, NDArray], dict[str, NDArray]]:
    """A random mixture, imperfect estimates of it, and what the plan makes of them."""
    estimates = rng.standard_normal((len(plan.compute), 2, 500)).astype(np.float32)
    mixture = (estimates.sum(axis=0) + 0.1 * rng.standard_normal((2, 500))).astype(np.float32)
    return mixture, dict(zip(plan.compute, estimates, strict=True)), plan.mix(mixture, estimates)


def test_default_stems_sum_to_the_mixture(rng: np.random.Generator) -> None:
    plan = plan_stems(FOUR, covers_mixture=True)
    mixture, estimates, outputs = run(plan, rng)
    assert tuple(outputs) == FOUR
    # float32 rounding of a handful of terms: far below -90 dBFS
    np.testing.assert_allclose(sum(outputs.values()), mixture, atol=2e-6)
    residual = mixture - sum(estimates.values())
    np.testing.assert_allclose(outputs["bass"], estimates["bass"] + residual / 4, atol=2e-6)


def test_spreading_never_raises_the_total_error(rng: np.random.Generator) -> None:
    true = rng.standard_normal((4, 2, 500)).astype(np.float32)
    mixture = true.sum(axis=0)
    estimates = (true + 0.3 * rng.standard_normal(true.shape)).astype(np.float32)
    outputs = plan_stems(FOUR, covers_mixture=True).mix(mixture, estimates)
    spread = sum(float(((outputs[name] - true[i]) ** 2).sum()) for i, name in enumerate(FOUR))
    assert spread < float(((estimates - true) ** 2).sum())


def test_ignore_is_the_published_output_bit_for_bit(rng: np.random.Generator) -> None:
    _, estimates, outputs = run(plan_stems(FOUR, covers_mixture=True, residual="ignore"), rng)
    assert all(np.array_equal(outputs[name], estimates[name]) for name in FOUR)


def test_residual_as_a_file_completes_the_sum(rng: np.random.Generator) -> None:
    plan = plan_stems(FOUR, covers_mixture=True, stems=("vocals",), residual="file")
    mixture, estimates, outputs = run(plan, rng)
    assert plan.compute == FOUR
    assert tuple(outputs) == ("vocals", "residual")
    assert np.array_equal(outputs["vocals"], estimates["vocals"])
    np.testing.assert_allclose(outputs["residual"], mixture - sum(estimates.values()), atol=2e-6)


def test_residual_added_to_one_stem(rng: np.random.Generator) -> None:
    mixture, estimates, outputs = run(plan_stems(FOUR, covers_mixture=True, residual="add:other"), rng)
    assert np.array_equal(outputs["bass"], estimates["bass"])
    np.testing.assert_allclose(sum(outputs.values()), mixture, atol=2e-6)


@pytest.mark.parametrize("all_for_free", [True, False])
@pytest.mark.parametrize("residual", ["spread", "ignore", "add:vocals"])
def test_a_stem_and_its_complement_sum_by_construction(
    rng: np.random.Generator, all_for_free: bool, residual: str
) -> None:
    plan = plan_stems(
        FOUR,
        covers_mixture=True,
        stems=("vocals", "instrumental"),
        residual=residual,
        all_for_free=all_for_free,
    )
    mixture, _, outputs = run(plan, rng)
    np.testing.assert_allclose(outputs["vocals"] + outputs["instrumental"], mixture, atol=2e-6)


def test_only_what_is_needed_is_computed() -> None:
    assert plan_stems(FOUR, covers_mixture=True, stems=("vocals",)).compute == ("vocals",)
    assert plan_stems(FOUR, covers_mixture=True, minus=("vocals", "drums")).compute == ("drums", "vocals")
    assert plan_stems(FOUR, covers_mixture=True, stems=("vocals",), all_for_free=True).compute == FOUR


def test_a_residual_that_is_not_known_is_not_spread_and_that_is_said() -> None:
    plan = plan_stems(FOUR, covers_mixture=True, stems=("vocals",))
    assert dict(plan.outputs[0].weights) == {"vocals": 1.0}
    assert "no residual is spread" in plan.note


def test_minus_gives_one_output_named_after_what_is_missing(rng: np.random.Generator) -> None:
    plan = plan_stems(FOUR, covers_mixture=True, minus=("vocals", "bass"))
    mixture, estimates, outputs = run(plan, rng)
    np.testing.assert_allclose(outputs["no_vocals_bass"], mixture - estimates["vocals"] - estimates["bass"], atol=2e-6)


def test_a_model_of_one_stem_gives_the_rest_as_well(rng: np.random.Generator) -> None:
    plan = plan_stems(("vocals",), covers_mixture=False)
    mixture, estimates, outputs = run(plan, rng)
    assert np.array_equal(outputs["vocals"], estimates["vocals"])
    np.testing.assert_allclose(outputs["accompaniment"], mixture - estimates["vocals"], atol=1e-6)


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (("vocal", "bas"), "'bass'"),
        (("guitar",), "it gives drums, bass, other, vocals"),
        (("no_guitar",), "no stem 'guitar'"),
    ],
)
def test_unknown_stems_are_named_with_near_ones(stems: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plan_stems(FOUR, covers_mixture=True, stems=stems)


def test_residual_to_a_stem_the_model_has_not() -> None:
    with pytest.raises(OptionError, match="add:guitar"):
        plan_stems(FOUR, covers_mixture=True, residual="add:guitar")
