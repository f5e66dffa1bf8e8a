"""Meta-TasNet: masks on a learned transform at 8, 16 and 32 kHz, whose network is made anew for each instrument.

"Meta-learning Extractors for Music Source Separation" (Samuel, Ganeshan & Naradowsky, ICASSP 2020, arXiv:2002.07016).
Checked against the public code (`pfnet-research/meta-tasnet`, MIT). Nothing is heard above 16 kHz. Left out: Ranger,
the optimiser that it was trained with.

Three stages, each with twice the rate and the width of the one before, hear the same mono signal; stereo is separated
channel by channel. A stage codes the signal by three convolutions and a spectrogram, masks that code for every
instrument and decodes it; the next stage sees the masked code beside its own. The mask network's weights are a linear
function of an embedding of the instrument (`_Made`), or with `independent_params` its own.

The published program cuts a song into eight chunks with 8 s of context on each side, divides each stage's signal by its
deviation over the song, and at the end fits one gain per source and channel over the whole song. Here a segment uses
16 s with the same context, whatever the length of the song; signals are divided by the deviation over the track at
32 kHz, and those of the lower stages brought to the same level within a segment; gains are fitted within a segment, and
segments overlap by a quarter. A file of up to 16 s is one segment, and all of it as published but for the resampler.

Legend: b batch, s instrument, n channel of the code, c channel of the mask network, k frame, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.meta_tasnet_loss import stage_loss
from unmixcli.models.settings import FOUR_STEMS, require

NAME = "meta_tasnet"
_EPSILON = 1e-8
_GROUPS = 8
_SILENCE = 1e-6  # mean square, where that of the mixture is one
_EDGE_SECONDS, _USED_SECONDS = 8, 16
_MOMENTUM = 0.01  # of the spectrogram's statistics in training
_DEFAULTS: dict[str, Any] = {
    "N": 440,  # channels of the code, of the first stage
    "L": 20,  # samples of its shortest kernel
    "W": 20,  # samples from frame to frame
    "B": 160,  # channels between the layers of the mask network
    "H": 160,  # inside them
    "E_1": 8,  # numbers that an instrument is to a stage
    "E_2": 5,  # and to a layer
    "layers": 6,
    "stack": 3,
    "kernel": 3,
    "filters": 3,  # lengths of kernels, doubling
    "num_mels": 256,
    "sampling_rate": 8000,
    "stages_num": 3,
    "residual_bias": False,
    "independent_params": False,
    "dropout": 0.0,
    "reconstruction_loss_weight": 0.05,
    "similarity_loss_weight": 2.0,
    "dissimilarity_loss_weight": 3.0,
}
# of the published arguments, those of training alone
_IGNORED = frozenset(
    {
        "base_directory", "batch_size", "checkpoint", "clip_gradient", "debug", "directory", "epochs", "learning_rate",
        "seed", "sgdr_period", "shuffle_p", "threads", "time_length", "train_data", "validation_data", "weight_decay",
    }
)  # fmt: skip


class MetaTasNet(SeparationModel):
    """See the module.

    Args:
        config: see `from_config`.
        stems: the outputs, some of drums, bass, other and vocals.

    Raises:
        CheckpointError: settings that Meta-TasNet does not have.
    """

    trainable = True
    channels = 1
    edge_padding = "none"
    normalization = "track"
    overlap = 0.25

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        self.values = values = _read(config)
        if missing := [stem for stem in stems if stem not in FOUR_STEMS]:
            raise CheckpointError(f"{NAME} has no stem {', '.join(missing)}; it gives {', '.join(FOUR_STEMS)}.")
        self.stems = tuple(stems)
        self._outputs = [FOUR_STEMS.index(stem) for stem in stems]
        self.covers_mixture = len(self.stems) == len(FOUR_STEMS)
        last = 2 ** (values["stages_num"] - 1)
        self.sample_rate = values["sampling_rate"] * last
        self.segment_multiple = values["W"] * last
        seconds = self.sample_rate // self.segment_multiple * self.segment_multiple
        self.edge = _EDGE_SECONDS * seconds
        self.segment_length = _USED_SECONDS * seconds + 2 * self.edge
        self.stages = nn.ModuleList(_Stage(values, 2**stage) for stage in range(values["stages_num"]))
        self._references: Tensor | None = None
        self._own_loss: Tensor | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> MetaTasNet:
        """See `SeparationModel`. Keys: the published arguments, which the published file holds."""
        return cls(config, stems)

    @classmethod
    def complete_config(cls, config: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The arguments stored in the file, with the entry's own laid over them."""
        return {"sources": list(FOUR_STEMS), **next(iter(settings.values()), {}).get("kwargs", {}), **config}

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, 1, T] -> estimates [B, S, 1, T], one gain each by which they come nearest to the mixture."""
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            waves = self._run(mixture)[-1][0]
            estimates = waves[..., : mixture.shape[-1]]
            if not self.training:
                estimates = estimates * fitted_gains(estimates, mixture)
        chosen = estimates if self.stems == FOUR_STEMS else estimates[:, self._outputs]
        return chosen[:, :, None]

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """The last stage's estimates without gains; what the others are to learn stands in `own_loss` then."""
        # as it is when tracks are separated: at a deviation of one
        level = mixture.std(-1, keepdim=True).clamp_min(1e-5)
        outputs = self._run(mixture / level)
        waves = outputs[-1][0][..., : mixture.shape[-1]] * level
        self._own_loss = None
        if self._references is not None and self.training:
            self._own_loss = self._stage_losses(mixture / level, self._references[:, :, 0] / level, outputs)
        chosen = waves if self.stems == FOUR_STEMS else waves[:, self._outputs]
        return {"waveforms": chosen[:, :, None]}

    def hint(self, references: Tensor) -> None:
        """See `SeparationModel`: what the losses of the stages compare with. [B, S, 1, T]"""
        self._references = references if self.training and self.stems == FOUR_STEMS else None

    def own_loss(self) -> Tensor | None:
        """See `SeparationModel`."""
        return self._own_loss

    def _signals(self, wave: Tensor) -> list[Tensor]:
        """A signal at each stage's rate: [..., t] -> [..., t / 4], [..., t / 2], [..., t]."""
        count = len(self.stages)
        return [_decimated(wave, 2 ** (count - 1 - stage)) for stage in range(count)]

    def _heard(self, mixture: Tensor) -> list[Tensor]:
        """What each stage hears, [b, 1, t], at the level of the last."""
        grid = self.segment_multiple
        shortest = 2 ** (len(self.stages) - 1) * (
            _window(1, self.values) // 2 + 1
        )  # the spectrogram mirrors half a window
        length = max(mixture.shape[-1], shortest)
        padded = F.pad(mixture, (0, length + -length % grid - mixture.shape[-1]))
        signals = self._signals(padded)
        if padded.shape[-1] < 2:
            return signals
        level = padded.std(-1, keepdim=True)
        return [signal * (level / signal.std(-1, keepdim=True).clamp_min(1e-8)) for signal in signals[:-1]] + [padded]

    def _run(self, mixture: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each stage: estimates [b, s, t], the code of the mixture and what masks made of it, [b, s, n, k]."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for stage, signal in zip(self.stages, self._heard(mixture), strict=True):
            found.append(stage(signal, found[-1][2] if found else None))
            if not self.training:  # what a stage behind does not need goes
                found[:-1] = []
        return found

    def _stage_losses(self, mixture: Tensor, references: Tensor, outputs: list[Any]) -> Tensor:
        """The published loss but for the distance of the last stage's estimates, which is the recipe's. The mixture
        is [b, 1, t], the references [b, s, t]."""
        heard = self._heard(mixture)
        truth = self._signals(F.pad(references, (0, heard[-1].shape[-1] - references.shape[-1])))
        sounds = (references.square().mean(-1) > _SILENCE).to(mixture)  # [b, s]
        total = mixture.new_zeros(())
        for number, (stage, (waves, code, _)) in enumerate(zip(self.stages, outputs, strict=True)):
            assert isinstance(stage, _Stage)
            codes = stage.encoder(truth[number].flatten(0, 1)[:, None]).unflatten(0, sounds.shape)
            total = total + stage_loss(
                None if number == len(outputs) - 1 else waves, truth[number], sounds, codes,
                stage.decoder(code), heard[number][:, 0], self.values,
            )  # fmt: skip
        return total


class _Stage(nn.Module):
    """One rate. The published names."""

    def __init__(self, values: Mapping[str, Any], factor: int) -> None:
        super().__init__()
        self.width = factor * values["N"]
        self._dropout = values["dropout"]
        self.encoder = _Encoder(values, factor)
        self.decoder = _Decoder(values, factor)
        self.mask = _MaskNetwork(values, self.width, self.width * 3 // 2 if factor > 1 else self.width)
        self.instrument_embedding = None
        if not values["independent_params"]:
            self.instrument_embedding = nn.Embedding(len(FOUR_STEMS), values["E_1"])

    def forward(self, signal: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """signal [b, 1, t], the stage before's masked code [b, s, n/2, k] -> see `MetaTasNet._run`."""
        code = self.encoder(signal)  # [b, n, k]
        seen = code[:, None].expand(-1, len(FOUR_STEMS), -1, -1)
        if self._dropout and self.training:
            seen = F.dropout1d(seen.flatten(0, 1), self._dropout).unflatten(0, seen.shape[:2])
        if before is not None:
            seen = torch.cat([seen, before], 2)
        instruments = None if self.instrument_embedding is None else self.instrument_embedding.weight
        masked = self.mask(instruments, seen) * code[:, None]
        return self.decoder(masked.flatten(0, 1)).unflatten(0, masked.shape[:2]), code, masked


class _Encoder(nn.Module):
    """[b, 1, t] -> [b, n, k]: convolutions of several lengths and a spectrogram."""

    def __init__(self, values: Mapping[str, Any], factor: int) -> None:
        super().__init__()
        width, stride = factor * values["N"], factor * values["W"]
        self.spectrogram = _Spectrogram(_window(factor, values), values["num_mels"])
        sizes = [factor * values["L"] * 2**number for number in range(values["filters"])]
        self.filters = nn.ModuleList(
            nn.Conv1d(1, width // 4, size, stride, (size - stride) // 2, bias=False) for size in sizes
        )
        joined = values["num_mels"] + len(sizes) * (width // 4)
        self.bottleneck = nn.Sequential(
            nn.Conv1d(joined, width, 1, bias=False), nn.ReLU(), nn.Conv1d(width, width, 1, bias=False)
        )

    def forward(self, signal: Tensor) -> Tensor:
        coded = torch.stack([layer(signal) for layer in self.filters], 2).flatten(1, 2).relu()
        return self.bottleneck(torch.cat([coded, self.spectrogram(signal[:, 0], coded.shape[-1])], 1))


class _Spectrogram(nn.Module):
    """Logarithms of the power of a spectrum, mixed to `mels` channels, at as many frames as asked for."""

    def __init__(self, size: int, mels: int) -> None:
        super().__init__()
        bins = size // 2 + 1

        def frozen(value: Tensor) -> nn.Parameter:
            return nn.Parameter(value, requires_grad=False)

        self.window = frozen(torch.hann_window(size))
        self.mel_transform = nn.Conv1d(bins, mels, 1)
        self.mean, self.std = frozen(torch.zeros(1, bins, 1)), frozen(torch.ones(1, bins, 1))
        self.affine_bias = nn.Parameter(torch.zeros(1, bins, 1))
        self.affine_scale = nn.Parameter(torch.ones(1, bins, 1))

    def forward(self, signal: Tensor, frames: int) -> Tensor:
        size = len(self.window)
        spectrum = torch.stft(signal, size, size // 4, window=self.window, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).add(_EPSILON).log10()
        if self.training:
            self._learn(power.detach())
        scaled = (power - self.mean) / self.std * self.affine_scale + self.affine_bias
        return F.interpolate(self.mel_transform(scaled), size=frames, mode="linear", align_corners=True)

    @torch.no_grad()
    def _learn(self, power: Tensor) -> None:
        """The published program takes these statistics of 5000 excerpts before it trains; here they follow."""
        deviation, mean = torch.std_mean(power, (0, 2), keepdim=True)
        share = _MOMENTUM if bool(self.mean.any()) else 1.0
        self.mean.lerp_(mean, share)
        self.std.lerp_(deviation.clamp_min(1e-3), share)


class _Decoder(nn.Module):
    """[b, n, k] -> [b, t]."""

    def __init__(self, values: Mapping[str, Any], factor: int) -> None:
        super().__init__()
        width, stride = factor * values["N"], factor * values["W"]
        self.widths = [width // 2 ** (number + 1) for number in range(values["filters"])]
        self.bottleneck = nn.Sequential(nn.ConvTranspose1d(width, sum(self.widths), 1, bias=False), nn.ReLU())
        sizes = [factor * values["L"] * 2**number for number in range(values["filters"])]
        self.filters = nn.ModuleList(
            nn.ConvTranspose1d(own, 1, size, stride, (size - stride) // 2, bias=False)
            for own, size in zip(self.widths, sizes, strict=True)
        )

    def forward(self, code: Tensor) -> Tensor:
        parts = self.bottleneck(code).split(self.widths, 1)
        waves = [layer(part) for layer, part in zip(self.filters, parts, strict=True)]
        return torch.stack(waves).sum(0)[:, 0]


# ---------------------------------------------------------------- the mask network


class _Made(nn.Module):
    """Numbers for a layer, [s, count]: a linear function of the instrument's embedding, by way of a few numbers."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.bottleneck = nn.Linear(values["E_1"], values["E_2"])


class _MadeConv(_Made):
    def __init__(self, values: Mapping[str, Any], shape: tuple[int, int, int], bias: bool) -> None:
        super().__init__(values)
        self.shape = shape
        self.kernel = nn.Linear(values["E_2"], math.prod(shape))
        self.bias = nn.Linear(values["E_2"], shape[0]) if bias else None

    def weights(self, instruments: Tensor | None) -> tuple[Tensor, Tensor | None]:
        assert instruments is not None
        few = self.bottleneck(instruments)
        return self.kernel(few).unflatten(1, self.shape), None if self.bias is None else self.bias(few)


class _OwnConv(nn.Module):
    def __init__(self, shape: tuple[int, int, int], bias: bool, depthwise: bool) -> None:
        super().__init__()
        count = len(FOUR_STEMS)
        self.shape = shape
        groups = count * shape[0] if depthwise else count
        self.conv = nn.Conv1d(groups * shape[1], count * shape[0], shape[2], groups=groups, bias=bias)

    def weights(self, instruments: Tensor | None) -> tuple[Tensor, Tensor | None]:
        count = len(FOUR_STEMS)
        bias = None if self.conv.bias is None else self.conv.bias.unflatten(0, (count, -1))
        return self.conv.weight.unflatten(0, (count, -1)), bias


def _conv(
    values: Mapping[str, Any], before: int, after: int, *, depthwise: bool = False, bias: bool = False
) -> nn.Module:
    shape = (after, 1, values["kernel"]) if depthwise else (after, before, 1)
    return _OwnConv(shape, bias, depthwise) if values["independent_params"] else _MadeConv(values, shape, bias)


def _convolved(layer: Any, instruments: Tensor | None, x: Tensor, dilation: int = 0) -> Tensor:
    """[b, s, c, k] -> [b, s, c', k]; with a dilation, one kernel per channel."""
    weight, bias = layer.weights(instruments)  # [s, c', c, kernel]
    if dilation:
        flat = x.flatten(1, 2)
        padding = dilation * (weight.shape[-1] - 1) // 2
        y = F.conv1d(flat, weight.flatten(0, 1), padding=padding, dilation=dilation, groups=flat.shape[1])
        y = y.unflatten(1, x.shape[1:3])
    else:
        y = weight[..., 0] @ x
    return y if bias is None else y + bias[..., None]


class _MadeNorm(_Made):
    def __init__(self, values: Mapping[str, Any], channels: int) -> None:
        super().__init__(values)
        self.affine = nn.Linear(values["E_2"], 2 * channels)

    def forward(self, instruments: Tensor | None, x: Tensor) -> Tensor:
        assert instruments is not None
        gain, offset = self.affine(self.bottleneck(instruments)).chunk(2, 1)
        groups = len(FOUR_STEMS) * _GROUPS
        y = F.group_norm(x.flatten(1, 2), groups, gain.flatten(), offset.flatten(), _EPSILON)
        return y.view_as(x)


class _OwnNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(len(FOUR_STEMS) * _GROUPS, len(FOUR_STEMS) * channels, _EPSILON)

    def forward(self, instruments: Tensor | None, x: Tensor) -> Tensor:
        return self.group_norm(x.flatten(1, 2)).view_as(x)


def _norm(values: Mapping[str, Any], channels: int) -> nn.Module:
    return _OwnNorm(channels) if values["independent_params"] else _MadeNorm(values, channels)


class _Layer(nn.Module):
    """What surrounds a frame at a distance, [b, s, c, k] -> what is added to it, and what the masks see of it."""

    def __init__(self, values: Mapping[str, Any], dilation: int) -> None:
        super().__init__()
        outer, inner, bias = values["B"], values["H"], values["residual_bias"]
        self.dilation = dilation
        self.norm_1, self.prelu_1 = _norm(values, inner), nn.PReLU()
        self.conv1d = _conv(values, outer, inner)
        self.norm_2, self.prelu_2 = _norm(values, inner), nn.PReLU()
        self.dconv1d = _conv(values, inner, inner, depthwise=True)
        self.res_out = _conv(values, inner, outer, bias=bias)
        self.skip_out = _conv(values, inner, outer, bias=bias)

    def forward(self, instruments: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm_1(instruments, self.prelu_1(_convolved(self.conv1d, instruments, x)))
        x = self.norm_2(instruments, self.prelu_2(_convolved(self.dconv1d, instruments, x, self.dilation)))
        return _convolved(self.res_out, instruments, x), _convolved(self.skip_out, instruments, x)


class _MaskNetwork(nn.Module):
    """[b, s, n', k] -> masks [b, s, n, k] that add to one."""

    def __init__(self, values: Mapping[str, Any], width: int, seen: int) -> None:
        super().__init__()
        between = values["B"]
        self.norm_1, self.prelu_1 = _norm(values, seen), nn.PReLU()
        self.in_conv = _conv(values, seen, between)
        self.norm_2, self.prelu_2 = _norm(values, between), nn.PReLU()
        levels = [level for _ in range(values["stack"]) for level in range(values["layers"])]
        layers = [_Layer(values, 2**level) for level in levels]
        self.tcn = nn.ModuleList(layers)
        for unused in layers[-1].res_out.parameters():  # nobody hears what the last layer would add
            unused.requires_grad_(False)
        self.norm_3, self.prelu_3 = _norm(values, between), nn.PReLU()
        self.mask_output = _conv(values, between, width)
        self.norm_4, self.prelu_4 = _norm(values, width), nn.PReLU()

    def forward(self, instruments: Tensor | None, x: Tensor) -> Tensor:
        x = _convolved(self.in_conv, instruments, self.norm_1(instruments, self.prelu_1(x)))
        x = self.norm_2(instruments, self.prelu_2(x))
        kept: Tensor | float = 0.0
        for layer in self.tcn:
            added, seen = layer(instruments, x)
            x, kept = x + added, kept + seen
        logits = _convolved(self.mask_output, instruments, self.norm_3(instruments, self.prelu_3(kept)))
        return self.norm_4(instruments, self.prelu_4(logits)).softmax(1)


# ---------------------------------------------------------------- signals


def fitted_gains(estimates: Tensor, mixture: Tensor) -> Tensor:
    """One factor for each estimate so that their sum comes nearest to the mixture (least squares; of several such
    choices the smallest).

    Args:
        estimates: [b, s, t].
        mixture: [b, 1, t].

    Returns:
        [b, s, 1].
    """
    y, x = estimates.double(), mixture.double()
    products = y @ y.transpose(1, 2)
    gains = torch.linalg.pinv(products, rtol=1e-8, hermitian=True) @ (y @ x.transpose(1, 2))
    return gains.to(estimates)


def _decimated(wave: Tensor, factor: int) -> Tensor:
    """Every `factor`-th sample behind a low-pass, [..., t] -> [..., t / factor]: a sinc of 64 zeros under a Kaiser
    window, its cut-off at 0.9476 of the new band as in resampy's "kaiser_best", which the published program uses."""
    if factor == 1:
        return wave
    cutoff = 0.9475937167399596 / factor
    reach = 64 * factor
    t = torch.arange(-reach, reach + 1, dtype=torch.float64, device=wave.device)
    window = torch.kaiser_window(2 * reach + 1, False, 14.769656459379492, dtype=torch.float64, device=wave.device)
    kernel = (cutoff * torch.sinc(cutoff * t) * window).to(wave)
    flat = F.pad(wave.reshape(-1, 1, wave.shape[-1]), (reach, reach))
    return F.conv1d(flat, kernel[None, None], stride=factor)[..., : wave.shape[-1] // factor].reshape(
        *wave.shape[:-1], -1
    )


def _window(factor: int, values: Mapping[str, Any]) -> int:
    """Samples of the spectrogram's window in a stage: 128 ms at the published rates."""
    return 1024 * (factor * values["sampling_rate"] // 8000)


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with defaults filled in, checked."""
    if tuple(config.get("sources", FOUR_STEMS)) != FOUR_STEMS:
        raise CheckpointError(f"{NAME}'s sources are {config['sources']!r}, expected {', '.join(FOUR_STEMS)}.")
    if unknown := set(config) - set(_DEFAULTS) - _IGNORED - {"sources"}:
        raise CheckpointError(f"{NAME} has no {', '.join(sorted(unknown))} in its config.")
    values = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in values.items():
        kind = type(_DEFAULTS[name])
        good = type(value) in (int, float) and 0 <= value <= 1000 if kind is float else type(value) is kind
        if not good or (kind is int and not 1 <= value <= 1 << 16):
            expected = {bool: "true or false", int: "a whole number of at least 1"}.get(kind, "0 to 1000")
            raise CheckpointError(f"{NAME}'s {name} is {value!r}, expected {expected}.")
    grain, stages = 2 ** values["filters"], values["stages_num"]
    require(
        NAME,
        (
            (stages <= 5 and values["filters"] <= 8, f"stages_num is {stages}, filters {values['filters']}: too many"),
            (values["layers"] <= 16 and values["stack"] <= 64, "layers are more than 16, or stack than 64"),
            (values["N"] % max(grain, _GROUPS) == 0,
             f"N is {values['N']}, expected a multiple of {max(grain, _GROUPS)}"),
            (values["B"] % _GROUPS == 0 and values["H"] % _GROUPS == 0, f"B and H are no multiples of {_GROUPS}"),
            (values["kernel"] % 2 == 1, f"kernel is {values['kernel']}, expected an odd number"),
            ((values["L"] - values["W"]) % 2 == 0 and values["L"] >= values["W"],
             "L is not W, or more by an even number"),
            (values["sampling_rate"] >= 8000, f"sampling_rate is {values['sampling_rate']}, expected 8000 Hz or more"),
            (values["dropout"] < 1, f"dropout is {values['dropout']}, expected less than 1"),
        ),
    )  # fmt: skip
    return values
