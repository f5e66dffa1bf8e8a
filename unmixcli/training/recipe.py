"""A recipe: everything that decides what a training run computes, read from TOML with every value checked.

Sections are dataclasses, keys are their fields. Recipes that come with the program stand in `recipes/`; any of them is
called by its name. A path in a recipe file is taken from the folder of that file.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, Union

from unmixcli.errors import OptionError
from unmixcli.registry_parse import check_name
from unmixcli.training.losses import Loss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

RECIPES = Path(__file__).parent / "recipes"
# A run's recipe as JSON, in its folder.
RUN_RECIPE = "recipe.json"


def _check(section: str, *rules: tuple[bool, str]) -> None:
    for valid, message in rules:
        if not valid:
            raise OptionError(f"[{section}] {message}.")


@dataclass(frozen=True)
class ModelSection:
    """Which network.

    Attributes:
        architecture: a row of the table of architectures that can be trained.
        stems: what it shall give, in order.
        config: the architecture's own settings.
        init: weights to start from: a file, or the name of a model of the registry; "": random ones.
    """

    architecture: str
    stems: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    init: str = ""

    def __post_init__(self) -> None:
        _check(
            "model",
            (bool(self.stems), "stems is empty, expected at least one"),
            (len(set(self.stems)) == len(self.stems), "stems has a name twice"),
        )


@dataclass(frozen=True)
class DataSection:
    """What to learn from.

    Attributes:
        train: folders of tracks.
        validation: folders of tracks to measure on; empty: tracks of `train` that are held out, or marked so by
            their data set.
        hold_out: names of tracks of `train` to measure on and not learn from.
        hold_out_count: where none of these gives any: so many tracks are held out, the last by name.
        layout: how the folders are laid out; "auto" finds out.
        tracks: what is to be known of single tracks: name -> unknown, weight, split, as in a `track.json`.
        pack: folder in which the tracks to learn from are kept decoded (see `training.packed`), made at the first run;
            "": they are read from their files.
        seconds: length of an excerpt.
        augmentations: each a table with `kind` and its settings; see `unmixcli.training.augment`.
        cross_track: share of the excerpts whose stems come from different tracks and places.
        keep_silent: probability of keeping a stem that is silent in an excerpt; see `Excerpts`.
        unknown: "skip" tracks with a stem that is not known, or "mask" that stem in the loss.
        bleed: take tracks whose stems hold something of each other, too.
        workers: processes that prepare excerpts; 0: threads of this process.
        threads: with workers = 0.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    hold_out_count: int = 0
    layout: str = "auto"
    tracks: Mapping[str, Any] = field(default_factory=dict)
    pack: str = ""
    seconds: float = 6.0
    augmentations: tuple[Mapping[str, Any], ...] = ()
    cross_track: float = 0.0
    keep_silent: float = 0.1
    unknown: str = "skip"
    bleed: bool = False
    workers: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        _check(
            "data",
            (0 < self.seconds <= 600, f"seconds is {self.seconds}, expected more than 0 and at most 600"),
            (0 <= self.cross_track <= 1, f"cross_track is {self.cross_track}, expected 0 to 1"),
            (0 <= self.keep_silent <= 1, f"keep_silent is {self.keep_silent}, expected 0 to 1"),
            (self.unknown in ("skip", "mask"), f"unknown is {self.unknown!r}, expected skip or mask"),
            (self.hold_out_count >= 0, f"hold_out_count is {self.hold_out_count}, expected 0 or more"),
            (0 <= self.workers <= 256, f"workers is {self.workers}, expected 0 to 256"),
            (1 <= self.threads <= 64, f"threads is {self.threads}, expected 1 to 64"),
        )


