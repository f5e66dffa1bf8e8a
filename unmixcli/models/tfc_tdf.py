"""What MDX-Net and MDX23C share: spectra as channels and back, layers over frequency, settings.

Spectra are laid out [b, n, f, c] (b batch, n frame, f bin, c channel: real and imaginary part of the left channel, then
of the right one), so that a convolution over frames and bins finds its channels last in memory: with that layout
oneDNN takes 0.6 to 0.75 of the time. A layer over frequency multiplies every frame's [f, c] from the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.onednn import linear
from unmixcli.models.spectrogram import centre_pad, spectra

MAX_LENGTH = 2**26  # samples of a segment; 25 minutes: anything more is a mistake in a config


def frames_for(length: int, *, n_fft: int, hop: int, multiple: int) -> int:
    """The least number of frames, a multiple of `multiple`, whose centres span `length` samples."""
    least = max(length, n_fft // 2 + 1)  # of which half a window can be mirrored
    frames = -(-least // hop) + 1
    return -(-frames // multiple) * multiple


def analyse(mixture: Tensor, window: Tensor, *, hop: int, bins: int, frames: int) -> Tensor:
    """The lower bins of a centred short-time Fourier transform, not normalised.

    Args:
        mixture: [B, C, T]; zeros are added at its end.
        window: [n_fft].
        bins: the first bins, of n_fft // 2 + 1.
        frames: as `frames_for` gives them.

    Returns:
        [B, frames, bins, 2 C].
    """
    padded = F.pad(mixture, (0, hop * (frames - 1) - mixture.shape[-1]))
    complex_spectra = spectra(centre_pad(padded, window.shape[0]), window, hop)[..., :bins]
    parts = torch.view_as_real(complex_spectra)  # [B, C, n, f, 2]
    return parts.permute(0, 2, 3, 1, 4).flatten(3)


def synthesise(spectrum: Tensor, window: Tensor, *, hop: int, length: int) -> Tensor:
    """The inverse of `analyse`; bins above those given are zero.

    Args:
        spectrum: [B, S, n, f, 2 C], in any memory layout.
        length: samples wanted, at most hop * (n - 1).

    Returns:
        [B, S, C, length].
    """
    batch, stems, frames, bins, parts = spectrum.shape
    n_fft = window.shape[0]
    full = spectrum.new_zeros(batch, stems, parts // 2, frames, n_fft // 2 + 1, 2)
    full[..., :bins, :] = spectrum.unflatten(-1, (-1, 2)).permute(0, 1, 4, 2, 3, 5)
    signal = torch.istft(
        torch.view_as_complex(full).flatten(0, 2).transpose(1, 2),
        n_fft,
        hop_length=hop,
        window=window,
        center=True,
        length=hop * (frames - 1),
    )
    return signal.view(batch, stems, parts // 2, -1)[..., :length]


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution over frames and bins, [b, n, f, c] -> [b, m, g, d]."""
    y: Tensor = layer(x.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


def over_frequency(
    weight: Tensor, x: Tensor, *, offset: Tensor | None = None, relu: bool = False, plus: Tensor | None = None
) -> Tensor:
    """A linear layer over bins: weight · x, then `offset` added, negative values made zero, `plus` added.

    On the CPU frame by frame: the weight is multiplied with each frame [f, c] as if the frame were a layer's weight
    and the weight its input. A frame stays in the cache for what follows.

    Args:
        weight: [g, f].
        x: [b, n, f, c].
        offset: [c].
        plus: [b, n, g, c].

    Returns:
        [b, n, g, c].
    """
    frames = x.flatten(0, 1)
    if x.device.type != "cpu":
        y = torch.bmm(weight.expand(frames.shape[0], -1, -1), frames).unflatten(0, x.shape[:2])
        y = y if offset is None else y.add_(offset)
        y = y.relu_() if relu else y
        return y if plus is None else y.add_(plus)
    result = x.new_empty(*x.shape[:2], weight.shape[0], x.shape[3])
    sums = None if plus is None else plus.flatten(0, 1)
    for number, target in enumerate(result.flatten(0, 1)):
        y = linear(weight, frames[number].t(), offset)
        y = y.relu_() if relu else y
        if sums is None:
            target.copy_(y)
        else:
            torch.add(y, sums[number], out=target)
    return result


def text_setting(architecture: str, config: Mapping[str, Any], name: str) -> str:
    """A setting that is a word, in lower case.

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected a name.")
    return value.lower()
