"""From a model's stems to the outputs asked for: every output is a weighted sum of mixture and estimates.

With x the mixture, y_1 … y_J the estimates and r = x - Σ y the residual:

    a stem, residual ignored      y_j
    a stem, residual spread       y_j + r/J          the orthogonal projection of the estimates onto {Σ y = x}
    a stem, residual added to it  y_j + r
    accompaniment, no_NAME        x - (the stem as it is written)
    residual                      x - Σ y

so a plan is a small matrix, outputs sum to the mixture by construction, and new kinds of output need no new code.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import OptionError

MIXTURE = "mixture"
RESIDUAL = "residual"

# Other words for the same thing, as people type them.
_SYNONYMS = {"vocal": "vocals", "voice": "vocals", "drum": "drums", "center": "centre", "side": "sides"}
_WITHOUT_VOCALS = ("accompaniment", "instrumental", "karaoke")


@dataclass(frozen=True)
class Output:
    """One thing to write.

    Attributes:
        name: as asked for.
        weights: source -> factor; a source is a model's stem, `MIXTURE`, or `RESIDUAL`, which is the mixture minus
            all stems that are computed.
    """

    name: str
    weights: Mapping[str, float]


@dataclass(frozen=True)
class StemPlan:
    """What to compute and what to write.

    Attributes:
        compute: the model's stems that must be computed, in the model's order.
        outputs: what to write, in the order asked.
        complete: True if all stems of a model that covers the mixture are computed, so that the residual is known.
        note: a sentence for the user where a wish could not be followed, else "".
    """

    compute: tuple[str, ...]
    outputs: tuple[Output, ...]
    complete: bool
    note: str = ""
    sources: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        used = dict.fromkeys(source for output in self.outputs for source in output.weights)
        object.__setattr__(self, "sources", tuple(used))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(output.name for output in self.outputs)

    def mix(self, mixture: NDArray[np.float32], estimates: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs of one block.

        Args:
            mixture: [C, T].
            estimates: [S, C, T] in the order of `compute`.

        Returns:
            name -> [C, T] float32. An output that is one source times one is that source bit for bit.
        """
        sources = {MIXTURE: mixture, **dict(zip(self.compute, estimates, strict=True))}
        if RESIDUAL in self.sources:
            sources[RESIDUAL] = residual_of(mixture, estimates)
        return {output.name: _weighted_sum(sources, output.weights) for output in self.outputs}


