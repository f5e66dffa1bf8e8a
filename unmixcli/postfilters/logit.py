"""Sharpened ratio masks: what a stem has little of is taken away, what it has most of is left whole.

The ratio masks M of `softmask.py` go through a logistic function, M' = 1 / (1 + exp(-slope (M - threshold))): the
`logit` option of norbert's `softmask`, which raises an error in its released version 0.2.1, with the defaults of the
sigsep tutorial on source separation. Less of the other stems is heard, at the price of more artefacts.

Sharpened masks no longer add up to one, so the stems don't sum to the mixture. `--residual spread` would give them back
what was taken away; `--residual ignore` leaves them as they are.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unmixcli.errors import OptionError
from unmixcli.postfilters.spectra import Magnitude, analyse, synthesise, with_residual

SLOPE = 15.0
THRESHOLD = 0.6


def logit(
    mixture: Tensor, estimates: Tensor, *, sample_rate: int, iterations: int = 0, residual: bool = False,
    slope: float = SLOPE, threshold: float = THRESHOLD,
) -> Tensor:  # fmt: skip
    """Mask the mixture sharply.

    Args:
        mixture: [C, T], T >= 1.
        estimates: [S, C, T]. With S = 1 the mixture without it is the second source.
        sample_rate: Hz.
        iterations: of this filter there are none; the argument is there because all post-filters are called alike.
        residual: one more source takes what the estimates don't explain; it is not returned.
        slope: of the logistic function, more than 0.
        threshold: the ratio that becomes one half.

    Returns:
        [S, C, T] float32 on the CPU.

    Raises:
        OptionError: slope or threshold out of range.
    """
    x, y = analyse(mixture, estimates, sample_rate)
    magnitudes = np.abs(y)
    if residual:
        magnitudes = with_residual(magnitudes, x)
    total = magnitudes.sum(axis=-1, keepdims=True)
    ratios = np.divide(magnitudes, total, out=np.zeros_like(magnitudes), where=total > 0)
    masks = sharpened(ratios, slope, threshold)
    return synthesise(masks * x[..., None], estimates.shape[0], sample_rate, mixture.shape[-1])


def sharpened(masks: Magnitude, slope: float = SLOPE, threshold: float = THRESHOLD) -> Magnitude:
    """The logistic function of masks between 0 and 1, with values between 0 and 1.

    Raises:
        OptionError: slope or threshold out of range.
    """
    if not 0 < slope < 1e4 or not 0 <= threshold <= 1:
        raise OptionError(f"slope {slope}, threshold {threshold}: expected a slope above 0 and a threshold of 0 to 1.")
    result: Magnitude = 0.5 * (1 + np.tanh(0.5 * slope * (masks - threshold)))
    return result
