"""Small X-UMX networks with weights that follow from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demucs_toys import seeded_state
from torch import Tensor

SOURCES = ["bass", "drums", "vocals", "other"]
_SMALL = {"window_length": 128, "in_chan": 128, "n_hop": 32, "hidden_size": 8, "nb_layers": 2, "max_bin": 50}

# name -> the public constructor's arguments
CASES: dict[str, dict[str, Any]] = {
    "stereo": _SMALL | {"sources": SOURCES},
    "mono": _SMALL | {"sources": SOURCES[:2], "nb_channels": 1, "max_bin": None},
    "forward": _SMALL | {"sources": SOURCES[1:], "bidirectional": False, "nb_layers": 3},
}


def state_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by published name and shape: gains, scales and variances around one, no windows."""
    wanted = {name: shape for name, shape in shapes.items() if shape and "window" not in name}
    state = {}
    for name, tensor in seeded_state(wanted).items():
        value = tensor.float()
        if "running_var" in name or "_scale" in name or (".weight" in name and value.dim() == 1):
            value = 0.3 + value.abs()
        state[name] = value
    return state
