"""Small BandIt v2 networks with weights that follow from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from demucs_toys import seeded_state
from torch import Tensor

STEMS = ["speech", "music", "sfx"]
_SMALL = {"in_channels": 1, "stems": STEMS, "n_bands": 12, "n_sqm_modules": 2, "emb_dim": 8, "rnn_dim": 6}
_SMALL |= {"mlp_dim": 10, "n_fft": 256, "win_length": 256, "hop_length": 64, "pad_mode": "reflect"}

# name -> the public constructor's arguments
CASES: dict[str, dict[str, Any]] = {
    "gru": _SMALL | {"rnn_type": "GRU"},
    "lstm": _SMALL | {"rnn_type": "LSTM", "normalized": False, "bidirectional": False, "n_bands": 9},
    "plain": _SMALL | {"rnn_type": "GRU", "use_freq_weights": False, "stems": STEMS[:2]},
}


def state_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by name and shape: gains of norms around one. What is computed, or stored twice, is left out."""
    wanted = {
        name: shape
        for name, shape in shapes.items()
        if not ("window" in name or "freq_weights" in name or ("mask_estim" in name and ".combined." in name))
    }
    state = {name: 0.7 * tensor.float() for name, tensor in seeded_state(wanted).items()}
    gains = {name for name in state if name.endswith("weight") and state[name].dim() == 1}
    return {name: 1 + 0.1 * tensor if name in gains else tensor for name, tensor in state.items()}
