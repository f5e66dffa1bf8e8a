"""Short-time Fourier transform of whole signals and its inverse, for methods that mask a spectrogram.

Frames hang on sample 0 and silence stands around the signal, so that every length T >= 1 works and a frame is the same
wherever the signal was cut on a multiple of the hop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def stft(signal: Tensor, n_fft: int, hop: int, window: Tensor | None = None) -> Tensor:
    """[..., T] -> complex [..., F, N]: zeros around the signal so that any T >= 1 works.

    `window` has n_fft samples; None is the periodic Hann window.

    Frame n is centred on sample n * hop; the frames reach half a window beyond the last sample.
    """
    after = n_fft // 2 + -signal.shape[-1] % hop
    padded = F.pad(signal, (n_fft // 2, after))
    window = torch.hann_window(n_fft, device=signal.device) if window is None else window
    flat = padded.reshape(-1, padded.shape[-1])
    spectrum = torch.stft(flat, n_fft, hop, window=window, center=False, return_complex=True)
    return spectrum.reshape(*signal.shape[:-1], *spectrum.shape[-2:])


def istft(spectrum: Tensor, n_fft: int, hop: int, length: int, window: Tensor | None = None) -> Tensor:
    """The inverse of `stft`. complex [..., F, N] -> [..., length]."""
    window = torch.hann_window(n_fft, device=spectrum.device) if window is None else window
    flat = spectrum.reshape(-1, *spectrum.shape[-2:])
    signal = torch.istft(flat, n_fft, hop, window=window, center=True, length=length)
    return signal.reshape(*spectrum.shape[:-2], length)
