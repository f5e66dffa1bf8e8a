"""Multichannel Wiener filter, started from ratio masks.

A. Nugraha, A. Liutkus and E. Vincent, "Multichannel music separation with deep neural networks", EUSIPCO 2016, through
`norbert.wiener`: only the magnitudes of the estimates are used, the first masks are those of `softmask.py`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unmixcli.postfilters.spectra import analyse, level_of, load_norbert, synthesise, with_residual


def wiener(
    mixture: Tensor, estimates: Tensor, *, sample_rate: int, iterations: int = 1, residual: bool = False
) -> Tensor:
    """Filter the mixture.

    Args:
        mixture: [C, T], T >= 1.
        estimates: [S, C, T]. With S = 1 the mixture without it is the second source.
        sample_rate: Hz.
        iterations: of expectation-maximization; 0 is `softmask`.
        residual: one more source takes what the estimates don't explain; it is not returned.

    Returns:
        [S, C, T] float32 on the CPU. With S > 1 and no residual they sum to the mixture, but where all estimates are
        silent and the mixture is not.
    """
    x, y = analyse(mixture, estimates, sample_rate)
    magnitudes = np.abs(y)
    if residual:
        magnitudes = with_residual(magnitudes, x)
    level = level_of(x)
    # norbert edits its x in place where the peak exceeds 10: x / level is a fresh array.
    filtered = load_norbert().wiener(magnitudes / level, x / level, iterations=iterations)
    return synthesise(filtered * level, estimates.shape[0], sample_rate, mixture.shape[-1])
