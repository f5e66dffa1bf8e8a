"""Conv-TasNet: masks on a learned transform of very short frames, from a long chain of dilated convolutions.

"Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation" (Luo & Mesgarani, 2019,
arXiv:1809.07454), in the stereo variant that came with Demucs (Défossez et al., 2019, arXiv:1911.13254). Checked
against the public package `demucs` 2.0.3. Left out: training, causal convolutions, and the other norms and masks.

Published protocol: the track normalised by its mono mix, segments of 8 s; version 2 overlaps them by a quarter with
triangular weights, version 1 set them side by side (`overlap` 0 in the config).

Legend: b batch, s source, c audio channel, n basis signal, k frame; letters of the paper in the config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.models.demucs_blocks import PackagedNetwork
from unmixcli.models.settings import read_settings, require

_EPSILON = 1e-8
_NAME = "conv_tasnet"
_DEFAULTS: dict[str, Any] = {
    "N": 256,  # basis signals
    "L": 20,  # samples of each
    "B": 256,  # channels between the blocks
    "H": 512,  # channels inside
    "P": 3,  # kernel of the blocks' convolutions
    "X": 8,  # blocks in a row, the dilation doubling
    "R": 4,  # rows
    "audio_channels": 2,
    "samplerate": 44100,
    "segment": Fraction(8),
    "overlap": 0.25,
}
_ONLY = {"norm_type": "gLN", "causal": False, "mask_nonlinear": "relu"}


class _Norm(nn.Module):
    """Gain and offset per channel of [b, n, k] after its mean and deviation are taken out: those of the whole item, or
    with `per_frame` those of each frame."""

    def __init__(self, channels: int, *, per_frame: bool = False) -> None:
        super().__init__()
        self.axes = (1,) if per_frame else (1, 2)
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, self.axes, correction=0, keepdim=True)
        scale = self.gamma * torch.rsqrt(variance + _EPSILON)
        return x * scale + (self.beta - mean * scale)


class _Net(nn.Module):
    """Layers one after the other, under the published name."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class _Block(_Net):
    """Residual block: 1×1 convolution, dilated convolution per channel, 1×1 convolution."""

    def __init__(self, outer: int, inner: int, kernel: int, dilation: int) -> None:
        padding = (kernel - 1) * dilation // 2
        depthwise = nn.Conv1d(inner, inner, kernel, padding=padding, dilation=dilation, groups=inner, bias=False)
        super().__init__(
            nn.Conv1d(outer, inner, 1, bias=False),
            nn.PReLU(),
            _Norm(inner),
            _Net(depthwise, nn.PReLU(), _Norm(inner), nn.Conv1d(inner, outer, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class _Encoder(nn.Module):
    conv1d_U: nn.Conv1d  # noqa: N815 (the published tensor's name)


class _Separator(nn.Module):
    network: nn.Sequential


class _Decoder(nn.Module):
    basis_signals: nn.Linear


class _Layers(nn.Module):
    def __init__(self, values: Mapping[str, Any], sources: int) -> None:
        super().__init__()
        basis, length, outer = values["N"], values["L"], values["B"]
        rows = [
            nn.Sequential(*(_Block(outer, values["H"], values["P"], 2**level) for level in range(values["X"])))
            for _ in range(values["R"])
        ]
        self.encoder = _Encoder()
        self.encoder.conv1d_U = nn.Conv1d(values["audio_channels"], basis, length, length // 2, bias=False)
        self.separator = _Separator()
        self.separator.network = nn.Sequential(
            _Norm(basis, per_frame=True),
            nn.Conv1d(basis, outer, 1, bias=False),
            nn.Sequential(*rows),
            nn.Conv1d(outer, sources * basis, 1, bias=False),
        )
        self.decoder = _Decoder()
        self.decoder.basis_signals = nn.Linear(basis, values["audio_channels"] * length, bias=False)


class ConvTasNet(PackagedNetwork):
    """See the module."""

    edge_padding = "none"
    encoder: _Encoder
    separator: _Separator
    decoder: _Decoder

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        ignored = {"C", "segment_length"}
        values = read_settings(_NAME, config, _DEFAULTS, only=_ONLY, ignored=ignored)
        numbers = {name: values[name] for name in ("N", "B", "H", "X", "R")}
        require(
            _NAME,
            (
                (values["audio_channels"] in (1, 2), f"audio_channels is {values['audio_channels']}, expected 1 or 2"),
                (min(numbers.values()) >= 1, f"sizes are {numbers}, expected at least 1 each"),
                (max(numbers.values()) <= 4096 and values["X"] <= 20, f"sizes are {numbers}: too large"),
                (2 <= values["L"] <= 65536 and values["L"] % 2 == 0, f"L is {values['L']}, expected an even number"),
                (values["P"] % 2 == 1 and values["P"] <= 99, f"P is {values['P']}, expected an odd number"),
                (values["overlap"] < 1, f"overlap is {values['overlap']}, expected less than 1"),
                (values["samplerate"] >= 1, f"samplerate is {values['samplerate']}"),
            ),
        )
        super().__init__(_NAME, values, config, stems)
        self.overlap = values["overlap"]
        self.segment_length = max(1, int(values["segment"] * self.sample_rate))
        self.adopt(lambda: _Layers(values, len(self.sources)))

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. What is left over of the last frame is silent, as published."""
        length, size = mixture.shape[-1], self.values["L"]
        seen = F.pad(mixture, (0, max(0, size - length)))
        coded = F.relu(self.encoder.conv1d_U(seen))  # [b, n, k]
        masks = F.relu(self.separator.network(coded)).unflatten(1, (len(self.sources), -1))[:, self._wanted]
        frames = self.decoder.basis_signals((masks * coded[:, None]).transpose(2, 3))  # [b, s, k, (c t)]
        frames = frames.unflatten(-1, (self.channels, size)).transpose(2, 3)
        first, second = frames.split(size // 2, -1)  # of each frame, half of which overlaps the next one
        waves = F.pad(first.flatten(-2), (0, size // 2)) + F.pad(second.flatten(-2), (size // 2, 0))
        return F.pad(waves, (0, max(0, length - waves.shape[-1])))[..., :length]
