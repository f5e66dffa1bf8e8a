"""PCA over channels: turn the stereo image so that its two halves are uncorrelated.

The covariance of left and right has two eigenvectors at right angles; the signal along the stronger one is the first
source, the signal along the other one the second. Given back are the images in both channels, so the two sum to the
mixture (J. Karhunen and J. Joutsensalo, "Representation and separation of signals using nonlinear PCA type learning",
Neural Networks 7.1 (1994), explain why decorrelation alone does not separate).

Limits: finds two sources that were mixed by a rotation and differ in power, nothing else; of other mixtures (panned
sources too) it makes two new mixtures, often worse than the old ones. With a mono recording everything is in the first
source. A demonstration; `ica.py` goes further.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import ClassicalMethod


class PCA(ClassicalMethod):
    """The stronger and the weaker of two uncorrelated directions of the stereo image.

    Settings (`defaults`): size and place of segments.
    """

    all_stems = ("source_1", "source_2")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "segment_seconds": 120.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The first source."""
        _, vectors = principal_axes(mixture)
        axis = vectors[:, -1:].to(mixture)
        return {"source_1": axis @ (axis.T @ mixture)}


def principal_axes(mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Mean powers [C] in rising order and directions [C, C] (columns) of the channels, float64, of [C, T]."""
    level = mixture.abs().amax().clamp_min(torch.finfo(mixture.dtype).tiny)
    scaled = (mixture / level).cpu()
    channels, length = scaled.shape
    covariance = torch.zeros(channels, channels, dtype=torch.float64)
    for block in scaled.split(1 << 18, dim=-1):  # double precision a block at a time
        covariance += block.double() @ block.double().T
    powers, vectors = torch.linalg.eigh(covariance / length)
    return powers.clamp_min_(0), vectors