def residual_of(mixture: NDArray[np.float32], estimates: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the estimates leave over. mixture [C, T], estimates [S, C, T] -> [C, T]."""
    residual: NDArray[np.float32] = mixture - estimates[0]
    for estimate in estimates[1:]:
        residual -= estimate
    return residual


def _weighted_sum(sources: Mapping[str, NDArray[np.float32]], weights: Mapping[str, float]) -> NDArray[np.float32]:
    if not weights:
        return np.zeros_like(sources[MIXTURE])
    (first, factor), *others = weights.items()
    total = sources[first] if factor == 1.0 else sources[first] * np.float32(factor)
    for name, factor in others:
        if factor == 1.0:
            total = total + sources[name]
        elif factor == -1.0:
            total = total - sources[name]
        else:
            total = total + sources[name] * np.float32(factor)
    return total


def plan_stems(
    model_stems: Sequence[str],
    *,
    covers_mixture: bool,
    stems: Sequence[str] = (),
    minus: Sequence[str] = (),
    residual: str = "spread",
    all_for_free: bool = False,
    rest: bool = True,
) -> StemPlan:
    """Decide what to compute and how the outputs are made of it.

    Args:
        model_stems: what the model can give, in its order.
        covers_mixture: the model's stems are meant to add up to the mixture.
        stems: outputs asked for; empty for all. Beside the model's own: accompaniment (instrumental, karaoke),
            no_NAME, rest, residual, mixture.
        minus: stems to leave out; gives one output, the mixture without them.
        residual: "spread", "ignore", "add:STEM" or "file".
        all_for_free: computing some stems costs as much as computing all of them.
        rest: where no stems are asked for and the model does not cover the mixture, what it leaves over is an output.

    Raises:
        OptionError: a name that the model can't give.
    """
    every = tuple(model_stems)
    extra_target = residual.removeprefix("add:") if residual.startswith("add:") else None
    if extra_target is not None and _canonical(extra_target, every) not in every:
        raise OptionError(f"residual is {residual!r}, but the model's stems are {', '.join(every)}.")
    wanted = _wanted(every, covers_mixture or not rest, stems, minus, residual)
    needed = {member for members, _, _ in wanted.values() for member in members}
    if all_for_free or residual == "file" or extra_target is not None:
        needed = set(every)
    compute = tuple(stem for stem in every if stem in needed) or every
    complete = covers_mixture and compute == every
    spread = residual == "spread" and complete
    shares = dict.fromkeys(compute, 1.0 / len(compute) if spread else 0.0)
    if extra_target is not None:
        shares[_canonical(extra_target, every)] = 1.0
    outputs = []
    for name, (members, sign, mixture_weight) in wanted.items():
        if members == every and sign < 0:  # everything but every stem, whoever gets it otherwise
            outputs.append(Output(name, {RESIDUAL: 1.0}))
            continue
        weights = {MIXTURE: mixture_weight, **dict.fromkeys(members, sign)}
        weights[RESIDUAL] = sign * sum(shares[member] for member in members)
        outputs.append(Output(name, {source: factor for source, factor in weights.items() if factor != 0.0}))
    note = ""
    if residual == "spread" and covers_mixture and not complete and compute:
        note = f"only {', '.join(compute)} was computed, so no residual is spread"
    return StemPlan(compute, tuple(outputs), complete, note)


# name -> (stems it is made of, their sign, the mixture's factor)
_Wanted = dict[str, tuple[tuple[str, ...], float, float]]


def _wanted(
    every: tuple[str, ...], nothing_left: bool, stems: Sequence[str], minus: Sequence[str], residual: str
) -> _Wanted:
    wanted: _Wanted = {}
    if minus:
        members = tuple(dict.fromkeys(_member(name, every) for name in minus))
        wanted["no_" + "_".join(minus)] = (members, -1.0, 1.0)
    elif stems:
        for name in stems:
            wanted[name] = _resolve(name, every)
    else:
        wanted = {stem: ((stem,), 1.0, 0.0) for stem in every}
        if not nothing_left:
            rest = "accompaniment" if every == ("vocals",) else "rest"
            wanted[rest] = (every, -1.0, 1.0)
    if residual == "file":
        wanted["residual"] = (every, -1.0, 1.0)
    return wanted


def _resolve(name: str, every: tuple[str, ...]) -> tuple[tuple[str, ...], float, float]:
    canonical = _canonical(name, every)
    if canonical in every:
        return (canonical,), 1.0, 0.0
    if name in _WITHOUT_VOCALS and "vocals" in every:
        return ("vocals",), -1.0, 1.0
    if name.startswith("no_"):
        return (_member(name[3:], every),), -1.0, 1.0
    if name in ("residual", "rest"):
        return every, -1.0, 1.0
    if name == MIXTURE:
        return (), 1.0, 1.0
    raise _unknown(name, every)


def _member(name: str, every: tuple[str, ...]) -> str:
    canonical = _canonical(name, every)
    if canonical not in every:
        raise _unknown(name, every)
    return canonical


def _canonical(name: str, every: tuple[str, ...]) -> str:
    return name if name in every else _SYNONYMS.get(name, name)


def _unknown(name: str, every: tuple[str, ...]) -> OptionError:
    can = [*every, *(f"no_{stem}" for stem in every)]
    if "vocals" in every:
        can += ["accompaniment"]
    near = difflib.get_close_matches(name, can, n=1)
    question = f" Did you mean {near[0]!r}?" if near else ""
    return OptionError(
        f"this model has no stem {name!r}; it gives {', '.join(every)}.{question}",
        hint="`unmix models list --stem NAME` shows the models that give a stem.",
    )
