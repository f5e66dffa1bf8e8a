"""Deep recurrent networks whose last layer is the mask, for voice and accompaniment.

"Singing-Voice Separation from Monaural Recordings using Deep Recurrent Neural Networks" (Huang, Kim, Hasegawa-Johnson,
Smaragdis, ISMIR 2014) and "Joint Optimization of Masks and Deep Recurrent Neural Networks for Monaural Source
Separation" (the same, TASLP 2015, arXiv 1502.04149), in the sizes of posenhuang/deeplearningsourceseparation:
magnitudes of 1024 samples at 16 kHz under a sine window, three frames at a time, three hidden layers of 1000 rectified
units, and for every source s and bin an output a_s. The mask layer has no parameters: y_s = x |a_s| / Σ |a|.

    dnn     no recurrence                  drnn1, drnn2, drnn3   at one hidden layer
    srnn    at all of them                 h_t = relu(W x_t + b + U h_(t-1)), h_0 = 0

Not taken over: the level. Huang et al. give every source of a clip energy 1; here the mixture has standard deviation 1,
which does not depend on a track's length. Not offered: log-mel and MFCC features, which they found worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unmixcli.models.magnitude_network import MagnitudeNetwork, joined_frames, shares

# variant -> hidden layers (counted from 1) that are recurrent
VARIANTS: dict[str, tuple[int, ...]] = {"dnn": (), "drnn1": (1,), "drnn2": (2,), "drnn3": (3,), "srnn": (1, 2, 3)}
_EPSILON = 1e-10


def abs_masks(outputs: Tensor) -> Tensor:
    """|a_s| / Σ |a|, the masks of the papers. [b, n, s, f] -> the same."""
    return shares(outputs.abs())


def square_masks(outputs: Tensor) -> Tensor:
    """a_s² / Σ a²."""
    return shares(outputs.square())


def soft_masks(outputs: Tensor) -> Tensor:
    """a_s / Σ a as it is: masks may leave 0 to 1 where outputs differ in sign."""
    return outputs / (outputs.sum(2, keepdim=True) + _EPSILON)


MASKS = {"abs": abs_masks, "square": square_masks, "soft": soft_masks}


class DRNN(MagnitudeNetwork):
    """See the module and `MagnitudeNetwork`. Settings: `variant`, `context` (frames, odd), `hidden`, `mask`."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "n_fft": 1024,
        "hop": 512,
        "window": "sine",
        "sample_rate": 16000,
        "variant": "drnn2",
        "context": 3,
        "hidden": 1000,
        "mask": "abs",
    }
    choices = {"variant": VARIANTS, "mask": MASKS}  # noqa: RUF012 -- ClassVar in the base

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems, seconds=30.0, run_in=4.0)
        hidden, context = self.settings["hidden"], self.settings["context"]
        self.check((context % 2 == 1 and context <= 15, f"context is {context}, expected an odd number up to 15"))
        sizes = [context * self.bins, hidden, hidden, hidden]
        recurrent = VARIANTS[self.settings["variant"]]
        self.layers = nn.ModuleList(nn.Linear(sizes[k], sizes[k + 1]) for k in range(3))
        self.loops = nn.ModuleDict({str(k): nn.Linear(hidden, hidden, bias=False) for k in recurrent})
        self.leave = nn.Linear(hidden, len(self.targets) * self.bins)
        for number, layer in enumerate([*self.layers, self.leave], 1):
            outputs = layer.out_features * (2 if number in recurrent else 1)
            _uniform(layer, 6 / (layer.in_features + outputs))
        for loop in self.loops.values():
            _uniform(loop, 6 / (3 * hidden))

    def masks(self, magnitudes: Tensor) -> Tensor:
        """See `MagnitudeNetwork`."""
        h = joined_frames(magnitudes, self.settings["context"])
        for number, layer in enumerate(self.layers, 1):
            h = layer(h)
            h = self._walk(h, self.loops[str(number)]) if str(number) in self.loops else torch.relu(h)
        outputs: Tensor = self.leave(h).float().unflatten(2, (len(self.targets), -1))
        return MASKS[self.settings["mask"]](outputs)

    @staticmethod
    def _walk(inputs: Tensor, loop: nn.Module) -> Tensor:
        """h_t = relu(input_t + U h_(t-1)) over the frames of [b, n, h]."""
        state = torch.relu(inputs[:, 0])
        states = [state]
        for frame in inputs.unbind(1)[1:]:
            state = torch.relu(frame + loop(state))
            states.append(state)
        return torch.stack(states, 1)


def _uniform(layer: nn.Module, variance: float) -> None:
    """Weights in ±√variance, biases zero."""
    assert isinstance(layer, nn.Linear)
    nn.init.uniform_(layer.weight, -(variance**0.5), variance**0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
