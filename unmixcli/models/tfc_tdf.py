"""What MDX-Net and MDX23C share: spectra as channels and back, layers over frequency, settings.

Spectra are laid out [b, n, f, c] (b batch, n frame, f bin, c channel: real and imaginary part of the left channel, then
of the right one), so that a convolution over frames and bins finds its channels last in memory: with that layout
oneDNN takes 0.6 to 0.75 of the time. A layer over frequency multiplies every frame's [f, c] from the left. Inside the
networks it is one item after the other, [n, f, c], in as little memory as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.onednn import linear
from unmixcli.models.spectrogram import centre_pad, spectra

_CACHED = 1 << 20  # numbers in a piece: four megabytes; with half or twice as many it takes 2 to 5 % longer
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


def frames_at_once(x: Tensor) -> int:
    """How many frames [f, c] of x stay in a core's cache together; elsewhere than on a CPU all of them."""
    return max(1, _CACHED // (x.shape[-2] * x.shape[-1])) if x.device.type == "cpu" else x.shape[-3]


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution over frames and bins, [n, f, c] -> [m, g, d]."""
    y: Tensor = layer(x.permute(2, 0, 1)[None])
    return y[0].permute(1, 2, 0)


def convolve_into(
    out: Tensor,
    layer: nn.Conv2d,
    x: Tensor,
    *,
    before: Callable[[Tensor], Tensor] | None = None,
    after: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """A convolution that keeps the grid, some frames at a time: what comes before and after it finds them in the cache,
    and no memory is taken that the system would have to clear first (a quarter of the time otherwise).

    Args:
        out: [n, f, d]; may be `x` itself.
        layer: with a kernel of odd sizes and as many zeros at every end as keep the grid.
        x: [n, f, c].
        before: applied to frames of x.
        after: (frames convolved, where they stand) -> what is written there.

    Returns:
        `out`.
    """
    frames = x.shape[0]
    edge, sides = (size // 2 for size in layer.kernel_size)
    step = frames_at_once(x)

    def read(start: int, stop: int) -> list[Tensor]:
        """Frames of x, zeros beyond its end."""
        part = x[start : min(stop, frames)]
        missing = max(0, stop - max(frames, start))
        part = before(part) if before is not None and len(part) else part
        return [part, x.new_zeros(missing, *x.shape[1:])]

    held = torch.cat([x.new_zeros(edge, *x.shape[1:]), *read(0, edge)])  # from `edge` before a piece to `edge` into it
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        part = torch.cat([held, *read(start + edge, stop + edge)])
        held = part[stop - start :]
        y = F.conv2d(part.permute(2, 0, 1)[None], layer.weight, layer.bias, padding=(0, sides))
        place = slice(start, stop)
        out[place] = after(y[0].permute(1, 2, 0), place)
    return out


def narrow_bins(weight: Tensor, x: Tensor, before: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """A linear layer over bins, weight [g, f] and x [n, f, c] -> [n, g, c].

    On the CPU frame by frame: the weight is multiplied with each frame [f, c] as if the frame were a layer's weight
    and the weight its input, so that oneDNN does it (`onednn.py`).
    """
    if x.device.type != "cpu":
        return torch.bmm(weight.expand(x.shape[0], -1, -1), before(x) if before else x)
    y = x.new_empty(x.shape[0], weight.shape[0], x.shape[2])
    for frame, target in zip(x, y, strict=True):
        target.copy_(linear(weight, (before(frame) if before else frame).t()))
    return y


def widen_bins_into(out: Tensor, weight: Tensor, x: Tensor, *, offset: Tensor | None = None) -> Tensor:
    """A linear layer over bins, added to `out` frame by frame.

    Args:
        out: [n, g, c]; edited.
        weight: [g, f].
        x: [n, f, c].
        offset: [c]; with it, offset and ReLU stand between the layer and the sum.

    Returns:
        `out`.
    """
    if x.device.type != "cpu":
        y = torch.bmm(weight.expand(x.shape[0], -1, -1), x)
        return out.add_(y if offset is None else y.add_(offset).relu_())
    for frame, target in zip(x, out, strict=True):
        y = linear(weight, frame.t(), offset)
        target.add_(y if offset is None else y.relu_())
    return out


def text_setting(architecture: str, config: Mapping[str, Any], name: str) -> str:
    """A setting that is a word, in lower case.

    Raises:
        CheckpointError: it is missing or something else.
    """
    value = config.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 100:
        raise CheckpointError(f"{architecture}'s {name} is {value!r}, expected a name.")
    return value.lower()
