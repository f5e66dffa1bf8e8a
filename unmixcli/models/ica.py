"""ICA over channels: undo a mixing desk that panned two independent sources.

With x = A s for the two channels, A a 2 x 2 matrix, x is whitened (`pca.py`) and then turned until its two parts are as
far from Gaussian as can be: FastICA with symmetric orthogonalisation and the contrast log cosh (A. Hyvärinen, "Fast and
robust fixed-point algorithms for independent component analysis", IEEE Transactions on Neural Networks 10.3 (1999)).
It starts from the best of a few angles, so the result is the same every time. Given back are the images A_j s_j, which
sum to the mixture; the source further to the left comes first. The tests compare it with scikit-learn's FastICA.

Limits: as many sources as channels, and each channel a plain sum of them: no reverberation, no delays between the
channels, no third source. A finished stereo song is none of that, and then the two results are two other mixtures. With
a mono recording everything is in the first source. A demonstration on songs; exact where its model holds.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import ClassicalMethod
from unmixcli.models.pca import principal_axes

# Samples that the angle is found from: 6 s at 44.1 kHz, taken evenly from the segment.
_SAMPLES = 1 << 18
# The second channel counts as a copy of the first where it adds less than this of the power: -100 dB.
_LEAST_POWER = 1e-10
_STARTS = 8
# Mean of log cosh of a Gaussian of power 1.
_GAUSSIAN = 0.3745672075


class ICA(ClassicalMethod):
    """Two sources that were panned, the left one first.

    Settings (`defaults`): `iterations` at most; size and place of segments.
    """

    all_stems = ("source_1", "source_2")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "segment_seconds": 120.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
        "iterations": 200,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The source to the left."""
        powers, vectors = principal_axes(mixture)
        if powers[0] <= _LEAST_POWER * powers[1]:
            return {"source_1": mixture.clone()}
        level = mixture.abs().amax()
        step = -(-mixture.shape[-1] // _SAMPLES)
        some = (mixture[:, ::step] / level).cpu().double()
        whitening = vectors.T / powers.sqrt()[:, None]
        turn = fast_ica(whitening @ some, int(self.config["iterations"]))
        unmixing = turn @ whitening
        mixing = torch.linalg.inv(unmixing)
        left = int(torch.atan2(mixing[1].abs(), mixing[0].abs()).argmin())
        image = torch.outer(mixing[:, left], unmixing[left]).to(mixture)
        return {"source_1": image @ mixture}


def fast_ica(white: Tensor, iterations: int) -> Tensor:
    """The rotation after which the rows are as independent as can be.

    Args:
        white: [2, T], float64, uncorrelated, power 1.
        iterations: at most.

    Returns:
        [2, 2], orthonormal rows.
    """
    angles = [math.pi / 2 * n / _STARTS for n in range(_STARTS)]
    turn = max((_rotation(angle) for angle in angles), key=lambda start: _contrast(start @ white))
    for _ in range(iterations):
        sources = turn @ white
        bent = sources.tanh()
        slope = (1 - bent.square()).mean(dim=1)
        u, _, v = torch.linalg.svd(bent @ white.T / white.shape[1] - slope[:, None] * turn)
        before, turn = turn, u @ v
        if float((1 - (turn * before).sum(dim=1).abs()).abs().max()) < 1e-12:
            break
    return turn


def _rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, s], [-s, c]], dtype=torch.float64)


def _contrast(sources: Tensor) -> float:
    """How far from Gaussian the rows are. log cosh y = |y| + log(1 + exp(-2 |y|)) - log 2"""
    size = sources.abs()
    means = (size + torch.log1p(torch.exp(-2 * size)) - math.log(2)).mean(dim=1)
    return float((means - _GAUSSIAN).square().sum())
