"""What Meta-TasNet's stages are trained to, beside the estimates of the last one (see `meta_tasnet.py`).

    - Σ SI-SNR of the estimates        - 0.05 SI-SNR of the mixture, coded and decoded
    + 3 cos(|code of one source|, |code of another|)        - 2 cos(code of a source, code of the same one elsewhere)

The cosines are means over pairs that sound, and over frames. The published program divides a sum of both pairs and
batch by the number that sounds, as is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_EPSILON = 1e-8


def si_snr(estimates: Tensor, references: Tensor) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB. [..., t] -> [...]."""
    scale = (estimates * references).sum(-1, keepdim=True) / (references.square().sum(-1, keepdim=True) + _EPSILON)
    wanted = scale * references
    signal, noise = wanted.square().sum(-1), (estimates - wanted).square().sum(-1)
    return 10 * (signal.clamp_min(_EPSILON).log10() - noise.clamp_min(_EPSILON).log10())


def stage_loss(
    estimates: Tensor | None,
    references: Tensor,
    sounds: Tensor,
    codes: Tensor,
    decoded: Tensor,
    mixture: Tensor,
    weights: Mapping[str, Any],
) -> Tensor:
    """The loss of a stage.

    Args:
        estimates: [b, s, t], or None where they are compared elsewhere.
        references: [b, s, t].
        sounds: [b, s], 1 where a reference is more than silence.
        codes: of the references, [b, s, n, k].
        decoded: the mixture from its code, [b, t].
        mixture: [b, t].
        weights: `reconstruction_loss_weight`, `similarity_loss_weight`, `dissimilarity_loss_weight`.
    """
    total = -weights["reconstruction_loss_weight"] * si_snr(decoded, mixture).mean()
    if estimates is not None:
        ratio = si_snr(estimates, references) * sounds
        total = total - (ratio.sum(0) / sounds.sum(0).clamp_min(_EPSILON)).sum()
    pairs = list(combinations(range(references.shape[1]), 2))
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    alike = F.cosine_similarity(codes[:, first].abs(), codes[:, second].abs(), dim=2).mean(-1)
    total = total + weights["dissimilarity_loss_weight"] * _mean(alike, sounds[:, first] * sounds[:, second])
    same = F.cosine_similarity(codes, codes.roll(1, 0), dim=2).mean(-1)
    return total - weights["similarity_loss_weight"] * _mean(same, sounds * sounds.roll(1, 0))


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return torch.sum(values * counted) / counted.sum().clamp_min(_EPSILON)