@dataclass(frozen=True)
class OptimiserSection:
    """How weights move.

    Attributes:
        kind: "adamw" (Loshchilov & Hutter, 1711.05101) or "lbfgs" (whole batches; strong Wolfe line search).
        learning_rate: at full height of the schedule; None: 1e-3 (adamw), 1 (lbfgs).
        weight_decay: of matrices and kernels, not of biases and gains (adamw).
        betas: decay of the first and second moment (adamw).
        history: of updates kept (lbfgs).
        iterations: at most, on each batch (lbfgs).
    """

    kind: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    history: int = 50
    iterations: int = 20

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", 1e-3 if self.kind == "adamw" else 1.0)
        _check(
            "optimiser",
            (self.kind in ("adamw", "lbfgs"), f"kind is {self.kind!r}, expected adamw or lbfgs"),
            ((self.learning_rate or 0) > 0, f"learning_rate is {self.learning_rate}, expected more than 0"),
            (self.weight_decay >= 0, f"weight_decay is {self.weight_decay}, expected 0 or more"),
            (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), f"betas is {self.betas}, expected two < 1"),
            (self.history >= 1 and self.iterations >= 1, "history and iterations must be 1 or more"),
        )


@dataclass(frozen=True)
class ScheduleSection:
    """The learning rate over the run.

    Attributes:
        kind: "constant", "cosine" (half a wave down to `floor`) or "plateau" (falls when validation does not rise).
        warmup: steps in which the rate rises to its full height.
        floor: where cosine ends and plateau stops falling, as a fraction of the full rate.
        factor: of one fall (plateau).
        patience: validations without a better score before a fall (plateau).
    """

    kind: str = "cosine"
    warmup: int = 0
    floor: float = 0.0
    factor: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        kinds = ("constant", "cosine", "plateau")
        _check(
            "schedule",
            (self.kind in kinds, f"kind is {self.kind!r}, expected {', '.join(kinds)}"),
            (self.warmup >= 0, f"warmup is {self.warmup}, expected 0 steps or more"),
            (0 <= self.floor <= 1, f"floor is {self.floor}, expected 0 to 1"),
            (0 < self.factor < 1, f"factor is {self.factor}, expected more than 0 and less than 1"),
            (self.patience >= 1, f"patience is {self.patience}, expected 1 or more"),
        )


@dataclass(frozen=True)
class TrainingSection:
    """How long and how large.

    Attributes:
        steps: updates of the weights; 0: no limit.
        minutes: of wall clock, validation included, over all sessions of the run; 0: no limit.
        batch_size: excerpts in one forward pass, of one process.
        accumulate: forward passes for one step.
        clip: largest norm of the gradient; 0: any.
        ema: decay of the moving average of the weights; 0: none.
        precision: "fp32", "tf32", "bf16" or "fp16" (CUDA only, with a scaler).
        seed: of initial weights, excerpts and everything else random.
        log_every: steps between lines of the log.
        checkpoint_minutes: between checkpoints.
        checkpoint_steps: between checkpoints as well; 0: by the clock only.
        stem_weights: factor of each stem's loss; empty: all the same.
    """

    steps: int = 0
    minutes: float = 0.0
    batch_size: int = 4
    accumulate: int = 1
    clip: float = 0.0
    ema: float = 0.999
    precision: str = "fp32"
    seed: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    stem_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        words = ("fp32", "tf32", "bf16", "fp16")
        _check(
            "training",
            (self.steps > 0 or self.minutes > 0, "neither steps nor minutes says when to stop"),
            (self.steps >= 0 and self.minutes >= 0, "steps and minutes must be 0 or more"),
            (self.batch_size >= 1, f"batch_size is {self.batch_size}, expected 1 or more"),
            (self.accumulate >= 1, f"accumulate is {self.accumulate}, expected 1 or more"),
            (self.clip >= 0, f"clip is {self.clip}, expected 0 (none) or more"),
            (0 <= self.ema < 1, f"ema is {self.ema}, expected 0 (none) or more and less than 1"),
            (self.precision in words, f"precision is {self.precision!r}, expected {', '.join(words)}"),
            (0 <= self.seed < 2**63, f"seed is {self.seed}, expected 0 or more"),
            (self.log_every >= 1, f"log_every is {self.log_every}, expected 1 or more"),
            (self.checkpoint_minutes > 0, f"checkpoint_minutes is {self.checkpoint_minutes}, expected more than 0"),
            (self.checkpoint_steps >= 0, f"checkpoint_steps is {self.checkpoint_steps}, expected 0 or more"),
            (all(weight >= 0 for weight in self.stem_weights), "stem_weights has a value below 0"),
        )


