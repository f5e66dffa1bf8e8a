"""GRU masks: voice and accompaniment with three gated recurrent layers and the mask layer of the DRNN.

The network of andabi/music-source-separation (Jeju Machine Learning Camp 2017), itself after Huang et al. (see
`drnn.py`): magnitudes of 1024 samples at 16 kHz, hop 256, Hann; three layers of 256 units, and for every source a dense
layer with a rectifier, a_s. y_s = x a_s / Σ a. Its weights were never published.

Not taken over: torch's cell has two bias vectors where TensorFlow's has one, and applies the reset gate after the
matrix product (1,645,314 parameters instead of 1,643,010); songs are not cut into pieces of four frames, which left the
recurrence nothing to do; the mask is used once, not twice; the mixture is the sum of the sources, not their mean. Where
all rectifiers are shut, the mixture is shared out evenly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unmixcli.models.magnitude_network import MagnitudeNetwork, shares


class GRUMasks(MagnitudeNetwork):
    """See the module and `MagnitudeNetwork`. Settings: `hidden`, `layers`."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "n_fft": 1024,
        "hop": 256,
        "window": "hann",
        "sample_rate": 16000,
        "hidden": 256,
        "layers": 3,
    }

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems, seconds=30.0, run_in=4.0)
        hidden, layers = self.settings["hidden"], self.settings["layers"]
        self.check((layers <= 8, f"layers is {layers}, expected at most 8"))
        self.memory = nn.GRU(self.bins, hidden, layers, batch_first=True)
        self.leave = nn.ModuleList(nn.Linear(hidden, self.bins) for _ in self.targets)

    def masks(self, magnitudes: Tensor) -> Tensor:
        """See `MagnitudeNetwork`."""
        h, _ = self.memory(magnitudes)
        return shares(torch.stack([torch.relu(layer(h)) for layer in self.leave], 2).float())
