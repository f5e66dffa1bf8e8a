"""Weights for bytesep's networks that follow from a seed."""

from __future__ import annotations

import numpy as np


def draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A tensor that keeps signals at their size."""
    noise = rng.standard_normal(shape)
    if name.endswith("running_var"):
        return np.exp(0.3 * noise)
    if len(shape) == 1:
        return (0.8 if name.endswith("weight") else 0) + 0.2 * noise
    return noise * (0.7 / max(1, np.prod(shape[1:]))) ** 0.5
