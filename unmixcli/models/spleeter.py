"""Spleeter: one U-Net per instrument on magnitudes of 12 s, and masks that share the mixture out by their ratio.

"Spleeter: a fast and efficient music source separation tool with pre-trained models" (Hennequin, Khlif, Voituret,
Moussallam, JOSS 2020, doi:10.21105/joss.02154); the network follows "Singing voice separation with deep U-Net
convolutional networks" (Jansson et al., ISMIR 2017). Checked against `spleeter` 2.4.2 on TensorFlow 2.15: 2, 4 and 5
stems, 11 and 16 kHz, the Wiener filter. Left out: training.

What a sample becomes depends on which window of 512 frames it lies in, and those stand side by side from 4096 samples
before the track. So a segment of the pipeline begins a whole window before the part of it that is used, and ends a
window behind: the first frames of the next window reach back into it. Those depend on half that window only, which is
all that is computed of it (`_HEAD`), and of the window before nothing is.

All instruments are computed whichever are asked for: a mask is one output's share of the sum of all.

Legend: b batch, j instrument, c channel, n frame, f bin; images are [b, channels, n, f].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.affine import Affine, channels_last
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import require, without_memory
from unmixcli.models.spectrogram import OverlapAdd, frame_count, spectra
from unmixcli.postfilters.spectra import load_norbert

NAME = "spleeter"
_EPSILON = 1e-10  # of the masks
_NORM_EPSILON = 1e-3
_LEVELS = 6
_GRID = 2**_LEVELS  # frames and bins are halved so often
# The first four frames of a window depend on its frames 0 to 253: a convolution of 5 with stride 2 reaches two inputs
# to each side, and sums to 253 through six levels from the second value of the deepest. Rounded up to the grid.
_HEAD = 256
_FILTERS = (16, 32, 64, 128, 256, 512)
_WINDOWS = 4  # of a segment that are used: 48 s
_CHANNELS = 2
_TYPES = ("unet.unet", "unet.softmax_unet")
_CHOICES = {
    "type": _TYPES,
    "mask_extension": ("zeros", "average"),
    "conv_activation": ("LeakyReLU", "ReLU", "ELU"),
    "deconv_activation": ("LeakyReLU", "ReLU", "ELU"),
}

_DEFAULTS: dict[str, Any] = {
    "sample_rate": 44100, "n_channels": 2, "frame_length": 4096, "frame_step": 1024, "T": 512, "F": 1024,
    "separation_exponent": 2, "mask_extension": "zeros", "MWF": False,
    "type": "unet.unet", "conv_n_filters": _FILTERS, "conv_activation": "LeakyReLU", "deconv_activation": "ReLU",
}  # fmt: skip
# of the published JSON, without a meaning for separation
_IGNORED = frozenset(
    {
        "train_csv", "validation_csv", "model_dir", "mix_name", "learning_rate", "batch_size", "training_cache",
        "validation_cache", "train_max_steps", "throttle_secs", "random_seed", "save_checkpoints_steps",
        "save_summary_steps", "instrument_list", "instruments", "optimizer", "loss_type",
    }
)  # fmt: skip


class Spleeter(SeparationModel):
    """The U-Nets of all instruments, and their masks.

    Args:
        config: see `from_config`.
        stems: the outputs, some of the instruments.

    Raises:
        CheckpointError: settings that Spleeter does not have.
    """

    window: Tensor
    edge_padding = "none"
    overlap = 0.0
    cpu_workers = True  # a chain of short convolutions, each a few milliseconds: threads would wait for each other

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.values = _read(config)
        self.instruments = _instruments(config, stems)
        self.stems = tuple(stems)
        self._outputs = [self.instruments.index(stem) for stem in stems]
        self.sample_rate, self.channels = self.values["sample_rate"], self.values["n_channels"]
        self._size, self._hop = self.values["frame_length"], self.values["frame_step"]
        self._frames, self._bins = self.values["T"], self.values["F"]
        self.segment_multiple = self._frames * self._hop
        self.edge = self.segment_multiple
        self.segment_length = (_WINDOWS + 2) * self.segment_multiple
        # masks of only some instruments leave the rest over; above F the published ones leave everything over
        self.covers_mixture = len(self.stems) == len(self.instruments)
        networks = without_memory(lambda: nn.ModuleList(_UNet(self.values) for _ in self.instruments))
        self.networks = networks._apply(channels_last)
        self.register_buffer("window", torch.hann_window(self._size), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> Spleeter:
        """See `SeparationModel`. Keys: those of the published JSON files, and of their `model` the `type` and the
        `params`, in there or beside the others; `instruments` (published: `instrument_list`) names all outputs of the
        weights (default: the stems asked); `MWF` as in the package's options."""
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The variables of the TensorFlow checkpoint: layers are numbered through, instrument after instrument."""
        (state,) = states.values()
        values = _read(config)
        instruments = config.get("instruments", config.get("instrument_list"))
        count = len(instruments) if instruments else sum(name.endswith("kernel") for name in state) // 13
        converted: dict[str, Tensor] = {}
        used = {"global_step"}
        for j in range(count):
            for name, tensor in _network_state(values, state, j, used).items():
                converted[f"networks.{j}.{name}"] = tensor
        if unknown := sorted(set(state) - used):
            raise CheckpointError(
                f"the weights hold {', '.join(unknown[:5])}, which {count} instruments of Spleeter do not have.",
                hint="`instruments` in the config must name all of the model's.",
            )
        return converted

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]. What a segment of the default length does not use of its context
        is left silent."""
        length = mixture.shape[-1]
        # as published: silence before, and frames up to the last that begins within the track
        padded = F.pad(mixture, (self._size, self._size - self._hop + -length % self._hop))
        frames = frame_count(padded.shape[-1], self._size, self._hop)
        added = OverlapAdd((len(mixture), len(self.stems), self.channels), frames, self.window, self._hop)
        first, last = 0, frames
        if length == self.segment_length:
            first, last = self._frames, frames - self._frames + min(_HEAD, self._frames)
        for start in range(first, last, self._frames):
            stop = min(start + self._frames, last)
            x = spectra(padded, self.window, self._hop, start, stop)  # [b, c, n, f]
            for output, y in enumerate(self._separate(x)):
                for item in range(len(y)):
                    added.add((item, output), y[item], start)
        return added.signal(self._size, length)

    def _separate(self, x: Tensor) -> list[Tensor]:
        """One window: complex [b, c, n, f] -> complex [b, c, n, f' <= f] for each stem; above f' they are silent."""
        frames = x.shape[2]
        magnitudes = x[..., : self._bins].abs()
        # only a whole window or its head are sizes at which the result is the published one
        size = frames if frames == _HEAD else self._frames
        magnitudes = F.pad(magnitudes, (0, 0, 0, size - frames))
        outputs = self._magnitudes(magnitudes)[:, :, :, :frames]
        if self.values["MWF"]:
            return _filtered(x, outputs, self._outputs)
        exponent = self.values["separation_exponent"]
        powers = outputs.square_() if exponent == 2 else outputs.pow_(exponent)
        inverse = powers.sum(0).add_(_EPSILON).reciprocal_()
        estimates = []
        for j in self._outputs:
            mask = (powers[j] + _EPSILON / len(powers)).mul_(inverse)
            estimates.append(self._masked(x, mask))
        return estimates

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """The lower bins only where nothing stands above them: the inverse transform knows what is missing."""
        lower = x[..., : self._bins] * mask
        if self.values["mask_extension"] == "zeros":
            return lower
        return torch.cat([lower, x[..., self._bins :] * mask.mean(-1, keepdim=True)], -1)

    def _magnitudes(self, x: Tensor) -> Tensor:
        """What the networks say of magnitudes [b, c, n, f]: [j, b, c, n, f]."""
        logits = torch.stack([network(x) for network in self.networks])
        masks = logits.sigmoid_() if self.values["type"] == "unet.unet" else logits.softmax(0)
        return masks.mul_(x)