@dataclass(frozen=True)
class ValidationSection:
    """When and on what to measure.

    Attributes:
        steps: between measurements; 0: only by the clock, and at the end.
        minutes: between measurements; 0: only by steps, and at the end.
        seconds: length of an excerpt; 0: whole songs.
        excerpts: of each song, evenly spread.
    """

    steps: int = 0
    minutes: float = 0.0
    seconds: float = 0.0
    excerpts: int = 1

    def __post_init__(self) -> None:
        _check(
            "validation",
            (self.steps >= 0 and self.minutes >= 0, "steps and minutes must be 0 or more"),
            (self.seconds >= 0, f"seconds is {self.seconds}, expected 0 (whole songs) or more"),
            (1 <= self.excerpts <= 1000, f"excerpts is {self.excerpts}, expected 1 to 1000"),
            (self.seconds > 0 or self.excerpts == 1, "excerpts needs seconds, the length of each"),
        )


@dataclass(frozen=True)
class ResultSection:
    """The model that comes out.

    Attributes:
        name: in the registry; "": the recipe's.
        title: for lists; "": made of the name.
        precision: of the weights file, "fp32" or "fp16".
        licence: of the weights.
        training_data: what it was trained on, for the registry.
        notes: further sentences for the registry.
    """

    name: str = ""
    title: str = ""
    precision: str = "fp32"
    licence: str = "unknown"
    training_data: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(
            "result",
            (self.precision in ("fp32", "fp16"), f"precision is {self.precision!r}, expected fp32 or fp16"),
            (bool(self.licence), 'licence is empty, expected its name, or "unknown"'),
        )


