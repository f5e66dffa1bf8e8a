"""Small Apollo networks with weights that follow from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demucs_toys import mixture, seeded_state
from torch import Tensor

__all__ = ["CASES", "LENGTHS", "mixture", "state_of"]

# name -> the public constructor's arguments
CASES: dict[str, dict[str, Any]] = {
    "one": {"sr": 8000, "win": 20, "feature_dim": 16, "layer": 1},
    "two": {"sr": 16500, "win": 20, "feature_dim": 32, "layer": 2},  # the last band has eight bins, the others two
}
# whole hops: of others the public network divides the end by next to nothing
LENGTHS = {"one": 30 * 80, "two": 20 * 165}


def state_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by name and shape: gains of norms around one. The rotations' tables, which are computed, are left out."""
    state = {name: 0.5 * tensor.float() for name, tensor in seeded_state(shapes).items() if "_freq" not in name}
    gains = {name for name in state if name.endswith("weight") and state[name].dim() == 1}
    return {name: 1 + tensor if name in gains else tensor for name, tensor in state.items()}
