"""Expectation-maximization from the estimates as they are, phases and channels included.

N. Duong, E. Vincent and R. Gribonval, "Under-determined reverberant audio source separation using a full-rank spatial
covariance model", IEEE TASLP 18.7 (2010), in the weighted form of Nugraha et al. 2016, through
`norbert.expectation_maximization`. Where `wiener.py` starts from ratio masks, this starts from the waves of the model.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unmixcli.postfilters.spectra import analyse, level_of, load_norbert, synthesise, with_residual


def em(mixture: Tensor, estimates: Tensor, *, sample_rate: int, iterations: int = 1, residual: bool = False) -> Tensor:
    """Re-estimate the sources.

    Args:
        mixture: [C, T], T >= 1.
        estimates: [S, C, T]. With S = 1 the mixture without it is the second source.
        sample_rate: Hz.
        iterations: 0 gives the estimates back.
        residual: one more source takes what the estimates don't explain; it is not returned.

    Returns:
        [S, C, T] float32 on the CPU. With S > 1 and no residual they sum to the mixture, but where all estimates are
        silent and the mixture is not.
    """
    x, y = analyse(mixture, estimates, sample_rate)
    if residual:
        left_over = with_residual(np.abs(y), x)[..., -1:]
        y = np.concatenate((y, left_over * np.exp(1j * np.angle(x))[..., None]), axis=-1)
    level = level_of(x)
    filtered = load_norbert().expectation_maximization(y / level, x / level, iterations)[0]
    return synthesise(filtered * level, estimates.shape[0], sample_rate, mixture.shape[-1])
