"""The mask networks of the VR family: two stages that see half of the bins each, then one or two that see all of them.

`CascadedASPP` are the networks before version 5.1 of UVR (its "nets.py", sizes by the kilobytes of their files), after
"Multi-scale Multi-band DenseNets for Audio Source Separation" (Takahashi & Mitsufuji, 2017, arXiv:1706.09588) with the
pyramid of dilated convolutions of "Rethinking Atrous Convolution" (Chen et al., 2017, arXiv:1706.05587).
`CascadedLSTM` is version 5.1's ("nets_new.py") and tsurumeso's vocal-remover 5 and 6, with a recurrent layer after
"MMDenseLSTM" (Takahashi et al., 2018, arXiv:1805.02410). Checked against audio-separator 0.47.1
(docs/benchmarks/vr.py). There the last two branches of a pyramid of seven share their weights; the program of the time
had them apart, as the files do, and so they are here. Left out: the auxiliary outputs of training.

Every batch normalisation is folded into the convolution before it (`fold`): in evaluation they are one.

Legend: b batch, c channel, f bin, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError

_EPSILON = 1e-5  # of torch's batch normalisation
_LEAK = 0.01  # of torch's LeakyReLU


class Size(NamedTuple):
    """An ASPP network: channels of its first layer, branches of its pyramids, halvings of the spectrogram."""

    width: int
    branches: int
    levels: int = 4


# Published file size in KB -> the network.
ASPP_SIZES: dict[int, Size] = {
    31191: Size(16, 5),
    33966: Size(16, 7),
    129605: Size(16, 6, levels=5),
    123812: Size(32, 5),
    123821: Size(32, 5),
    537227: Size(64, 7),
    537238: Size(64, 7),
}
# Published file size in KB -> (nout, nout_lstm).
LSTM_SIZES: dict[int, tuple[int, int]] = {56817: (32, 128), 218409: (64, 128)}


class Unit(nn.Module):
    """Convolution, batch normalisation (folded) and activation. Published as `conv.0`, `conv.1`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, leak: float = 0):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation)
        self.leak = leak

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv(x), self.leak) if self.leak else F.relu_(self.conv(x))


class SeparableUnit(nn.Module):
    """The same with the convolution in two: each channel by itself, then across. `conv.0`, `conv.1`, `conv.2`."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.pointwise(self.depthwise(x)))


class Encoder(nn.Module):
    """Two convolutions, one of which halves bins and frames: the first in version 5.1, else the second."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        self.conv1 = Unit(inputs, outputs, stride=2 if first else 1, leak=_LEAK)
        self.conv2 = Unit(outputs, outputs, stride=1 if first else 2, leak=_LEAK)


class Decoder(nn.Module):
    """Twice the bins and frames, the encoder's output beside them, a convolution."""

    def __init__(self, inputs: int, outputs: int, name: str) -> None:
        super().__init__()
        self.name = name  # the published one of the convolution
        self.add_module(name, Unit(inputs, outputs))

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        joined: Tensor = self.get_submodule(self.name)(torch.cat([x, *skips], 1))
        return joined


