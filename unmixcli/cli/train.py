"""`unmix train`: train a network of a recipe, from nothing or from weights, and go on after a stop."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmixcli.cli import _terminal

if TYPE_CHECKING:
    from unmixcli.progress import Progress
    from unmixcli.training.recipe import Recipe
    from unmixcli.training.run import Trained

# Validation passages are told one by one only where there are few and long ones.
_MANY = 12


@click.command()
@click.argument("recipe", required=False, metavar="RECIPE")
@click.option("--list", "listed", is_flag=True, help="List the recipes that come with the program.")
@click.option("--data", multiple=True, type=click.Path(file_okay=False), metavar="FOLDER",
              help="Learn from these tracks (repeatable); replaces the recipe's own.")  # fmt: skip
@click.option("--validation", multiple=True, type=click.Path(file_okay=False), metavar="FOLDER",
              help="Measure on these tracks (repeatable); never learnt from.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="FOLDER",
              help="Folder of the run (default: runs/NAME).")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint, if it has one.")
@click.option("--overwrite", is_flag=True, help="Begin anew although the folder holds a run.")
@click.option("--init", metavar="WEIGHTS", help="Start from these weights: a file, or a model of the registry.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after this many steps.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), metavar="N",
              help="Stop after this many minutes, all sessions of the run together.")  # fmt: skip
@click.option("--stop-after", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES",
              help="End this session with a checkpoint after so long; --resume goes on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of weights and excerpts.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change one setting of the recipe, for instance training.batch_size=8 (repeatable).")  # fmt: skip
@click.option("--show", is_flag=True, help="Print the settings as JSON and train nothing.")
@_terminal.verbosity_options
def train(
    recipe: str | None, listed: bool, data: tuple[str, ...], validation: tuple[str, ...], output: str | None,
    resume: bool, overwrite: bool, init: str | None, steps: int | None, minutes: float | None,
    stop_after: float | None, seed: int | None, device: str, settings: tuple[str, ...], show: bool,
) -> None:  # fmt: skip
    """Train a network.

    RECIPE is a TOML file, the name of a recipe that comes with the program, or the folder of a run to go on with. That
    folder gets checkpoints, logs, curves, and the model: NAME.safetensors and NAME.json, always the best weights so
    far. Ctrl-C ends the run after the step at hand; so does SIGTERM. The exit code is then 130, and --resume goes on.

    \b
        unmix train cc0_demo --data songs/
        unmix train runs/mine --resume
        unmix models add runs/mine/mine.safetensors --config runs/mine/mine.json
        torchrun --nproc-per-node 2 -m unmixcli train mine.toml
    """
    from unmixcli.training.recipe import list_recipes

    if listed:
        for known in list_recipes():
            click.echo(f"{known.name:<20} {known.about}")
        return
    if recipe is None:
        raise click.UsageError("which RECIPE? A .toml file, or a name of `unmix train --list`.")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite were both given.")
    chosen = _read(recipe, data, validation, init, steps, minutes, seed, settings)
    if show:
        import json

        click.echo(json.dumps(chosen.as_json(), indent=2, ensure_ascii=False))
        return
    from unmixcli.cli._memory import keep_freed_memory

    keep_freed_memory()
    from unmixcli.training.run import train as run

    folder = Path(output) if output else Path(recipe) if Path(recipe).is_dir() else Path("runs") / chosen.name
    trained = run(
        chosen, folder, resume=resume, overwrite=overwrite, device=device,
        stop_after=math.inf if stop_after is None else stop_after, on_progress=_told,
    )  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        _report(trained)
    click.get_current_context().exit(130 if trained.interrupted else 0)


def _read(
    name: str, data: tuple[str, ...], validation: tuple[str, ...], init: str | None, steps: int | None,
    minutes: float | None, seed: int | None, settings: tuple[str, ...],
) -> Recipe:  # fmt: skip
    """The recipe with what the command line says laid over it."""
    from dataclasses import replace

    from unmixcli.training.recipe import read_recipe

    numbers = {"training.steps": steps, "training.minutes": minutes, "training.seed": seed}
    over = [*settings, *(f"{key}={value}" for key, value in numbers.items() if value is not None)]
    recipe = read_recipe(name, settings=over)
    # Paths of the command line are taken from the current folder, those of a recipe from the recipe's.
    section = recipe.data
    section = replace(section, train=data or section.train, validation=validation or section.validation)
    return replace(recipe, data=section, model=replace(recipe.model, init=init or recipe.model.init))


def _told(event: Progress) -> None:
    if event.stage == "train":
        total = f"/{event.total:.0f}" if event.total else ""
        _terminal.note(f"step {event.done:.0f}{total}: {event.message}")
    elif event.stage == "validate":
        if event.total is not None and event.total <= _MANY and _terminal.verbosity() > 0:
            _terminal.note(f"measured {event.done:.0f} of {event.total:.0f}")
    elif event.stage == "validated":
        _terminal.note(f"step {event.done:.0f}: {event.message}")
    elif event.message:
        _terminal.note(f"note: {event.message}")


def _report(trained: Trained) -> None:
    state = "finished" if trained.finished else "stopped; --resume goes on"
    _terminal.note(f"{state} after step {trained.step}.")
    if trained.sdr:
        rows = [
            f"{stem} {value:.2f} dB (mixture {trained.mixture_sdr.get(stem, math.nan):.2f})"
            for stem, value in trained.sdr.items()
            if math.isfinite(value)
        ]
        _terminal.note(f"best at step {trained.best_step}, validation SDR: {', '.join(rows)}")
    if trained.weights.is_file():
        _terminal.note(f"to use it: unmix models add {trained.weights} --config {trained.entry}")
        _terminal.result(str(trained.weights))
