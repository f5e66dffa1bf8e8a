"""Small RoFormers with weights that follow from a seed, under their published names."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from demucs_toys import mixture
from torch import Tensor

from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel

__all__ = ["CASES", "STEMS", "build", "mixture", "published_shapes", "state_of"]

STEMS = ["vocals", "drums", "bass", "other"]
_SMALL = {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "stereo": True, "stft_n_fft": 512, "stft_win_length": 512}
_SMALL |= {"stft_hop_length": 110, "time_transformer_depth": 1, "freq_transformer_depth": 1}
_BS = _SMALL | {"freqs_per_bands": [2] * 8 + [4] * 4 + [12] * 4 + [24] * 4 + [81]}
_MEL = _SMALL | {"num_bands": 20}

# name -> (architecture, the public constructor's arguments, the package whose code knows them all)
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "bs": ("bs_roformer", _BS, "audio-separator"),
    "bs_four_stems": (
        "bs_roformer",
        _BS
        | {
            "num_stems": 4,
            "time_transformer_depth": 2,
            "mask_estimator_depth": 3,
            "mlp_expansion_factor": 2,
            "heads": 3,
        },
        "audio-separator",
    ),
    "bs_linear": ("bs_roformer", _BS | {"linear_transformer_depth": 2, "stereo": False}, "audio-separator"),
    "bs_window": ("bs_roformer", _BS | {"stft_win_length": 400, "stft_normalized": True}, "audio-separator"),
    "bs_skip": ("bs_roformer", _BS | {"depth": 4, "skip_connection": True, "zero_dc": True}, "msst"),
    "mel": ("mel_band_roformer", _MEL, "audio-separator"),
    "mel_two_stems": (
        "mel_band_roformer",
        _MEL | {"num_stems": 2, "mask_estimator_depth": 2, "freq_transformer_depth": 2, "sample_rate": 48000},
        "audio-separator",
    ),
    "mel_skip": (
        "mel_band_roformer",
        _MEL | {"depth": 3, "skip_connection": True, "linear_transformer_depth": 1, "mlp_expansion_factor": 2},
        "msst",
    ),
}


def state_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by published name and shape, loud enough that every layer shows in the output; frequencies of the
    rotary embedding are not quite the usual ones."""
    state = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("freqs"):
            values = 1.05 * 10000.0 ** (-np.arange(shape[0]) / shape[0])
        elif name.endswith("gamma"):
            values = 0.5 + abs(values)
        else:
            values *= 1.5 / shape[-1] ** 0.5 if len(shape) == 2 else 0.3
        state[name] = torch.from_numpy(values).float()
    return state


def published_shapes(model: SeparationModel) -> dict[str, tuple[int, ...]]:
    """The tensors of a network under their published names, from ours."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        place, _, last = name.rpartition(".")
        above, _, layer = place.rpartition(".")
        match (layer, last):
            case ("to_qkv_gates", _):
                heads = model.values["heads"]  # type: ignore[index]
                shapes[f"{above}.to_qkv.weight"] = (tensor.shape[0] - heads, tensor.shape[1])
                shapes[f"{above}.to_gates.weight"] = (heads, tensor.shape[1])
                continue
            case ("to_out", _):
                linear = f"{above}.temperature" in model.state_dict()
                name = f"{above}.to_out.{int(linear)}.weight"
            case ("to_qkv", _):
                name = f"{above}.to_qkv.0.weight"
            case (_, "gate_bias"):
                name = f"{place}.to_gates.bias"
            case (_, "freqs"):
                name = f"{place}.rotary_embed.freqs"
            case ("norm", _) if above.endswith(".1") and f"{above}.expand.weight" in model.state_dict():
                name = f"{above}.net.0.gamma"
            case ("expand", _):
                name = f"{above}.net.1.{last}"
            case ("contract", _):
                name = f"{above}.net.4.{last}"
            case _ if name.startswith("mask_estimators."):
                name = f"{above}.0.{2 * int(layer)}.{last}"
        shapes[name] = tuple(tensor.shape)
    return shapes


def build(case: str, stems: Sequence[str] | None = None, **changes: Any) -> SeparationModel:
    """A network of `CASES` with its weights."""
    architecture, config, _ = CASES[case]
    count = config.get("num_stems", 1)
    config = {**config, "chunk_size": 2100, "instruments": STEMS[:count], **changes}
    cls = architecture_class(architecture)
    model = cls.from_config(config, stems or STEMS[:count])
    state = cls.convert_state(config, {"checkpoint": state_of(published_shapes(model))})
    model.load_state_dict(state, strict=True)
    return model.requires_grad_(False).eval()
