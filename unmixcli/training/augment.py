"""Augmentations: a table of them, and a chain of some as a recipe asks.

Each is one function `f(audio [..., 2, T], rng, *, sample_rate, settings) -> [..., 2, T]`, a pure function of the audio
and of the random generator. An axis before the channels is the stems. To spare memory, whose first touch costs more
than the arithmetic, the functions may work in place: the audio handed in is theirs.

    [[data.augmentations]]
    kind = "gain"           # a row of AUGMENTATIONS
    probability = 1.0       # of being done to an item
    low_db = -10            # settings of the function, by name
    high_db = 3

Mixture and stems stay true to each other in one of three ways, the `scope` of a row:

    stems    each stem is changed by itself (or all in the same linear way); the mixture is their sum afterwards
    bus      the gain at every sample is found on the mixture, as a mastering engineer's tools do, and every stem is
             multiplied by it: their sum is the mastered mixture
    mixture  only the mixture changes; the stems stay what they were, and their sum is the mixture no more

New ones: write the function, add a row.
"""

from __future__ import annotations

import difflib
import inspect
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmixcli.errors import OptionError

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """A row of the table.

    Attributes:
        function: "module:name".
        scope: "stems", "bus" or "mixture", see the head of the module.
        stretches: the function changes how long sound lasts: it takes `length`, and wants audio longer than that by
            the factor that its `stretch(settings)` gives.
    """

    function: str
    scope: str
    stretches: bool = False

    def load(self) -> Callable[..., Samples]:
        """The function."""
        module, name = self.function.split(":")
        loaded: Callable[..., Samples] = getattr(import_module(module), name)
        return loaded


_LINEAR = "unmixcli.training.augment_linear:"
_DYNAMICS = "unmixcli.training.augment_dynamics:"
_STRETCH = "unmixcli.training.augment_stretch:"

AUGMENTATIONS: dict[str, Augmentation] = {
    "gain": Augmentation(_LINEAR + "gain", "stems"),
    "balance": Augmentation(_LINEAR + "balance", "stems"),
    "polarity": Augmentation(_LINEAR + "polarity", "stems"),
    "channel_swap": Augmentation(_LINEAR + "channel_swap", "stems"),
    "width": Augmentation(_LINEAR + "width", "stems"),
    "mute": Augmentation(_LINEAR + "mute", "stems"),
    "circular_shift": Augmentation(_LINEAR + "circular_shift", "stems"),
    "eq": Augmentation(_LINEAR + "eq", "stems"),
    "band_limit": Augmentation(_LINEAR + "band_limit", "stems"),
    "reverb": Augmentation(_LINEAR + "reverb", "stems"),
    "compressor": Augmentation(_DYNAMICS + "compressor", "stems"),
    "bus_compressor": Augmentation(_DYNAMICS + "bus_compressor", "bus"),
    "limiter": Augmentation(_DYNAMICS + "limiter", "bus"),
    "clipper": Augmentation(_DYNAMICS + "clipper", "bus"),
    "speed": Augmentation(_STRETCH + "speed", "stems", stretches=True),
    "pitch_tempo": Augmentation(_STRETCH + "pitch_tempo", "stems", stretches=True),
    "codec": Augmentation("unmixcli.training.augment_codec:codec", "mixture"),
}


@dataclass(frozen=True)
class _Step:
    kind: str
    probability: float
    settings: Mapping[str, Any]
    key: tuple[int, int]  # tells its random numbers from those of every other step

    def rng(self, seed: int, index: int) -> np.random.Generator:
        return np.random.default_rng((seed, index, *self.key))