@dataclass(frozen=True)
class Recipe:
    """See the sections. `about` is its line in `unmix train --list`."""

    name: str
    model: ModelSection
    loss: tuple[Loss, ...]
    training: TrainingSection
    about: str = ""
    data: DataSection = field(default_factory=DataSection)
    optimiser: OptimiserSection = field(default_factory=OptimiserSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    result: ResultSection = field(default_factory=ResultSection)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_name(self.result.name or self.name)
        lbfgs = self.optimiser.kind == "lbfgs"
        weights = self.training.stem_weights
        _check(
            "training",
            (not weights or len(weights) == len(self.model.stems), f"stem_weights has {len(weights)} values, expected "
             f"one for each of {', '.join(self.model.stems)}"),
            (not weights or any(weights), "stem_weights are all 0"),
            (not (lbfgs and self.training.precision == "fp16"), "precision fp16 does not go with lbfgs"),
            (not (lbfgs and self.training.clip), "clip does not go with lbfgs, whose line search needs true gradients"),
        )  # fmt: skip
        if not self.loss:
            raise OptionError("the recipe has no loss.", hint="add a [[loss]] table.")

    @property
    def model_name(self) -> str:
        """Name of the model that comes out."""
        return self.result.name or self.name

    def as_json(self) -> dict[str, Any]:
        """All settings as plain values."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def anywhere(self) -> Recipe:
        """The same with whole paths, to be read from another folder."""

        def whole(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(str(Path(path).resolve()) for path in paths)

        init = self.model.init
        return replace(
            self,
            data=replace(
                self.data,
                train=whole(self.data.train),
                validation=whole(self.data.validation),
                pack="".join(whole((self.data.pack,))) if self.data.pack else "",
            ),
            model=replace(self.model, init=str(Path(init).resolve()) if init and Path(init).is_file() else init),
        )


def list_recipes() -> list[Recipe]:
    """The recipes that come with the program."""
    return [read_recipe(path.stem) for path in sorted(RECIPES.glob("*.toml"))]


def read_recipe(source: str | Path, *, settings: Sequence[str] = ()) -> Recipe:
    """A recipe by its file, or by its name if it comes with the program.

    Args:
        source: path or name; the folder of a run stands for the recipe it was begun with.
        settings: `SECTION.KEY=VALUE` to use instead of the file's, VALUE as in TOML (a text may stand bare).

    Raises:
        OptionError: no such recipe, not TOML, an unknown key or a value that can't be; with the reason.
    """
    path, base = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"{path} can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # both parsers' errors and the decoder's
        raise OptionError(f"{path} is not {path.suffix[1:].upper()}: {error}.") from error
    if not isinstance(values, dict):
        raise OptionError(f"{path} is no recipe.")
    for setting in settings:
        _lay_over(values, setting)
    try:
        recipe = parse_recipe({"name": path.stem, **values})
    except OptionError as error:
        raise OptionError(f"{path.name}: {error}", hint=error.hint) from error
    return _with_paths_from(recipe, base) if base is not None else recipe


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from TOML's values.

    Raises:
        OptionError: an unknown or missing key, or a value that can't be.
    """
    return _build(Recipe, values, "")


def _find(source: str | Path) -> tuple[Path, Path | None]:
    path = Path(source)
    if (path / RUN_RECIPE).is_file():
        return path / RUN_RECIPE, None  # its paths are whole
    if path.suffix == ".toml" or path.is_file():
        return path, path.parent
    names = sorted(known.stem for known in RECIPES.glob("*.toml"))
    if str(source) not in names:
        near = difflib.get_close_matches(str(source), names, n=1)
        question = f" Did you mean {near[0]!r}?" if near else ""
        raise OptionError(
            f"there is no recipe {str(source)!r}; the program has {', '.join(names)}.{question}",
            hint="name one of these, or the path of a .toml file.",
        )
    return RECIPES / f"{source}.toml", None


def _lay_over(values: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise OptionError(f"{setting!r} is no setting, expected SECTION.KEY=VALUE, for instance training.steps=100.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target: Any = values
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise OptionError(f"{setting!r}: {key} is not a section with keys.")
    target[keys[-1]] = value


def _with_paths_from(recipe: Recipe, base: Path) -> Recipe:
    def here(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(base / Path(path).expanduser()) for path in paths)

    init = recipe.model.init
    near = base / Path(init).expanduser()
    return replace(
        recipe,
        data=replace(
            recipe.data,
            train=here(recipe.data.train),
            validation=here(recipe.data.validation),
            pack="".join(here((recipe.data.pack,))) if recipe.data.pack else "",
        ),
        model=replace(recipe.model, init=str(near) if init and near.is_file() else init),
    )


# ---------------------------------------------------------------- values to dataclasses


def _build(kind: type[T], values: Any, where: str) -> T:
    """A dataclass of TOML's values; its annotations say what is expected."""
    if not isinstance(values, Mapping):
        raise OptionError(f"{where or 'the recipe'} is {values!r}, expected a table.")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            question = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"{_path(where, key)} is not known; there are {', '.join(known)}.{question}")
    missing = [
        name
        for name, item in known.items()
        if name not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"{_path(where, missing[0])} is missing.")
    return kind(**{key: _value(hints[key], value, _path(where, key)) for key, value in values.items()})


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _value(expected: Any, value: Any, where: str) -> Any:
    """`value` as the annotation says, or a reason why not."""
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return _value(inner[0], value, where)
    if dataclasses.is_dataclass(expected):
        return _build(expected, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_value(inner[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    if expected in words:
        if type(value) is not expected:
            raise OptionError(f"{where} is {value!r}, expected {words[expected]}.")
    elif not isinstance(value, Mapping):
        raise OptionError(f"{where} is {value!r}, expected a table.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