class _UNet(nn.Module):
    """The network of one instrument, [b, c, n, f] -> logits [b, c, n, f].

    The last two layers work on one channel of the full size, where convolutions are slow. They are computed at half the
    size instead: a pixel's place modulo two becomes one of four channels ("phases"), see `_expanding` and `_final`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        down = (_CHANNELS, *values["conv_n_filters"])
        up = down[-2:0:-1]
        inputs = (down[-1], *(2 * width for width in up))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 5, 2) for a, b in pairwise(down))
        self.down_norms = nn.ModuleList(Affine(width) for width in down[1:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 5, 2, padding=1) for a, b in zip(inputs[:-1], up, strict=True))
        self.up_norms = nn.ModuleList(Affine(width) for width in up)
        self.expand = nn.Conv2d(inputs[-1], 4, 3, padding=1)
        self.expand_norm = Affine(4)
        self.final = nn.Conv2d(4, 4 * _CHANNELS, 5, padding=2)
        self._down_activation = _ACTIVATIONS[values["conv_activation"]]
        self._up_activation = _ACTIVATIONS[values["deconv_activation"]]

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, convolve in enumerate(self.down):
            x = convolve(F.pad(x, (1, 2, 1, 2)))
            if level < _LEVELS - 1:
                skips.append(x)  # as the convolution leaves it
                x = self._down_activation(self.down_norms[level](x))
        for convolve, norm in zip(self.up, self.up_norms, strict=True):
            raised = self._up_activation(convolve(x)[..., :-1, :-1])
            x = torch.cat([skips.pop(), norm(raised)], 1)
        x = self.expand_norm(self._up_activation(self.expand(x)))
        # four channels are quicker one behind the other
        return F.pixel_shuffle(self.final(x.contiguous()), 2)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "LeakyReLU": lambda x: F.leaky_relu_(x, 0.2),
    "ReLU": F.relu_,
    "ELU": F.elu_,
}


# ---------------------------------------------------------------- published weights


def _network_state(
    values: Mapping[str, Any], state: Mapping[str, Tensor], instrument: int, used: set[str]
) -> dict[str, Tensor]:
    """The published variables of one instrument, as `_UNet` has them; their names are added to `used`."""
    widths = (_CHANNELS, *values["conv_n_filters"])
    up = (*widths[-2:0:-1], 1)
    inputs = (widths[-1], *(2 * width for width in up[:-1]))

    def variable(layer: str, number: int, name: str, shape: tuple[int, ...]) -> Tensor:
        key = f"{layer}_{number}/{name}" if number else f"{layer}/{name}"
        used.add(key)
        found = state.get(key)
        if found is None or tuple(found.shape) != shape:
            what = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
            raise CheckpointError(
                f"the weights of Spleeter: {key} {what}, expected {shape}.",
                hint="the config does not describe these weights, or they are not Spleeter's.",
            )
        return found

    def norm(number: int, width: int) -> dict[str, Tensor]:
        gamma, beta, mean, variance = (
            variable("batch_normalization", 12 * instrument + number, name, (width,)).double()
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / (variance + _NORM_EPSILON).sqrt()
        return {"scale": scale[:, None, None], "offset": (beta - scale * mean)[:, None, None]}

    def layer(kind: str, number: int, kernel: tuple[int, ...], width: int) -> dict[str, Tensor]:
        # [height, width, in, out], transposed convolutions [height, width, out, in]: turned round in both cases
        weight = variable(kind, number, "kernel", kernel).permute(3, 2, 0, 1)
        return {"weight": weight, "bias": variable(kind, number, "bias", (width,))}

    parts: dict[str, dict[str, Tensor]] = {}
    for level in range(_LEVELS):
        before, after = widths[level : level + 2]
        parts[f"down.{level}"] = layer("conv2d", 7 * instrument + level, (5, 5, before, after), after)
        parts[f"down_norms.{level}"] = norm(level, after)
        parts[f"up.{level}"] = layer(
            "conv2d_transpose", 6 * instrument + level, (5, 5, up[level], inputs[level]), up[level]
        )
        parts[f"up_norms.{level}"] = norm(_LEVELS + level, up[level])
    parts["final"] = _final(layer("conv2d", 7 * instrument + _LEVELS, (4, 4, 1, _CHANNELS), _CHANNELS))
    del parts[f"down_norms.{_LEVELS - 1}"]  # what follows it is not used
    last = _LEVELS - 1
    parts["expand"], parts["expand_norm"] = _expanding(parts.pop(f"up.{last}")), parts.pop(f"up_norms.{last}")
    parts["expand_norm"] = {name: tensor.expand(4, 1, 1) for name, tensor in parts["expand_norm"].items()}
    return {f"{part}.{name}": tensor.float() for part, own in parts.items() for name, tensor in own.items()}


def _expanding(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transposed convolution of 5 with stride 2 to one channel, as a convolution of 3 to its four phases.

    Pixel 2m + a gets input m + d by the tap 2m + a + 1 - 2(m + d) = a + 1 - 2d, where there is one. [in, 1, 5, 5] ->
    [4, in, 3, 3].
    """
    published = layer["weight"][:, 0]
    weight = published.new_zeros(2, 2, len(published), 3, 3)
    taps = [(a, d + 1, a + 1 - 2 * d) for a in (0, 1) for d in (-1, 0, 1) if a + 1 - 2 * d >= 0]
    for a, row, i in taps:
        for b, column, k in taps:
            weight[a, b, :, row, column] = published[:, i, k]
    return {"weight": weight.flatten(0, 1), "bias": layer["bias"].expand(4)}