class Chain:
    """Augmentations in order.

    Args:
        entries: tables with `kind`, `probability` (1 if it isn't there) and settings.
        sample_rate: Hz.

    Raises:
        OptionError: an unknown kind or setting, a value that can't be, or a kind that works on the mixture before one
            that works on stems.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]], sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.steps: list[_Step] = []
        for entry in entries:
            self.steps.append(self._step(entry))
        scopes = [AUGMENTATIONS[step.kind].scope for step in self.steps]
        if "mixture" in scopes and set(scopes[scopes.index("mixture") :]) != {"mixture"}:
            late = self.steps[scopes.index("mixture")].kind
            raise OptionError(f"augmentation {late!r} changes the mixture alone and must come after those of stems.")
        if sum(AUGMENTATIONS[step.kind].stretches for step in self.steps) > 1:
            raise OptionError("two augmentations that change the tempo can't be in one chain (speed, pitch_tempo).")
        self._try_out()

    def _step(self, entry: Mapping[str, Any]) -> _Step:
        settings = dict(entry)
        kind = settings.pop("kind", None)
        if kind not in AUGMENTATIONS:
            near = difflib.get_close_matches(str(kind), AUGMENTATIONS, n=1)
            question = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"augmentation kind is {kind!r}, expected {', '.join(AUGMENTATIONS)}.{question}")
        probability = settings.pop("probability", 1.0)
        if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
            raise OptionError(f"augmentation {kind}: probability is {probability!r}, expected 0 to 1.")
        defaults = settings_of(kind)
        for name, value in settings.items():
            if name not in defaults:
                some = ", ".join(defaults) or "none"
                raise OptionError(f"augmentation {kind} has no setting {name!r}; it has {some}.")
            if not _fits(value, defaults[name]):
                raise OptionError(f"augmentation {kind}: {name} is {value!r}, expected one like {defaults[name]!r}.")
        before = sum(step.kind == kind for step in self.steps)
        return _Step(kind, float(probability), settings, (zlib.crc32(kind.encode()), before))

    def _try_out(self) -> None:
        """Run every step once on a moment of noise, so that values that can't be are told before the training."""
        noise = np.random.default_rng(0).standard_normal((2, 2, max(64, self.sample_rate // 10))).astype(np.float32)
        for step in self.steps:
            try:
                self._run(step, noise * np.float32(0.1), step.rng(0, 0), noise.shape[-1] // 8)
            except ValueError as error:
                raise OptionError(f"augmentation {step.kind}: {error}.") from error

    def read_length(self, length: int, seed: int, index: int) -> int:
        """Samples that item `index` needs so that `length` are left after all steps."""
        for step in self.steps:
            if AUGMENTATIONS[step.kind].stretches and step.rng(seed, index).random() < step.probability:
                module = import_module(AUGMENTATIONS[step.kind].function.split(":")[0])
                factor: float = module.stretch(step.kind, {**settings_of(step.kind), **step.settings})
                return math.ceil(length * factor) + 1
        return length

    def __call__(self, audio: Samples, seed: int, index: int, *, length: int | None = None) -> tuple[Samples, Samples]:
        """Augment an item.

        Args:
            audio: [S, 2, T] with T as `read_length` says; it may be changed.
            seed, index: of the item: the same give the same.
            length: samples that the item shall have; None: T.

        Returns:
            [S, 2, length] and its mixture [2, length].
        """
        wanted = audio.shape[-1] if length is None else length
        mixture: Samples | None = None
        for step in self.steps:
            rng = step.rng(seed, index)
            if rng.random() >= step.probability:
                continue
            if AUGMENTATIONS[step.kind].scope == "mixture":
                mixture = self._run(step, audio.sum(axis=0) if mixture is None else mixture, rng, wanted)
            else:
                audio = self._run(step, audio, rng, wanted)
        return audio, audio.sum(axis=0) if mixture is None else mixture

    def _run(self, step: _Step, audio: Samples, rng: np.random.Generator, length: int) -> Samples:
        row = AUGMENTATIONS[step.kind]
        extra = {"length": length} if row.stretches else {}
        return row.load()(audio, rng, sample_rate=self.sample_rate, **extra, **step.settings)


def settings_of(kind: str) -> dict[str, Any]:
    """Settings of an augmentation with their defaults."""
    names = inspect.signature(AUGMENTATIONS[kind].load()).parameters.values()
    return {
        item.name: item.default
        for item in names
        if item.kind is inspect.Parameter.KEYWORD_ONLY and item.name not in ("sample_rate", "length")
    }


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of its default's kind."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple)) and all(isinstance(item, type(default[0])) for item in value)
    return isinstance(value, type(default))