class Pooled(nn.Sequential):
    """What all bins of a frame have in common: their mean through a convolution. [b, c, f, n] -> [b, c', 1, n]"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Identity(), Unit(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self[1](x.mean(2, keepdim=True))
        return pooled


class Pyramid(nn.Module):
    """Branches that look ever further, beside each other. [b, c, f, n] -> [b, outputs, f, n]

    Args:
        separable: version before 5.1, every branch with as many channels as the input.
        dilations: of the branches after the first two.
    """

    def __init__(
        self, inputs: int, outputs: int, dilations: tuple[int | tuple[int, int], ...], *, separable: bool
    ) -> None:
        super().__init__()
        inner = inputs if separable else outputs
        self.conv1 = Pooled(inputs, inner)
        self.conv2 = Unit(inputs, inner, 1)
        self.branches = len(dilations) + 2
        for number, dilation in enumerate(dilations, 3):
            branch = SeparableUnit(inputs, dilation) if separable else _dilated(inputs, inner, dilation)  # type: ignore[arg-type]
            self.add_module(f"conv{number}", branch)
        joint = Unit(self.branches * inner, outputs, 1)
        self.bottleneck = nn.Sequential(joint) if separable else joint

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv1(x).expand(-1, -1, x.shape[2], -1)]
        parts += [self.get_submodule(f"conv{number}")(x) for number in range(2, self.branches + 1)]
        joined: Tensor = self.bottleneck(torch.cat(parts, 1))
        return joined


def _dilated(inputs: int, outputs: int, dilation: tuple[int, int]) -> Unit:
    unit = Unit(inputs, outputs)
    unit.conv = nn.Conv2d(inputs, outputs, 3, 1, dilation, dilation)
    return unit


class BaseASPP(nn.Module):
    """A U-net with a pyramid at its bottom. [b, c, f, n] -> [b, width, f, n]"""

    def __init__(self, inputs: int, width: int, size: Size) -> None:
        super().__init__()
        self.levels = size.levels
        widths = [inputs, *(width * 2**level for level in range(size.levels))]
        for level in range(1, size.levels + 1):
            self.add_module(f"enc{level}", Encoder(widths[level - 1], widths[level], first=False))
        bottom = widths[-1]
        self.aspp = Pyramid(bottom, 2 * bottom, (4, 8, 16, 16, 16)[: size.branches - 2], separable=True)
        below = 2 * bottom
        for level in range(size.levels, 0, -1):
            self.add_module(f"dec{level}", Decoder(below + widths[level], widths[level], "conv"))
            below = widths[level]

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in range(1, self.levels + 1):
            encoder = self.get_submodule(f"enc{level}")
            skips.append(encoder.conv1(x))  # type: ignore[operator]
            x = encoder.conv2(skips[-1])  # type: ignore[operator]
        x = self.aspp(x)
        for level in range(self.levels, 0, -1):
            x = self.get_submodule(f"dec{level}")(x, skips.pop())
        return x


class CascadedASPP(nn.Module):
    """Magnitudes [b, 2, f + 1, n] -> mask [b, 2, f + 1, n]; f and n multiples of `multiple`."""

    offset = 128  # frames at each side of a window whose masks are not used

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.multiple = 2**size.levels
        self.stg1_low_band_net = BaseASPP(2, width, size)
        self.stg1_high_band_net = BaseASPP(2, width, size)
        self.stg2_bridge = Unit(2 + width, width // 2, 1)
        self.stg2_full_band_net = BaseASPP(width // 2, width, size)
        self.stg3_bridge = Unit(2 + 2 * width, width, 1)
        self.stg3_full_band_net = BaseASPP(width, 2 * width, size)
        self.out = nn.Conv2d(2 * width, 2, 1, bias=False)

    def forward(self, magnitude: Tensor) -> Tensor:
        x = magnitude[:, :, :-1]
        low, high = x.chunk(2, 2)
        first = torch.cat([self.stg1_low_band_net(low), self.stg1_high_band_net(high)], 2)
        second = self.stg2_full_band_net(self.stg2_bridge(torch.cat([x, first], 1)))
        third = self.stg3_full_band_net(self.stg3_bridge(torch.cat([x, first, second], 1)))
        return _mask(self.out(third))


class Memory(nn.Module):
    """One plane of all channels, through a recurrent layer over the frames. [b, c, f, n] -> [b, 1, f, n]"""

    def __init__(self, channels: int, bins: int, hidden: int) -> None:
        super().__init__()
        self.conv = Unit(channels, 1, 1)
        self.lstm = nn.LSTM(bins, hidden // 2, bidirectional=True)
        self.dense = nn.Linear(hidden // 2 * 2, bins)

    def forward(self, x: Tensor) -> Tensor:
        plane = self.conv(x)[:, 0].permute(2, 0, 1)  # [n, b, f]
        return F.relu_(self.dense(self.lstm(plane)[0])).permute(1, 2, 0)[:, None]


class BaseLSTM(nn.Module):
    """The same with a memory in its second highest level. [b, c, f, n] -> [b, width, f, n]"""

    def __init__(self, inputs: int, width: int, bins: int, hidden: int) -> None:
        super().__init__()
        self.enc1 = Unit(inputs, width)
        self.enc2 = Encoder(width, 2 * width, first=True)
        self.enc3 = Encoder(2 * width, 4 * width, first=True)
        self.enc4 = Encoder(4 * width, 6 * width, first=True)
        self.enc5 = Encoder(6 * width, 8 * width, first=True)
        self.aspp = Pyramid(8 * width, 8 * width, ((4, 2), (8, 4), (12, 6)), separable=False)
        self.dec4 = Decoder(14 * width, 6 * width, "conv1")
        self.dec3 = Decoder(10 * width, 4 * width, "conv1")
        self.dec2 = Decoder(6 * width, 2 * width, "conv1")
        self.lstm_dec2 = Memory(2 * width, bins // 2, hidden)
        self.dec1 = Decoder(3 * width + 1, width, "conv1")

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.enc1(x)]
        for encoder in (self.enc2, self.enc3, self.enc4, self.enc5):
            skips.append(encoder.conv2(encoder.conv1(skips[-1])))
        x = self.aspp(skips.pop())
        for decoder in (self.dec4, self.dec3, self.dec2):
            x = decoder(x, skips.pop())
        joined: Tensor = self.dec1(torch.cat([x, self.lstm_dec2(x)], 1), skips.pop())
        return joined


class CascadedLSTM(nn.Module):
    """Magnitudes [b, 2, f + 1, n] -> mask [b, 2, f + 1, n]; f a multiple of 32, n of 16.

    Args:
        bins: f.
        width, hidden: published as `nout` and `nout_lstm`.
    """

    offset = 64
    multiple = 16

    def __init__(self, bins: int, width: int, hidden: int) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.stg1_low_band_net = nn.Sequential(BaseLSTM(2, half, bins // 2, hidden), Unit(half, quarter, 1))
        self.stg1_high_band_net = BaseLSTM(2, quarter, bins // 2, hidden // 2)
        self.stg2_low_band_net = nn.Sequential(BaseLSTM(quarter + 2, width, bins // 2, hidden), Unit(width, half, 1))
        self.stg2_high_band_net = BaseLSTM(quarter + 2, half, bins // 2, hidden // 2)
        self.stg3_full_band_net = BaseLSTM(3 * width // 4 + 2, width, bins, hidden)
        self.out = nn.Conv2d(width, 2, 1, bias=False)

    def forward(self, magnitude: Tensor) -> Tensor:
        x = magnitude[:, :, :-1]
        low, high = x.chunk(2, 2)
        low1, high1 = self.stg1_low_band_net(low), self.stg1_high_band_net(high)
        low2 = self.stg2_low_band_net(torch.cat([low, low1], 1))
        high2 = self.stg2_high_band_net(torch.cat([high, high1], 1))
        seen = [x, torch.cat([low1, high1], 2), torch.cat([low2, high2], 2)]
        return _mask(self.out(self.stg3_full_band_net(torch.cat(seen, 1))))


def _mask(logits: Tensor) -> Tensor:
    """The highest bin, which the network does not see, takes the mask of the one below it."""
    return F.pad(logits.float().sigmoid_(), (0, 0, 0, 1), mode="replicate")


# ---------------------------------------------------------------- published weights


def published_shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the published tensors that a network is made of."""
    shapes: dict[str, tuple[int, ...]] = {}
    folded: set[str] = set()
    for name, layers, norm in _folds(network):
        for mine, published in layers:
            shapes[published] = tuple(network.get_parameter(mine).shape)
            folded |= {mine, mine.removesuffix("weight") + "bias"}
        outputs = shapes[layers[-1][1]][0]
        shapes |= {f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        if name.endswith(".dense"):
            shapes[f"{name}.0.bias"] = (outputs,)
    shapes |= {name: tuple(value.shape) for name, value in network.named_parameters() if name not in folded}
    return shapes


def fold(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `network`.

    A normalisation takes y = s x + o of each channel; with the convolution before it, s W and s b + o. The products are
    taken in float64, so that only the last rounding differs.

    Args:
        network: the module, on any device ("meta" will do).
        state: tensors with their published names.

    Raises:
        CheckpointError: tensors that are missing, have another shape, or that the network does not have.
    """
    expected = published_shapes(network)
    for name, shape in expected.items():
        if name not in state or tuple(state[name].shape) != shape:
            found = f"has the shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise CheckpointError(
                f"the weights of vr: {name} {found}, expected {shape}.",
                hint="`network` (or `nout` and `nout_lstm`) and `layout` must be those of the file.",
            )
    unknown = [name for name in state if name not in expected and not name.startswith("aux")]
    if unknown := [name for name in unknown if not name.endswith("num_batches_tracked")]:
        raise CheckpointError(f"the weights of vr hold {', '.join(unknown[:5])}, which the network does not have.")
    tensors: dict[str, Tensor] = {}
    for name, layers, norm in _folds(network):
        scale = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + _EPSILON).sqrt()
        offset = state[f"{norm}.bias"].double() - scale * state[f"{norm}.running_mean"].double()
        if name.endswith(".dense"):
            offset = offset + scale * state[f"{name}.0.bias"].double()
        for mine, published in layers:
            tensors[mine] = state[published]
        mine, published = layers[-1]
        weight = state[published].double()
        tensors[mine] = (weight * scale.view(-1, *[1] * (weight.dim() - 1))).float()
        tensors[mine.removesuffix("weight") + "bias"] = offset.float()
    return {**{name: state[name] for name in dict(network.named_parameters()) if name not in tensors}, **tensors}


def _folds(network: nn.Module) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    """What is folded: module, its weights as (name here, published name), and its normalisation's published name."""
    for name, module in network.named_modules():
        if isinstance(module, Unit):
            yield name, [(f"{name}.conv.weight", f"{name}.conv.0.weight")], f"{name}.conv.1"
        elif isinstance(module, SeparableUnit):
            across = (f"{name}.pointwise.weight", f"{name}.conv.1.weight")
            yield name, [(f"{name}.depthwise.weight", f"{name}.conv.0.weight"), across], f"{name}.conv.2"
        elif isinstance(module, Memory):
            dense = f"{name}.dense"
            yield dense, [(f"{dense}.weight", f"{dense}.0.weight")], f"{dense}.1"
