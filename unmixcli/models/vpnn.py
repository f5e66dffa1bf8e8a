"""Vector product networks: every number of a dense network becomes a vector in space, every product a cross product.

"Music Signal Processing Using Vector Product Neural Networks" (Fan, Chan, Lai, Jang, 2017, arXiv 1706.09555); what the
paper leaves open (sigmoids, the colours' scale) is as in hjkwon0609/source_separation_ml_jeju (2017). A unit gives

    z_i = Σ_j w_ij × a_j + b_i,    w, a, b in R³

so that a layer is three real matrices, each used twice: turning all inputs and weights turns the result with them.
513 -> 512 -> 512 -> 512 -> 513 for each source; 3,944,454 parameters with two. Then the mask layer of `drnn.py`.

    window    a vector is a bin in the frame before, this and the next; the middle of the output is the estimate (WVPNN)
    colour    a vector is the colour of a magnitude 0 <= x <= 1: (r, g, b) that fill up one after the other at x = n, 2n
              and 1; the estimate is the magnitude of the output's colour, n r + n g + (1 - 2n) b (CVPNN)

Magnitudes are divided by the largest of the track. Not taken over: the public code shifts both neighbours the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.base import Normalization
from unmixcli.models.magnitude_network import MagnitudeNetwork, shares

# Where red is full and green begins; magnitudes are mostly small, and most of the colours should be theirs.
COLOUR_STEP = 0.0938
_ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": torch.relu}
# Of the initial weights, beside Glorot's. A sigmoid passes on a quarter of a change: without it, three layers of them
# learn nothing in the first thousand steps.
_GAINS = {"sigmoid": 4.0, "relu": 1.0}


def to_colour(magnitudes: Tensor) -> Tensor:
    """0 <= x <= 1, [...] -> [..., 3], each in 0 to 1."""
    n = COLOUR_STEP
    red, green, blue = magnitudes / n, (magnitudes - n) / n, (magnitudes - 2 * n) / (1 - 2 * n)
    return torch.stack([red, green, blue], -1).clamp(0, 1)


def from_colour(colours: Tensor) -> Tensor:
    """The inverse of `to_colour`, [..., 3] -> [...]."""
    n = COLOUR_STEP
    red, green, blue = colours.unbind(-1)
    return n * red + n * green + (1 - 2 * n) * blue


class VectorProduct(nn.Module):
    """A dense layer of cross products. [..., 3, inputs] -> [..., 3, outputs].

    Args:
        gain: of the initial weights, times √(6 / (inputs + outputs)) (Glorot & Bengio, AISTATS 2010).
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(3, outputs))
        bound = gain * (6 / (inputs + outputs)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        # (w × a)_1 = w_2 a_3 - w_3 a_2 and so on round: each matrix meets the two components that are not its own
        turned = x.roll(-1, -2), x.roll(1, -2)
        pairs = torch.stack(turned, -2)  # [..., 3, 2, inputs]: for matrix k, components k + 1 and k + 2
        ahead, behind = zip(*(F.linear(pairs[..., k, :, :], self.weight[k]).unbind(-2) for k in range(3)), strict=True)
        # w_k a_(k+1) adds to component k + 2, w_k a_(k+2) takes from component k + 1
        z = [ahead[(k + 1) % 3] - behind[(k + 2) % 3] for k in range(3)]
        made: Tensor = torch.stack(z, -2) + self.bias
        return made


class VPNN(MagnitudeNetwork):
    """See the module and `MagnitudeNetwork`. Settings: `vector`, `activation` (sigmoid, relu), `hidden`."""

    normalization: Normalization = "level"
    defaults: ClassVar[Mapping[str, Any]] = {
        "n_fft": 1024,
        "hop": 256,
        "window": "hann",
        "sample_rate": 16000,
        "vector": "colour",
        "activation": "sigmoid",
        "hidden": 512,
    }
    choices = {"vector": ("colour", "window"), "activation": _ACTIVATIONS}  # noqa: RUF012 -- ClassVar in the base

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__(config, stems, seconds=10.0, run_in=0.0)
        hidden = self.settings["hidden"]
        gain = _GAINS[self.settings["activation"]]
        self.layers = nn.ModuleList(VectorProduct(size, hidden, gain) for size in (self.bins, hidden, hidden))
        self.leave = nn.ModuleList(VectorProduct(hidden, self.bins) for _ in self.targets)

    def level(self, mixture: Tensor) -> Tensor:
        """The largest magnitude. [B, 1, T] -> [B]"""
        return self.training_spectra(mixture).abs().amax((1, 2, 3))

    def masks(self, magnitudes: Tensor) -> Tensor:
        """See `MagnitudeNetwork`."""
        colour = self.settings["vector"] == "colour"
        if colour:
            h = to_colour(magnitudes).transpose(-1, -2)
        else:
            before = torch.cat([magnitudes[:, :1], magnitudes[:, :-1]], 1)
            after = torch.cat([magnitudes[:, 1:], magnitudes[:, -1:]], 1)
            h = torch.stack([before, magnitudes, after], 2)  # [b, n, 3, f]
        for layer in self.layers:
            h = _ACTIVATIONS[self.settings["activation"]](layer(h))
        outputs = torch.stack([layer(h) for layer in self.leave], 2).float()  # [b, n, s, 3, f]
        estimates = from_colour(outputs.transpose(-1, -2)) if colour else outputs[..., 1, :]
        return shares(estimates.abs())
