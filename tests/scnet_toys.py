"""Small SCNets with weights that follow from a seed, in the shapes of the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from demucs_toys import mixture, seeded_state
from torch import Tensor

from unmixcli.models import architecture_class
from unmixcli.models.base import SeparationModel

__all__ = ["CASES", "LENGTHS", "build", "mixture", "state_of"]

_SMALL = {"dims": [4, 8, 12, 16], "nfft": 256, "hop_size": 64, "win_size": 256, "num_dplayer": 4}
_SMALL["band_SR"] = [0.175, 0.392, 0.433]
# as in SCNet XL IHF: more of the high frequencies is kept
_IHF = {"band_SR": [0.23, 0.37, 0.4], "band_stride": [1, 4, 4], "band_kernel": [3, 4, 4], "conv_depths": [3, 3, 3]}
_ODD = {"expand": 2, "normalized": False, "compress": 2, "conv_kernel": 5, "band_kernel": [4, 8, 16]}

# name -> (architecture here, the public constructor's arguments)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "small": ("scnet", _SMALL),
    "ihf": ("scnet", _SMALL | _IHF),
    "odd": ("scnet", _SMALL | _ODD | {"sources": ["vocals", "other", "piano"]}),
    "mono": ("scnet", _SMALL | {"dims": [2, 8, 12], "audio_channels": 1}),
    "even": ("scnet", _SMALL | {"sources": ["vocals"]}),
    "masked": ("scnet_masked", _SMALL),
    "masked_ihf": ("scnet_masked", _SMALL | _IHF | {"nfft": 1024, "win_size": 1024, "hop_size": 256}),
}
# 2100 samples are 33 hops, begun; 33 whole hops are followed by one more, and that by another to keep the frames even
LENGTHS = dict.fromkeys(CASES, 2100) | {"even": 33 * 64}


def state_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by published name and shape; the gains of norms lie around one."""
    # quieter than the Demucs family's: recurrent layers that are driven hard make much of the last bit
    state = {name: 0.6 * tensor.float() for name, tensor in seeded_state(shapes).items()}
    gains = {name for name in state if name.endswith(".weight") and state[name].dim() == 1}
    return {name: tensor + 1 if name in gains else tensor for name, tensor in state.items()}


def build(case: str, stems: Sequence[str] | None = None, **changes: Any) -> SeparationModel:
    """A network of `CASES` with its weights."""
    architecture, config = CASES[case]
    config = {"chunk_size": 2500, **config, **changes}
    stems = stems or config.get("sources", ["drums", "bass", "other", "vocals"])
    model = architecture_class(architecture).from_config(config, stems)
    model.load_state_dict(state_of({name: tuple(t.shape) for name, t in model.state_dict().items()}), strict=True)
    return model.eval()
