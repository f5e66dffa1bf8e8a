"""What a run gives: weights as safetensors, and the entry with which `unmix models add` makes them a model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unmixcli import __version__
from unmixcli.cache import write_atomically
from unmixcli.checkpoint import save_tensors
from unmixcli.errors import ModelError, OutputError
from unmixcli.models.base import SeparationModel
from unmixcli.registry_parse import parse_entry
from unmixcli.training.recipe import Recipe

if TYPE_CHECKING:
    from unmixcli.training.loop import Standing


def result_paths(folder: Path, recipe: Recipe) -> tuple[Path, Path]:
    """Where the weights and the entry of a run lie."""
    return folder / f"{recipe.model_name}.safetensors", folder / f"{recipe.model_name}.json"


def write_result(
    folder: Path, recipe: Recipe, model: SeparationModel, standing: Standing, passages: int
) -> tuple[Path, Path]:
    """Write weights and entry, each whole or not at all.

    Raises:
        ModelError: a weight that is not a number, or too large for fp16.
        OutputError: the folder can't be written.
    """
    weights, entry = result_paths(folder, recipe)
    values = result_entry(recipe, model, standing, passages)
    tensors = _converted(model.state_dict(), recipe.result.precision)
    try:
        save_tensors(tensors, weights, metadata={"format": "pt", "model": recipe.model_name})
        write_atomically(entry, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error.strerror or error}.") from error
    return weights, entry


def result_entry(recipe: Recipe, model: SeparationModel, standing: Standing, passages: int) -> dict[str, Any]:
    """The registry entry, without files (they are added with it)."""
    section, result = recipe.training, recipe.result
    values: dict[str, Any] = {
        "name": recipe.model_name,
        "title": result.title or f"{recipe.model_name}, trained with the recipe {recipe.name}",
        "architecture": recipe.model.architecture,
        "config": recipe.as_json()["model"]["config"],
        "stems": list(model.stems),
        "sample_rate": model.sample_rate,
        "channels": model.channels,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "licence": {"name": result.licence, "source": f"the recipe {recipe.name}"},
        "training_data": result.training_data or "own tracks",
        "notes": [
            f"trained with unmixcli {__version__}, recipe {recipe.name}, seed {section.seed}: step {standing.step}, "
            f"{standing.position} excerpts of {recipe.data.seconds:g} s, {standing.minutes:.1f} minutes"
            f"{', beginning with ' + Path(recipe.model.init).name if recipe.model.init else ''}",
            *result.notes,
        ],
    }
    if not model.covers_mixture and type(model).covers_mixture and len(model.stems) > 1:
        values["covers_mixture"] = False
    scores = {stem: value for stem, value in (standing.best_values or {}).items() if math.isfinite(value)}
    if scores:
        seconds = recipe.validation.seconds
        what = f"excerpts of {seconds:g} s" if seconds else "whole songs"
        rounded = {stem: round(value, 3) for stem, value in scores.items()}
        protocol = f"plain SDR, median of {passages} validation passages ({what}); the weights were chosen by it"
        values["scores"] = [{"protocol": protocol, "source": "unmix train", "values": rounded}]
    parse_entry(values, where="the result")  # what is written here must be readable there
    return values


def _converted(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    converted = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float16 if precision == "fp16" else torch.float32)
            if not torch.isfinite(value).all():
                raise ModelError(
                    f"the weights {name} hold values that are no {precision} numbers.",
                    hint='precision = "fp32" in [result], if they are only too large.',
                )
        converted[name] = value
    return converted
