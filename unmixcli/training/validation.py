"""Measure a model as a user would hear it: plain SDR per stem, through the program's own pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.evaluation.metrics import PLAIN_DELTA, median
from unmixcli.models.base import SeparationModel
from unmixcli.options import Options
from unmixcli.pipeline import separate_blocks
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.runner import Runner
from unmixcli.separator import ArraySource
from unmixcli.stems import plan_stems

Samples = NDArray[np.float32]

# A reference this far below its mixture is as good as silent: its SDR says nothing of how a song sounds.
_QUIET_DB = -60.0


@dataclass(frozen=True)
class Passage:
    """A song or a part of one, with the truth.

    Attributes:
        name: for messages.
        sample_rate: Hz.
        read: gives the mixture [C, T] and the references that are known, stem -> [C, T].
    """

    name: str
    sample_rate: int
    read: Callable[[], tuple[Samples, Mapping[str, Samples]]]


@dataclass(frozen=True)
class Measured:
    """Scores of all passages.

    Attributes:
        values: passage -> stem -> SDR in dB; only what is defined.
        stems: the model's, in order.
    """

    stems: tuple[str, ...]
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, stem: str) -> float:
        """Median over the passages, dB; NaN where a stem is never defined."""
        return median([scores[stem] for scores in self.values.values() if stem in scores])

    @property
    def by_stem(self) -> dict[str, float]:
        """Median of every stem."""
        return {stem: self.of(stem) for stem in self.stems}

    @property
    def score(self) -> float:
        """Mean over the stems that are defined: the number by which the best weights are chosen."""
        values = [value for value in self.by_stem.values() if math.isfinite(value)]
        return sum(values) / len(values) if values else math.nan


def measure(
    model: SeparationModel,
    passages: Sequence[Passage],
    *,
    device: torch.device,
    subject: str = "",
    on_progress: ProgressCallback = ignore_progress,
) -> Measured:
    """Separate every passage and score it.

    Args:
        model: in evaluation mode; it is left on `device`.
        passages: read one after the other, none is kept.
        device: where the model runs.
        subject: name in progress events.
        on_progress: told after every passage.
    """
    threads = torch.get_num_threads()
    runner = Runner(model, device)
    plan = plan_stems(model.stems, covers_mixture=model.covers_mixture, stems=model.stems)
    values = {}
    for number, passage in enumerate(passages):
        mixture, references = passage.read()
        model.hint(_stacked(references, model.stems))
        source = ArraySource(mixture, passage.sample_rate, passage.name)
        values[passage.name] = _scores(references, mixture, separate_blocks(source, runner, plan, Options()))
        on_progress(Progress("validate", subject, number + 1, len(passages), "passages"))
    # A pipeline that ran segments side by side has told torch to use fewer; training must add up as before.
    torch.set_num_threads(threads)
    return Measured(tuple(model.stems), values)


def _stacked(references: Mapping[str, Samples], stems: Sequence[str]) -> Tensor:
    """[1, S, C, T]; silence where a reference is not known."""
    some = next(iter(references.values()), np.zeros((1, 1), np.float32))
    return torch.from_numpy(np.stack([references.get(stem, np.zeros_like(some)) for stem in stems])[None])


def measure_mixture(stems: Sequence[str], passages: Sequence[Passage]) -> Measured:
    """What the mixture itself scores as every stem: where a model begins to be of use."""
    values = {}
    for passage in passages:
        mixture, references = passage.read()
        values[passage.name] = _scores(references, mixture, [dict.fromkeys(stems, mixture)])
    return Measured(tuple(stems), values)


def _scores(
    references: Mapping[str, Samples], mixture: Samples, estimates: Iterable[Mapping[str, Samples]]
) -> dict[str, float]:
    """Plain SDR as `evaluation.metrics.plain_sdr` has it, from blocks of estimates: a song's are never held at once."""
    heard = _energy(mixture) * 10 ** (_QUIET_DB / 10)
    signal = {stem: energy for stem, samples in references.items() if (energy := _energy(samples)) > heard}
    errors: dict[str, float] = {}
    position = 0
    for block in estimates:
        length = 0
        for stem, samples in block.items():
            length = samples.shape[-1]
            if stem in signal:
                error = references[stem][:, position : position + length] - samples
                errors[stem] = errors.get(stem, 0.0) + _energy(error)
        position += length
    return {
        stem: 10 * math.log10((signal[stem] + PLAIN_DELTA) / (error + PLAIN_DELTA)) for stem, error in errors.items()
    }


def _energy(samples: Samples) -> float:
    return float(np.einsum("ct,ct->", samples, samples, dtype=np.float64))
