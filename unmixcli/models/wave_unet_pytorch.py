"""The PyTorch version of Wave-U-Net: six levels, a fixed low-pass before every change of rate, one network per stem.

`f90/Wave-U-Net-Pytorch` (MIT), the authors' later code, as it stood when its weights were published (commit b4d8d01),
and checked against it. The network follows "Wave-U-Net" (Stoller, Ewert & Dixon, ISMIR 2018, arXiv:1806.03185). Left
out: stacks of several convolutions (`depth`), which do not run in the public code either.

Its normalisations average over all that a pass hears, so a segment always has the published length (98 k samples in,
88 k out). The published program sets these side by side; here they overlap by a quarter (`--overlap 0` is the published
way).

Legend: b batch, c channel, t sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import Conv1d
from unmixcli.models.settings import read_sources, require

NAME = "wave_unet_pytorch"
_TAPS = 15  # of the low-pass
_NORM_CHANNELS = 8
_JOINT = "ALL"  # the published name of a network that gives all stems
_DEFAULTS: dict[str, Any] = {
    "features": 32, "levels": 6, "depth": 1, "sr": 44100, "channels": 2, "kernel_size": 5, "output_size": 2.0,
    "strides": 4, "conv_type": "gn", "res": "fixed", "separate": 1, "feature_growth": "double",
}  # fmt: skip
_CHOICES = {
    "conv_type": ("gn", "bn", "normal"),
    "res": ("fixed", "learned"),
    "feature_growth": ("double", "add"),
    "separate": (0, 1),
    "depth": (1,),
    "channels": (1, 2),
}


class WaveUNetPytorch(SeparationModel):
    """See the module.

    Args:
        config: see `from_config`.
        stems: the outputs, some of the instruments; only their networks are built.

    Raises:
        CheckpointError: settings that this Wave-U-Net does not have.
    """

    trainable = True
    edge_padding = "zero"
    fixed_segment = True

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.values = values = _read(config)
        self.instruments = read_sources(NAME, config, stems, key="instruments")
        self.stems = tuple(stems)
        self.sample_rate, self.channels = values["sr"], values["channels"]
        self.covers_mixture = len(self.stems) == len(self.instruments)
        names = self.stems if values["separate"] else (_JOINT,)
        outputs = 1 if values["separate"] else len(self.instruments)
        self.waveunets = nn.ModuleDict({name: _Network(values, outputs) for name in names})
        wanted = int(values["output_size"] * values["sr"])
        self.segment_length, given = self.lengths(wanted)
        self.edge = (self.segment_length - given) // 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> WaveUNetPytorch:
        """See `SeparationModel`. Keys: the arguments of the public programs; `instruments` names all outputs of the
        weights (default: the stems asked)."""
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict, as it is."""
        if len(states) != 1:
            raise TypeError(f"{cls.__name__} takes one file, {len(states)} were given")
        return dict(next(iter(states.values())))

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's; networks of instruments that were not asked for are left out."""
        unused = [name for name in self.instruments if self.values["separate"] and name not in self.waveunets]
        prefixes = tuple(f"waveunets.{name}." for name in unused)
        kept = {name: tensor for name, tensor in state_dict.items() if not name.startswith(prefixes or ("\0",))}
        return super().load_state_dict(kept, *args, **kwargs)

    def lengths(self, wanted: int) -> tuple[int, int]:
        """Samples in and out of the smallest forward pass that gives `wanted` samples."""
        network = next(iter(self.waveunets.values()))
        assert isinstance(network, _Network)
        bottom = 1
        while True:
            found = network.lengths(bottom)
            if found is not None and found[1] >= wanted:
                return found
            bottom += 1 if found is None else max(1, (wanted - found[1]) // network.grid)

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. Of a whole segment the edges are left silent; a signal of
        another length is heard with silence around it."""
        length = mixture.shape[-1]
        if length == self.segment_length:
            return F.pad(self._centre(mixture), (self.edge, self.edge))
        heard, given = self.lengths(length)
        before = (heard - given) // 2
        return self._centre(F.pad(mixture, (before, heard - before - length)))[..., :length]

    def training_outputs(self, mixture: Tensor, wanted: Any) -> dict[str, Tensor]:
        """The middle of an excerpt of a segment's length, else as `forward`."""
        whole = mixture.shape[-1] == self.segment_length
        return {"waveforms": self._centre(mixture) if whole else self(mixture)}

    def _centre(self, x: Tensor) -> Tensor:
        if self.values["separate"]:
            estimates = torch.stack([network(x) for network in self.waveunets.values()], 1)
        else:
            every = self.waveunets[_JOINT](x).unflatten(1, (-1, self.channels))
            estimates = every[:, [self.instruments.index(stem) for stem in self.stems]]
        return estimates if self.training else estimates.clamp(-1, 1)


class _Layer(nn.Module):
    """A convolution without padding, a norm and an activation: [b, c, t] -> [b, c', t']. With `up` transposed."""

    def __init__(
        self, before: int, after: int, values: Mapping[str, Any], *, stride: int = 1, up: bool = False
    ) -> None:
        super().__init__()
        self.size, self.stride, self.up = values["kernel_size"], stride, up
        self.filter: nn.Module = Conv1d(before, after, self.size, stride)
        if up:
            self.filter = nn.ConvTranspose1d(before, after, self.size, stride, padding=self.size - 1)
        self.norm: nn.Module | None = None
        if values["conv_type"] == "gn":
            self.norm = nn.GroupNorm(after // _NORM_CHANNELS, after)
        elif values["conv_type"] == "bn":
            self.norm = nn.BatchNorm1d(after, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self.filter(x)
        return F.leaky_relu(y) if self.norm is None else self.norm(y).relu()

    def given(self, length: int) -> int:
        """Samples out, by those in; 0 where that is not a whole step."""
        if self.up:
            return (length - 1) * self.stride + 1 - self.size + 1 if length > 1 else 0
        left = length - self.size
        return left // self.stride + 1 if left >= 0 and left % self.stride == 0 else 0

    def heard(self, length: int) -> int:
        """Samples in, by those out."""
        return (length - 1) * self.stride + self.size


class _Resampler(nn.Module):
    """A low-pass and every `stride`-th sample, or with `up` samples between: [b, c, t], ends mirrored."""

    def __init__(self, channels: int, stride: int, *, up: bool = False) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        self.register_buffer("filter", _low_pass(stride).expand(channels, 1, _TAPS).clone())
        self.filter: Tensor

    def forward(self, x: Tensor) -> Tensor:
        channels, reach = x.shape[1], _TAPS // 2
        padded = F.pad(x, (reach, reach), mode="reflect")
        if not self.up:
            return F.conv1d(padded, self.filter, stride=self.stride, groups=channels)
        y = F.conv_transpose1d(padded, self.filter, stride=self.stride, groups=channels)
        cut = (y.shape[-1] - self.given(x.shape[-1])) // 2
        return y[..., cut:-cut]

    def given(self, length: int) -> int:
        """Samples out, by those in; 0 where there are too few to mirror."""
        return (length - 1) * self.stride + 1 if length > _TAPS // 2 else 0

    def heard(self, length: int) -> int:
        """Samples in, by those out."""
        return (length - 1) * self.stride + 1


class _Down(nn.Module):
    def __init__(self, before: int, shortcut: int, after: int, values: Mapping[str, Any]) -> None:
        super().__init__()
        stride = values["strides"]
        self.pre_shortcut_convs = nn.ModuleList([_Layer(before, shortcut, values)])
        self.post_shortcut_convs = nn.ModuleList([_Layer(shortcut, after, values)])
        fixed = values["res"] == "fixed"
        self.downconv = _Resampler(after, stride) if fixed else _Layer(after, after, values, stride=stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shortcut = self.pre_shortcut_convs[0](x)
        return self.downconv(self.post_shortcut_convs[0](shortcut)), shortcut


class _Up(nn.Module):
    def __init__(self, before: int, after: int, values: Mapping[str, Any]) -> None:
        super().__init__()
        stride = values["strides"]
        fixed = values["res"] == "fixed"
        resampler = _Resampler(before, stride, up=True)
        self.upconv = resampler if fixed else _Layer(before, before, values, stride=stride, up=True)
        self.pre_shortcut_convs = nn.ModuleList([_Layer(before, after, values)])
        self.post_shortcut_convs = nn.ModuleList([_Layer(2 * after, after, values)])

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        raised = self.pre_shortcut_convs[0](self.upconv(x))
        cut = (shortcut.shape[-1] - raised.shape[-1]) // 2
        return self.post_shortcut_convs[0](torch.cat([shortcut[..., cut : cut + raised.shape[-1]], raised], 1))


class _Network(nn.Module):
    """[b, c, t] -> [b, outputs c, t'], t and t' of `lengths`."""

    def __init__(self, values: Mapping[str, Any], outputs: int) -> None:
        super().__init__()
        features, count = values["features"], values["levels"]
        double = values["feature_growth"] == "double"
        widths = [features * (2**level if double else level + 1) for level in range(count)]
        inputs = [values["channels"], *widths[1:]]
        self.grid = values["strides"] ** (count - 1)
        self.downsampling_blocks = nn.ModuleList(
            _Down(inputs[level], widths[level], widths[level + 1], values) for level in range(count - 1)
        )
        self.bottlenecks = nn.ModuleList([_Layer(widths[-1], widths[-1], values)])
        self.upsampling_blocks = nn.ModuleList(
            _Up(widths[level + 1], widths[level], values) for level in reversed(range(count - 1))
        )
        self.output_conv = Conv1d(widths[0], outputs * values["channels"], 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcuts = []
        for block in self.downsampling_blocks:
            x, shortcut = block(x)
            shortcuts.append(shortcut)
        x = self.bottlenecks[0](x)
        for block in self.upsampling_blocks:
            x = block(x, shortcuts.pop())
        return self.output_conv(x)

    def lengths(self, bottom: int) -> tuple[int, int] | None:
        """Samples in and out where `bottom` come out of the bottleneck; None if that can't be."""
        given = bottom
        for up in self.upsampling_blocks:
            assert isinstance(up, _Up)
            for layer in (up.upconv, up.pre_shortcut_convs[0], up.post_shortcut_convs[0]):
                assert isinstance(layer, (_Layer, _Resampler))
                given = layer.given(given)
                if given < 1:
                    return None
        bottleneck = self.bottlenecks[0]
        assert isinstance(bottleneck, _Layer)
        heard = bottleneck.heard(bottom)
        for down in reversed(self.downsampling_blocks):
            assert isinstance(down, _Down)
            for layer in (down.downconv, down.post_shortcut_convs[0], down.pre_shortcut_convs[0]):
                assert isinstance(layer, (_Layer, _Resampler))
                heard = layer.heard(heard)
        return heard, given


def _low_pass(stride: int) -> Tensor:
    """The published taps, [15]: a sinc under what is meant as a Blackman window, whose second cosine has lost its index
    and is a constant."""
    middle = _TAPS // 2
    place = np.arange(_TAPS) - middle
    cutoff = 0.5 / stride
    window = 0.42 - 0.5 * np.cos(2 * np.pi * np.arange(_TAPS) / (_TAPS - 1)) + 0.08 * np.cos(4 * np.pi * (_TAPS - 1))
    with np.errstate(invalid="ignore"):
        taps = np.sin(2 * np.pi * cutoff * place) / place * window
    taps[middle] = 2 * np.pi * cutoff
    taps = taps.astype(np.float32)
    return torch.from_numpy(taps / taps.sum())


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with defaults filled in, checked."""
    if unknown := set(config) - set(_DEFAULTS) - {"instruments", "batch_size", "cuda", "load_model"}:
        raise CheckpointError(f"{NAME} has no {', '.join(sorted(unknown))} in its config.")
    values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in values.items():
        kind = type(_DEFAULTS[name])
        if not (type(value) is kind or (kind is float and type(value) is int)):
            raise CheckpointError(f"{NAME}'s {name} is {value!r}, expected a value like {_DEFAULTS[name]!r}.")
    widest = values["features"] * 2 ** min(values["levels"], 20)
    require(
        NAME,
        (
            *((values[key] in words, f"{key} is {values[key]!r}, expected {' or '.join(map(str, words))}")
              for key, words in _CHOICES.items()),
            (2 <= values["levels"] <= 12, f"levels is {values['levels']}, expected 2 to 12"),
            (values["features"] >= 1 and widest <= 1 << 16, f"features is {values['features']}"),
            (values["conv_type"] != "gn" or values["features"] % _NORM_CHANNELS == 0,
             f"features is {values['features']}, expected a multiple of {_NORM_CHANNELS}"),
            (3 <= values["kernel_size"] <= 99 and values["kernel_size"] % 2 == 1,
             f"kernel_size is {values['kernel_size']}, expected an odd number"),
            (2 <= values["strides"] <= 16, f"strides is {values['strides']}, expected 2 to 16"),
            (1 <= values["sr"] <= 1 << 20, f"sr is {values['sr']}, expected Hz"),
            (0 < values["output_size"] <= 60, f"output_size is {values['output_size']}, expected seconds, up to 60"),
        ),
    )  # fmt: skip
    return values
