"""Ratio masks from the estimates' magnitudes: every bin of the mixture is shared out in proportion.

A. Liutkus and R. Badeau, "Generalized Wiener filtering with fractional power spectrograms", ICASSP 2015, through
`norbert.softmask`. The estimates' phases are replaced by the mixture's.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unmixcli.postfilters.spectra import analyse, load_norbert, synthesise, with_residual


def softmask(
    mixture: Tensor, estimates: Tensor, *, sample_rate: int, iterations: int = 0, residual: bool = False
) -> Tensor:
    """Share the mixture out.

    Args:
        mixture: [C, T], T >= 1.
        estimates: [S, C, T]. With S = 1 the mixture without it is the second source.
        sample_rate: Hz.
        iterations: of this filter there are none; the argument is there because all post-filters are called alike.
        residual: one more source takes what the estimates don't explain; it is not returned.

    Returns:
        [S, C, T] float32 on the CPU. With S > 1 and no residual they sum to the mixture, but where all estimates are
        silent and the mixture is not: nobody gets that.
    """
    x, y = analyse(mixture, estimates, sample_rate)
    magnitudes = np.abs(y)
    if residual:
        magnitudes = with_residual(magnitudes, x)
    filtered = load_norbert().softmask(magnitudes, x)
    return synthesise(filtered, estimates.shape[0], sample_rate, mixture.shape[-1])
