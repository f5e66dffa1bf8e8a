"""What the post-filters share: spectra in norbert's layout, and the source for what no stem explains.

Layout: x [N, F, C] the mixture, y [N, F, C, J] the sources, v the same, magnitudes. Everything is in double precision:
in single precision the 2 x 2 covariances of a mono recording in two channels can't be inverted (measured: an error of
-20 dB of the mixture after one iteration).
"""

from __future__ import annotations

import math
import warnings
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmixcli.spectrum import istft, stft

_WINDOW_SECONDS = 0.093  # 4096 samples at 44.1 kHz, the frames of the published systems that use norbert

# norbert's regularization is absolute. Its `wiener` turns spectra that peak above 10 down to 10; we turn quiet ones up
# as well, so that a filter does the same at every level.
_PEAK = 10.0

Spectrum = NDArray[np.complex128]
Magnitude = NDArray[np.float64]


def load_norbert() -> ModuleType:
    """norbert, whose import warns about a name that SciPy is going to remove."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import norbert
    module: ModuleType = norbert
    return module


def frame_size(sample_rate: int) -> int:
    """Samples of a frame: the power of two nearest to 93 ms."""
    return int(2 ** round(math.log2(_WINDOW_SECONDS * sample_rate)))


def analyse(mixture: Tensor, estimates: Tensor, sample_rate: int) -> tuple[Spectrum, Spectrum]:
    """mixture [C, T], estimates [S, C, T] -> x [N, F, C], y [N, F, C, S]; fresh arrays.

    A single estimate gets a second source, the mixture without it: a filter decides between sources, and one alone
    would be given everything.
    """
    if estimates.shape[0] == 1:
        estimates = torch.cat((estimates, mixture[None] - estimates))
    n_fft = frame_size(sample_rate)
    spectra = stft(torch.cat((mixture[None], estimates)).float().cpu(), n_fft, n_fft // 4)
    layout = spectra.permute(3, 2, 1, 0).numpy()  # [S, C, F, N] -> [N, F, C, S]
    return layout[..., 0].astype(np.complex128), layout[..., 1:].astype(np.complex128)


def level_of(mixture: Spectrum) -> float:
    """What to divide spectra by before norbert regularizes them, and to multiply the result with; 1 for silence."""
    peak = float(np.abs(mixture).max())
    return peak / _PEAK if peak > 0 else 1.0


def synthesise(spectra: Spectrum, stems: int, sample_rate: int, length: int) -> Tensor:
    """y [N, F, C, J] -> the first `stems` sources as waves [stems, C, length] float32."""
    n_fft = frame_size(sample_rate)
    layout = np.ascontiguousarray(spectra[..., :stems].astype(np.complex64).transpose(3, 2, 1, 0))
    return istft(torch.from_numpy(layout), n_fft, n_fft // 4, length)


def with_residual(magnitudes: Magnitude, mixture: Spectrum) -> Magnitude:
    """Append norbert's residual model: what the mixture has beyond the sources, by spectral subtraction.

    Args:
        magnitudes: [N, F, C, J].
        mixture: [N, F, C].

    Returns:
        [N, F, C, J + 1]: the sources scaled per bin to fit the mixture best, and the residual.
    """
    # norbert 0.2.1 returns scaled sources but subtracts them unscaled. The second call finds them scaled already: its
    # own factor is one, and it subtracts what it should.
    model = load_norbert().contrib.residual_model
    scaled = model(magnitudes, mixture)[..., :-1]
    result: Magnitude = model(scaled, mixture)
    return result
