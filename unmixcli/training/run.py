"""Train a model of a recipe: data, network, run, result. The whole deed, and the Python API of `unmix train`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from unmixcli.cache import write_atomically
from unmixcli.checkpoint import load_model, read_state
from unmixcli.device import choose_device
from unmixcli.errors import CheckpointError, OptionError, OutputError
from unmixcli.models import architecture_class, architectures
from unmixcli.models.base import SeparationModel
from unmixcli.progress import Progress, ProgressCallback, ignore_progress
from unmixcli.registry import load_registry
from unmixcli.training import checkpoints
from unmixcli.training.distributed import Team, join_team
from unmixcli.training.export import result_paths
from unmixcli.training.feed import Feed
from unmixcli.training.loop import Trainer
from unmixcli.training.recipe import RUN_RECIPE, ModelSection, Recipe
from unmixcli.training.sources import Sources, open_sources
from unmixcli.training.validation import Measured, measure_mixture

MIXTURE_SCORES = "mixture.json"
TRACKS = "tracks.json"


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        finished: the recipe's limit was reached; False: stopped early, to be resumed.
        interrupted: by a signal.
        step: updates made.
        weights: the model's file: the average's weights with the best validation SDR (without validation: the last).
        entry: what `unmix models add WEIGHTS --config ENTRY` needs.
        best_step: where the weights are from; -1 without validation.
        sdr: stem -> validation SDR of these weights, dB.
        mixture_sdr: stem -> what the mixture itself scores.
    """

    finished: bool
    interrupted: bool
    step: int
    weights: Path
    entry: Path
    best_step: int
    sdr: Mapping[str, float]
    mixture_sdr: Mapping[str, float]


def train(
    recipe: Recipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    stop_after: float = math.inf,
    sources: Callable[[Recipe, SeparationModel], Sources] = open_sources,
    on_progress: ProgressCallback = ignore_progress,
) -> Trained:
    """Train.

    Under torchrun every process calls this; the first one writes and reports.

    Args:
        recipe: of `read_recipe`.
        folder: of the run, for checkpoint, logs and result.
        resume: go on from the folder's checkpoint, if there is one.
        overwrite: begin anew although there is one.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        stop_after: minutes of this session, after which the run waits to be resumed.
        sources: opens the recipe's data.
        on_progress: stages "train" (at each line of the log), "validate" (passages), "validated" and "warning".

    Raises:
        OptionError: settings that can't be, a network that can't be trained, a run that is there already.
        CheckpointError: weights or a checkpoint that don't fit.
        InputError: data that can't be read.
    """
    place = Path(folder)
    there = (place / checkpoints.FILE).exists()
    if there and not (resume or overwrite):
        raise OptionError(
            f"{place} holds a run already.", hint="go on with --resume, replace it with --overwrite, or name a folder."
        )
    wish = choose_device(device)
    with join_team(cuda=wish.type == "cuda") as team:
        if team.world > 1 and wish.type == "cuda":
            wish = torch.device("cuda", team.local_rank)
        told = on_progress if team.leads else ignore_progress
        return _train(recipe, place, team, wish, resume and there, stop_after, sources, told)


def _train(
    recipe: Recipe,
    folder: Path,
    team: Team,
    device: torch.device,
    resume: bool,
    stop_after: float,
    sources: Callable[[Recipe, SeparationModel], Sources],
    told: ProgressCallback,
) -> Trained:
    """`train` as one of a team; nothing that it made is left when it returns."""
    torch.manual_seed(recipe.training.seed)
    model = build_network(recipe.model)
    data = sources(recipe, model)
    for note in data.notes:
        told(Progress("warning", recipe.name, message=note))
    if team.leads:
        _prepare(folder, {RUN_RECIPE: recipe.anywhere().as_json(), TRACKS: list(data.tracks)})
    feed = Feed(
        data.items,
        batch_size=recipe.training.batch_size,
        channels=model.channels,
        rank=team.rank,
        world=team.world,
        workers=recipe.data.workers,
        threads=recipe.data.threads,
        pin=device.type == "cuda",
    )
    # Same initial weights everywhere; from here on (dropout) each process draws its own numbers.
    torch.manual_seed(recipe.training.seed + team.rank)
    trainer = Trainer(
        recipe,
        model,
        feed,
        data.passages,
        folder=folder,
        device=device,
        team=team,
        fingerprint=data.fingerprint,
        on_progress=told,
    )
    if resume:
        trainer.resume()
    mixture = _mixture(folder, recipe, data, team)
    with _stopping(trainer):
        finished = trainer.run(stop_after=stop_after)
    weights, entry = result_paths(folder, recipe)
    now = trainer.standing
    return Trained(
        finished=finished,
        interrupted=trainer.stop_requested and not finished,
        step=now.step,
        weights=weights,
        entry=entry,
        best_step=now.best_step,
        sdr=now.best_values or {},
        mixture_sdr=mixture.by_stem,
    )


def build_network(section: ModelSection) -> SeparationModel:
    """The recipe's network, with random weights or those it begins with.

    Raises:
        OptionError: an architecture that is not known or can't be trained.
        CheckpointError: settings it can't be built with, or weights that don't fit.
    """
    if section.architecture not in architectures():
        raise OptionError(
            f"the architecture {section.architecture!r} is not known; known are {', '.join(sorted(architectures()))}."
        )
    kind = architecture_class(section.architecture)
    if not kind.trainable:
        raise OptionError(
            f"{section.architecture} can't be trained.", hint="a network says so itself: see docs/howto/train.md."
        )
    model = kind.from_config(section.config, section.stems)
    if section.init:
        try:
            model.load_state_dict(_initial_state(section, kind), strict=True)
        except RuntimeError as error:
            lines = " ".join(str(error).splitlines()[1:4]).strip()
            raise CheckpointError(
                f"the weights {section.init} do not fit the recipe's network: {lines[:400]}"
            ) from error
    return model.float()


def _initial_state(section: ModelSection, kind: type[SeparationModel]) -> Mapping[str, torch.Tensor]:
    path = Path(section.init).expanduser()
    if path.is_file():
        state = checkpoints.load_average(path) if path.name == checkpoints.FILE else read_state(path)
        return kind.convert_state(section.config, {"checkpoint": state})
    entry = load_registry().get(section.init)
    if entry.architecture != section.architecture:
        raise OptionError(f"{entry.name} is of the architecture {entry.architecture}, not {section.architecture}.")
    return load_model(entry).state_dict()


def _prepare(folder: Path, notes: Mapping[str, Any]) -> None:
    """Make the run's folder, and note there what is done: file name -> JSON values."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in notes.items():
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
            write_atomically(folder / name, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error.strerror or error}.") from error


def _mixture(folder: Path, recipe: Recipe, data: Sources, team: Team) -> Measured:
    """What the mixture itself scores on the passages; computed once for a folder and its passages."""
    stems, passages = recipe.model.stems, data.passages
    if not passages or not team.leads:
        return Measured(tuple(stems))
    key = hashlib.sha256(json.dumps([stems, [passage.name for passage in passages]]).encode()).hexdigest()
    path = folder / MIXTURE_SCORES
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return Measured(tuple(stems), stored["values"])
    measured = measure_mixture(stems, passages)
    write_atomically(path, json.dumps({"key": key, "values": measured.values}, indent=2).encode("utf-8"))
    return measured


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after the step at hand, with a checkpoint; the second ends it now.

    Only the main thread may listen to signals; elsewhere `Trainer.stop_requested` is the caller's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True

    before: dict[signal.Signals, Any] = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


__all__: Sequence[str] = ("Trained", "build_network", "train")
