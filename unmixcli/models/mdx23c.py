"""MDX23C (TFC-TDF U-Net v3): all stems' spectra from the mixture's, in sub-bands.

"Sound Demixing Challenge 2023 Music Demixing Track Technical Report: TFC-TDF-UNet v3" (Kim & Lee, 2023,
arXiv:2306.09382). Checked against `audio-separator` 0.47.1 (its `tfc_tdf_v3.py`) and its public relatives' settings:
weights load unchanged. Left out: training.

Published protocol: segments of `chunk_size` samples, a new one every `chunk_size / num_overlap`, the last one filled up
with its mirror image; with `normalize` the track is normalised by its mono mix. Our cross-fade is the triangle of
`segment.py`.

Everything is held with channels last, see `tfc_tdf.py`. Legend: b batch, n frame, f bin of a sub-band, c channel of the
network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import linear
from unmixcli.models.settings import read_settings, require, without_memory
from unmixcli.models.tfc_tdf import (
    MAX_LENGTH,
    analyse,
    convolve,
    convolve_into,
    frames_at_once,
    frames_for,
    narrow_bins,
    synthesise,
    widen_bins_into,
)

Activation = Callable[[Tensor], Tensor]

_EPSILON = 1e-5  # of the norms
_DEFAULTS: dict[str, Any] = {
    "n_fft": 8192,
    "hop_length": 1024,
    "dim_f": 4096,
    "num_channels": 128,
    "growth": 128,
    "num_scales": 5,
    "num_subbands": 4,
    "num_blocks_per_scale": 2,
    "bottleneck_factor": 4,
    "chunk_size": 261120,
    "num_overlap": 2,
    "normalize": False,
    "sample_rate": 44100,
}
_TEXTS = ("norm", "act", "scale", "instruments", "target_instrument")


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked, with defaults."""
    plain = {name: value for name, value in config.items() if name not in _TEXTS}
    values = read_settings("mdx23c", plain, _DEFAULTS, only={}, ignored=("batch_size", "dim_t", "min_mean_abs"))
    scale = config.get("scale", [2, 2])
    if (
        not isinstance(scale, (list, tuple))
        or len(scale) != 2
        or not all(type(s) is int and 1 <= s <= 8 for s in scale)
    ):
        raise CheckpointError(f"mdx23c's scale is {scale!r}, expected two whole numbers from 1 to 8.")
    norm, act = config.get("norm"), config.get("act", "gelu")
    if norm is not None and not (
        isinstance(norm, str) and re.fullmatch(r"InstanceNorm|BatchNorm|GroupNorm\d{1,4}", norm)
    ):
        raise CheckpointError(
            f"mdx23c's norm is {norm!r}, expected InstanceNorm, BatchNorm or GroupNorm with a number."
        )
    if not isinstance(act, str) or not re.fullmatch(r"gelu|relu|elu\d*\.?\d+", act):
        raise CheckpointError(f"mdx23c's act is {act!r}, expected gelu, relu or elu with a number.")
    n_fft, hop, bins, chunk = (values[name] for name in ("n_fft", "hop_length", "dim_f", "chunk_size"))
    step = values["num_subbands"] * scale[1] ** min(values["num_scales"], 12)
    factor, narrowest = values["bottleneck_factor"], bins // max(step, 1)
    require(
        "mdx23c",
        (
            (16 <= n_fft <= 2**20 and n_fft % 2 == 0, f"n_fft is {n_fft}, expected an even number, 16 to 1048576"),
            (1 <= hop <= n_fft // 2, f"hop_length is {hop}, expected 1..{n_fft // 2}"),
            (1 <= values["num_scales"] <= 12, f"num_scales is {values['num_scales']}, expected 1..12"),
            (1 <= values["num_subbands"] <= 256, f"num_subbands is {values['num_subbands']}, expected 1..256"),
            (1 <= bins <= n_fft // 2 + 1, f"dim_f is {bins}, expected 1..{n_fft // 2 + 1}"),
            (bins % max(step, 1) == 0, f"dim_f is {bins}, expected a multiple of {step} (num_subbands and scales)"),
            (1 <= values["num_channels"] <= 4096, f"num_channels is {values['num_channels']}, expected 1..4096"),
            (values["growth"] <= 4096, f"growth is {values['growth']}, expected 0..4096"),
            (1 <= values["num_blocks_per_scale"] <= 16, "num_blocks_per_scale is not between 1 and 16"),
            (1 <= factor <= narrowest, f"bottleneck_factor is {factor}, expected 1..{narrowest} (bins at the bottom)"),
            (n_fft // 2 < chunk <= MAX_LENGTH, f"chunk_size is {chunk}, expected {n_fft // 2 + 1}..{MAX_LENGTH}"),
            (1 <= values["num_overlap"] <= 50, f"num_overlap is {values['num_overlap']}, expected 1..50"),
            (values["sample_rate"] >= 1000, f"sample_rate is {values['sample_rate']}, expected at least 1000"),
        ),
    )
    return {**values, "scale": tuple(scale), "norm": norm, "act": act}


def _outputs(config: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
    """Names of the network's outputs: the target, or the instruments, or without either the stems asked for."""

    def plain(name: Any) -> str:
        if not isinstance(name, str):
            raise CheckpointError(f"mdx23c has an instrument {name!r}, expected a name.")
        return name.lower().replace(" ", "_")

    if config.get("target_instrument") is not None:
        return (plain(config["target_instrument"]),)
    instruments = config.get("instruments", list(stems))
    if not isinstance(instruments, (list, tuple)) or not 0 < len(instruments) <= 100:
        raise CheckpointError(f"mdx23c's instruments are {instruments!r}, expected a list of names.")
    return tuple(plain(name) for name in instruments)


class MDX23C(SeparationModel):
    """See the module.

    Raises:
        CheckpointError: settings it can't be built with.
    """

    edge = 0
    edge_padding = "reflect"
    window: Tensor
    first_conv: nn.Conv2d
    encoder_blocks: nn.ModuleList
    bottleneck_block: nn.Module
    decoder_blocks: nn.ModuleList
    final_conv: nn.Sequential

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        values = _read(config)
        outputs = _outputs(config, stems)
        if missing := [stem for stem in stems if stem not in outputs]:
            raise CheckpointError(f"mdx23c gives {', '.join(outputs)} by its config, not {', '.join(missing)}.")
        self.values = values
        self.stems = tuple(stems)
        self.outputs = len(outputs)
        self._wanted = [outputs.index(stem) for stem in stems]
        self.covers_mixture = len(outputs) > 1
        self.sample_rate = values["sample_rate"]
        self.segment_length = values["chunk_size"]
        self.overlap = 1 - 1 / values["num_overlap"]
        self.normalization = "track" if values["normalize"] else "none"
        self.frame_multiple = values["scale"][0] ** values["num_scales"]
        for name, part in without_memory(lambda: _Layers(values, self.outputs)).named_children():
            self.add_module(name, part)
        self.register_buffer("window", torch.hann_window(values["n_fft"]), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> MDX23C:
        """See `SeparationModel`. Keys: `_DEFAULTS`, norm, act, scale, instruments, target_instrument, as published."""
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict without what only training needs."""
        state = super().convert_state(config, states)
        return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}

    def context(self, used: int) -> tuple[int, int]:
        """As published, its mirror image fills the last segment up."""
        return 0, max(0, self.segment_length - used)

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, 2, T] -> estimates [B, S, 2, T]."""
        length, hop, bands = mixture.shape[-1], self.values["hop_length"], self.values["num_subbands"]
        frames = frames_for(length, n_fft=self.window.shape[0], hop=hop, multiple=self.frame_multiple)
        x = analyse(mixture, self.window, hop=hop, bins=self.values["dim_f"], frames=frames)
        x = x.unflatten(2, (bands, -1)).permute(0, 1, 3, 4, 2).flatten(3)  # [b, n, f, (part band)]
        y = self.network(x).unflatten(3, (self.outputs, -1, bands))[:, :, :, self._wanted]
        y = y.permute(0, 3, 1, 5, 2, 4).flatten(3, 4)  # [b, stem, n, (band f), part]
        return synthesise(y, self.window, hop=hop, length=length)

    def network(self, x: Tensor) -> Tensor:
        """Sub-bands of the mixture [b, n, f, 4 k] -> those of all outputs [b, n, f, S 4 k]."""
        return torch.stack([self._network(item) for item in x])

    def _network(self, x: Tensor) -> Tensor:
        first = y = _pointwise(self.first_conv, x)
        skips = []
        for encoder in self.encoder_blocks:
            y = encoder["tfc_tdf"](y)  # type: ignore[index]  # a ModuleDict
            skips.append(y)
            y = encoder["downscale"](y)  # type: ignore[index]
        y = self.bottleneck_block(y)
        for decoder in self.decoder_blocks:
            y = decoder["upscale"](y)  # type: ignore[index]
            y = decoder["tfc_tdf"](torch.cat([y, skips.pop()], -1))  # type: ignore[index]
        y = torch.cat([x, y.mul_(first)], -1)
        widen, act, last = self.final_conv
        return _pointwise(last, act(_pointwise(widen, y)))


class _Layers(nn.Module):
    """The parts of the network, under their published names."""

    def __init__(self, values: Mapping[str, Any], outputs: int) -> None:
        super().__init__()
        bands, scale, growth = values["num_subbands"], values["scale"], values["growth"]
        parts, width = 4 * bands, values["num_channels"]
        bins = values["dim_f"] // bands
        self.first_conv = nn.Conv2d(parts, width, 1, bias=False)
        self.encoder_blocks = nn.ModuleList()
        for _ in range(values["num_scales"]):
            down = nn.Conv2d(width, width + growth, scale, scale, bias=False)
            self.encoder_blocks.append(
                nn.ModuleDict(
                    {"tfc_tdf": _Stack(width, width, bins, values), "downscale": _Rescale(width, down, values)}
                )
            )
            width, bins = width + growth, bins // scale[1]
        self.bottleneck_block = _Stack(width, width, bins, values)
        self.decoder_blocks = nn.ModuleList()
        for _ in range(values["num_scales"]):
            up = nn.ConvTranspose2d(width, width - growth, scale, scale, bias=False)
            rescale = _Rescale(width, up, values)
            width, bins = width - growth, bins * scale[1]
            self.decoder_blocks.append(
                nn.ModuleDict({"upscale": rescale, "tfc_tdf": _Stack(2 * width, width, bins, values)})
            )
        self.final_conv = nn.Sequential(
            nn.Conv2d(width + parts, width, 1, bias=False),
            _Activation(values["act"]),
            nn.Conv2d(width, outputs * parts, 1, bias=False),
        )


class _Stack(nn.Module):
    """Some blocks of convolutions and layers over frequency. [n, f, inputs] -> [n, f, width]."""

    def __init__(self, inputs: int, width: int, bins: int, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(width if number else inputs, width, bins, values) for number in range(values["num_blocks_per_scale"])
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    """y = c1(x); result: c2(y + tdf(y)) + shortcut(x), each layer after a norm and an activation.

    A norm is a gain and an offset per channel once its statistics are known: it is applied to the few frames that the
    next layer is about to read, so that nothing but y is ever held.
    """

    def __init__(self, inputs: int, width: int, bins: int, values: Mapping[str, Any]) -> None:
        super().__init__()
        narrow = bins // values["bottleneck_factor"]
        self.tfc1 = nn.Sequential(*_prepared(inputs, values), nn.Conv2d(inputs, width, 3, padding=1, bias=False))
        self.tdf = nn.Sequential(
            *_prepared(width, values),
            nn.Linear(bins, narrow, bias=False),
            *_prepared(width, values),
            nn.Linear(narrow, bins, bias=False),
        )
        self.tfc2 = nn.Sequential(*_prepared(width, values), nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.shortcut = nn.Conv2d(inputs, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second, narrow, wide = self.tfc1[2], self.tfc2[2], self.tdf[2], self.tdf[5]
        y = x.new_empty(*x.shape[:2], self.shortcut.weight.shape[0])
        convolve_into(y, first, x, before=_ready(self.tfc1, x), after=_unchanged)  # type: ignore[arg-type]
        z = narrow_bins(narrow.weight, y, before=_ready(self.tdf, y))  # type: ignore[arg-type]
        widen_bins_into(y, wide.weight, _ready(self.tdf[3:], z)(z))  # type: ignore[arg-type]

        def add_shortcut(part: Tensor, place: slice) -> Tensor:
            return part.add_(_pointwise(self.shortcut, x[place]))

        return convolve_into(y, second, y, before=_ready(self.tfc2, y), after=add_shortcut)  # type: ignore[arg-type]


def _unchanged(part: Tensor, place: slice) -> Tensor:
    return part


class _Rescale(nn.Module):
    """A norm, an activation and a convolution that makes the grid of frames and bins coarser or finer."""

    def __init__(self, inputs: int, convolution: nn.Module, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.conv = nn.Sequential(*_prepared(inputs, values), convolution)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv[2], _ready(self.conv, x)(x))


class _Activation(nn.Module):
    """gelu (the exact one), relu, or elu with its factor: "elu1.0"."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._factor = float(name.removeprefix("elu")) if name.startswith("elu") else 1.0

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "gelu":
            return F.gelu(x)
        return F.relu(x) if self.name == "relu" else F.elu(x, self._factor)


class _NoNorm(nn.Module):
    """Leaves everything as it is."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        return None


class _Norm(nn.Module):
    """A norm over frames and bins: [n, f, c] -> what each channel is multiplied by and what is added then, [c] each.

    Args:
        channels: c.
        kind: "InstanceNorm" (each channel by itself), "GroupNormN" (N groups of channels).
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        self.groups = channels if kind == "InstanceNorm" else int(kind.removeprefix("GroupNorm"))
        if self.groups < 1 or channels % self.groups:
            raise CheckpointError(f"mdx23c's norm is {kind}, but a layer has {channels} channels.")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        count = x.shape[0] * x.shape[1]
        mean = self._of_group(x.sum((0, 1)) / count)
        squares = torch.zeros_like(mean)
        for part in x.split(frames_at_once(x)):
            squares += (part - mean).square_().sum((0, 1))
        gain = self.weight * torch.rsqrt(self._of_group(squares / count) + _EPSILON)
        return gain, self.bias - mean * gain

    def _of_group(self, values: Tensor) -> Tensor:
        """Each channel's value replaced by the mean of its group's."""
        grouped = values.view(self.groups, -1)
        return grouped.mean(1, keepdim=True).expand_as(grouped).reshape(-1)


class _BatchNorm(nn.BatchNorm2d):
    """The same of a batch normalisation."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        assert self.running_mean is not None
        assert self.running_var is not None
        gain = self.weight * torch.rsqrt(self.running_var + self.eps)
        return gain, self.bias - self.running_mean * gain


def _prepared(channels: int, values: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
    """What stands before every layer, in its place in the published state dict."""
    kind = values["norm"]
    norm = _NoNorm() if kind is None else _BatchNorm(channels) if kind == "BatchNorm" else _Norm(channels, kind)
    return norm, _Activation(values["act"])


def _ready(layers: nn.Sequential, x: Tensor) -> Activation:
    """The norm and the activation that `layers` begins with, for any frames of x."""
    scale, act = layers[0](x), layers[1]
    if scale is None:
        return act
    gain, offset = scale
    return lambda part: act(torch.addcmul(offset, part, gain))


def _pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution of one frame and bin, as the matrix product that it is."""
    weight: Any = layer.weight
    return linear(x, weight.flatten(1))