def _final(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A convolution of 4 with dilation 2 from one channel, as a convolution of 5 between phases.

    Tap i of pixel 2m + a sees pixel 2m + a + 2i - 3, which is number m + a + i - 2 of the other phase. [c, 1, 4, 4] ->
    [4c, 4, 5, 5].
    """
    published = layer["weight"][:, 0]
    weight = published.new_zeros(len(published), 2, 2, 2, 2, 5, 5)
    for a in (0, 1):
        for b in (0, 1):
            weight[:, a, b, 1 - a, 1 - b, a : a + 4, b : b + 4] = published
    return {"weight": weight.flatten(0, 2).flatten(1, 2), "bias": layer["bias"].repeat_interleave(4)}


# ---------------------------------------------------------------- Wiener filter


def _filtered(x: Tensor, outputs: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """The outputs as sources of norbert's filter with one iteration, as the package's option MWF has it.

    Args:
        x: complex [b, c, n, f], all bins.
        outputs: [j, b, c, n, f'], magnitudes of the lower bins; above there is nothing.
        wanted: the instruments to give.

    Returns:
        complex [b, c, n, f'] for each wanted instrument.
    """
    y = []
    bins = outputs.shape[-1]
    for item in range(len(x)):
        # norbert scales down what peaks above ten; here it would not see the upper bins
        level = max(1.0, float(x[item].abs().max()) / 10)
        # double precision: the covariances of a mono recording can't be inverted in less (postfilters/spectra.py)
        magnitudes = outputs[:, item].permute(2, 3, 1, 0).double().cpu().numpy() / level
        mixture = x[item, ..., :bins].permute(1, 2, 0).to(torch.complex128).cpu().numpy() / level
        filtered = load_norbert().wiener(magnitudes, mixture, 1)[..., list(wanted)] * level
        y.append(torch.from_numpy(filtered).permute(3, 2, 0, 1).to(x))
    return list(torch.stack(y, 1))


# ---------------------------------------------------------------- settings


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked, with the published defaults for those that are not there.

    Raises:
        CheckpointError: a name or a value that Spleeter does not have.
    """
    flat = {name: value for name, value in config.items() if name != "model"}
    model = config.get("model", {})
    params = model.get("params", {}) if isinstance(model, Mapping) else None
    require(NAME, [(isinstance(params, Mapping), f"model is {model!r}, expected its type and params")])
    flat = {"type": model.get("type", _TYPES[0]), **(params or {}), **flat} if model else flat
    if unknown := sorted(set(flat) - set(_DEFAULTS) - _IGNORED):
        raise CheckpointError(f"{NAME} has no {', '.join(unknown)} in its config.")
    values = {**_DEFAULTS, **{name: value for name, value in flat.items() if name in _DEFAULTS}}
    for name in ("sample_rate", "n_channels", "frame_length", "frame_step", "T", "F"):
        number = type(values[name]) is int and 1 <= values[name] <= 1 << 20
        require(NAME, [(number, f"{name} is {values[name]!r}, expected a whole number of at least 1")])
    filters, exponent = values["conv_n_filters"], values["separation_exponent"]
    size, top = values["frame_length"], values["frame_length"] // 2 + 1
    widths = (
        isinstance(filters, (list, tuple))
        and len(filters) == _LEVELS
        and all(type(width) is int and 1 <= width <= 4096 for width in filters)
    )
    power = isinstance(exponent, (int, float)) and not isinstance(exponent, bool) and 0 < exponent <= 16
    require(
        NAME,
        (
            (widths, f"conv_n_filters is {filters!r}, expected {_LEVELS} widths"),
            (power, f"separation_exponent is {exponent!r}, expected a number above 0"),
            (isinstance(values["MWF"], bool), f"MWF is {values['MWF']!r}, expected true or false"),
            (values["n_channels"] == _CHANNELS, f"n_channels is {values['n_channels']}, expected 2"),
            (size == 4 * values["frame_step"], f"frame_step is {values['frame_step']}, expected a quarter of {size}"),
            (values["T"] % _GRID == 0, f"T is {values['T']}, expected a multiple of {_GRID}"),
            (values["F"] % _GRID == 0 and values["F"] <= top, f"F is {values['F']}, expected a multiple of {_GRID}"),
            *(
                (values[name] in allowed, f"{name} is {values[name]!r}, expected {' or '.join(allowed)}")
                for name, allowed in _CHOICES.items()
            ),
        ),
    )
    return values


def _instruments(config: Mapping[str, Any], stems: Sequence[str]) -> tuple[str, ...]:
    """All outputs of the weights, in their order."""
    named = config.get("instruments", config.get("instrument_list", list(stems)))
    good = isinstance(named, (list, tuple)) and named and all(isinstance(name, str) for name in named)
    require(NAME, [(bool(good), f"instruments are {named!r}, expected a list of names")])
    if missing := [stem for stem in stems if stem not in named]:
        raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(named)}.")
    return tuple(named)
