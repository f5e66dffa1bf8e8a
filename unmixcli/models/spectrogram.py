"""Short-time Fourier transform and its inverse, frame by frame in memory: shared by the networks.

Spectra are laid out [..., N, F] (frames, then bins), as the transform makes them and as the layers that read one
frame after another want them; `torch.stft` gives the transposed view. The values are those of `torch.stft` and
`torch.istft` with a periodic Hann window, not normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def centre_pad(signal: Tensor, n_fft: int) -> Tensor:
    """Mirror half a window at both ends, so that frame n is centred on sample n * hop.

    Args:
        signal: [..., C, T], T >= 1. A signal too short to be mirrored (T <= n_fft // 2) is first filled up with
            zeros on the right.
        n_fft: samples of the window.

    Returns:
        [..., C, max(T, n_fft // 2 + 1) + 2 * (n_fft // 2)].
    """
    half = n_fft // 2
    if signal.shape[-1] <= half:
        signal = F.pad(signal, (0, half + 1 - signal.shape[-1]))
    return F.pad(signal, (half, half), mode="reflect")


def frame_count(length: int, n_fft: int, hop: int) -> int:
    """How many whole frames fit into `length` samples (of a signal that is padded already)."""
    return max(0, (length - n_fft) // hop + 1)


def spectra(padded: Tensor, window: Tensor, hop: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Fourier transforms of the frames `start` to `stop` of a signal.

    Args:
        padded: [..., T]; frame n begins at sample n * hop. Nothing is added at the ends.
        window: [n_fft].
        hop: samples between frames.
        start: first frame.
        stop: frame after the last; None: all whole frames.

    Returns:
        [..., stop - start, n_fft // 2 + 1], complex.
    """
    n_fft = window.shape[0]
    if stop is None:
        stop = frame_count(padded.shape[-1], n_fft, hop)
    part = padded[..., start * hop : (stop - 1) * hop + n_fft]
    return torch.fft.rfft(part.unfold(-1, n_fft, hop) * window)


class OverlapAdd:
    """Inverse transform of frames that arrive in any order, added up in one buffer.

    Least squares, as in "Signal Estimation from Modified Short-Time Fourier Transform" (Griffin & Lim, 1984): every
    frame is windowed again and the sum divided by the sum of squared windows.

    Args:
        shape: leading dimensions of the signal, for instance (S, C).
        frames: N, of the whole signal.
        window: [n_fft], real; a multiple of `hop` long.
        hop: samples between frames.

    Raises:
        ValueError: the window is not a whole number of hops long.
    """

    def __init__(self, shape: tuple[int, ...], frames: int, window: Tensor, hop: int) -> None:
        if window.shape[0] % hop:
            raise ValueError(f"a window of {window.shape[0]} samples is not a multiple of the hop, {hop} samples")
        self._window = window
        self._hop = hop
        self._frames = frames
        self._hops_per_window = window.shape[0] // hop
        self._sum = window.new_zeros(*shape, frames + self._hops_per_window - 1, hop)

    def add(self, index: tuple[int, ...], spectra: Tensor, start: int) -> None:
        """Add the frames from `start` on.

        Args:
            index: where in `shape` they go.
            spectra: [..., n, F], complex; the dimensions that `index` leaves.
            start: number of their first frame.
        """
        frames = torch.fft.irfft(spectra, n=self._window.shape[0])
        frames *= self._window
        target = self._sum[index]
        pieces = frames.unflatten(-1, (self._hops_per_window, self._hop))
        for k in range(self._hops_per_window):
            target[..., start + k : start + k + frames.shape[-2], :] += pieces[..., k, :]

    def signal(self, skip: int, length: int) -> Tensor:
        """The sum divided by the windows' own, without the first `skip` samples, [*shape, length]. Ends the use.

        Samples that no window covers are zero.
        """
        squares = self._window.square().view(self._hops_per_window, self._hop)
        weight = torch.zeros_like(self._sum[(0,) * (self._sum.dim() - 2)])
        for k in range(self._hops_per_window):
            weight[k : k + self._frames] += squares[k]
        # periodic windows begin with a zero: where nothing was weighted, nothing was added either
        self._sum /= weight.clamp_(min=1e-11)
        return self._sum.flatten(-2)[..., skip : skip + length]
