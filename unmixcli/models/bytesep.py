"""ResUNet and MobileNet on sub-bands: masks for magnitude and phase of four bands, one network per stem.

"Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source Separation" (Kong, Cao, Liu, Choi, Wang,
ISMIR 2021, arXiv:2109.05418); the bands are those of "Channel-wise Subband Input for Better Voice and Accompaniment
Separation on High Resolution Music" (Liu et al., Interspeech 2020, arXiv:2008.05216). Checked against `bytesep` 0.1.1:
ResUNet143_Subbandtime and MobileNet_Subbandtime. Left out: training, and the package's other networks.

The filters that part a wave into bands are read from the checkpoint, where they stand beside the weights.

Legend: b batch, c channel, k band, n frame, f bin; images are [b, channels, n, f], in `torch.channels_last`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.affine import Affine, channels_last
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import require, without_memory
from unmixcli.models.spectrogram import centre_pad, spectra

NAME = "bytesep"
_BANDS, _TAPS = 4, 64  # of the filter bank
_SIZE, _HOP = 512, 110  # of the transform of a band
_BINS = 256  # that the network sees; the highest one is silent
_GRID = 32  # frames: they are halved five times
_OUTPUTS = 4  # per band and channel: magnitude mask, real and imaginary part of the turn, what is added
_NORM_EPSILON = 1e-5
_SLOPE = 0.01
_FLOOR = 1e-10  # of powers and magnitudes that are divided by
_POOLS = ((2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (1, 2))
# of each segment of 30 s a quarter at each side is dropped as published, rounded to the bands' four samples
_SEGMENT, _EDGE = 1_323_000, 330_752

_TYPES: dict[str, tuple[int, ...]] = {
    "ResUNet143_Subbandtime": (32, 64, 128, 256, 384, 384),
    "MobileNet_Subbandtime": (32, 64, 64, 64, 64, 64),
}
_RES, _MOBILE = _TYPES
_DEFAULTS: dict[str, Any] = {
    "model_type": _RES, "sample_rate": 44100, "input_channels": 2, "output_channels": 2, "widths": None,
}  # fmt: skip


class ByteSep(SeparationModel):
    """The networks of some stems.

    Args:
        config: see `from_config`.
        stems: one network each.

    Raises:
        CheckpointError: settings that bytesep does not have.
    """

    window: Tensor
    edge_padding = "none"
    overlap = 0.0
    segment_length = _SEGMENT
    edge = _EDGE
    segment_multiple = _BANDS

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        values = _read(config)
        self.stems = tuple(stems)
        self.sample_rate, self.channels = values["sample_rate"], values["input_channels"]
        targets = config.get("targets", self.stems)
        self.covers_mixture = len(stems) == len(targets) > 1
        networks = without_memory(lambda: nn.ModuleDict({f"of_{stem}": _Network(values) for stem in stems}))
        self.networks = networks._apply(channels_last)
        self.register_buffer("window", torch.hann_window(_SIZE), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> ByteSep:
        """See `SeparationModel`. Keys: of the published YAML's `train` section `model_type`, `sample_rate`,
        `input_channels` and `output_channels`; `targets`, all stems of the entry; `widths`, the channels of the six
        levels, where they are not the published ones."""
        return cls(config, stems)

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        """One file per stem, named like it; a single file is that of the only stem."""
        return tuple(parts) if len(parts) == 1 else tuple(part for part in parts if part in stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict of every stem, normalisations folded where a convolution stands before them."""
        values = _read(config)
        targets = tuple(config.get("targets", ()))
        converted = {}
        for part, state in states.items():
            stem = targets[0] if len(states) == 1 and len(targets) == 1 else part
            reader = _Reader(stem, state)
            for name, tensor in reader.network(values).items():
                converted[f"networks.of_{stem}.{name}"] = tensor.float()
            reader.finish()
        return converted

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        length = mixture.shape[-1]
        # whole steps of the bands, and enough to be mirrored
        padded = F.pad(mixture, (0, max(-length % _BANDS, _BANDS * _SIZE - length)))
        estimates = [network(padded, self.window)[..., :length] for network in self.networks.values()]
        return torch.stack(estimates, 1)


class _Network(nn.Module):
    """One stem. mixture [b, c, t] -> estimate [b, c, t], t a multiple of four."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        kind, widths, channels = values["model_type"], values["widths"], values["input_channels"]
        units = 4 if kind == _RES else 2
        self.split = nn.Conv1d(1, _BANDS, _TAPS, _BANDS, bias=False)
        self.join = nn.Conv1d(_BANDS, _BANDS, _TAPS // _BANDS, bias=False)
        self.norm = Affine(_SIZE // 2 + 1)
        before = (channels * _BANDS, *widths[:-1])
        self.down = nn.ModuleList(_chain(kind, a, b, units) for a, b in zip(before, widths, strict=True))
        self.middle = _chain(kind, widths[-1], widths[-1], 4 * units if kind == _RES else units)
        self.up = nn.ModuleList(
            _Raise(kind, a, b, pool, units)
            for a, b, pool in zip((widths[-1], *widths[:0:-1]), widths[::-1], _POOLS[::-1], strict=True)
        )
        self.after = _chain(kind, widths[0], widths[0], units)
        self.last = nn.Conv2d(widths[0], channels * _OUTPUTS * _BANDS, 1)

    def forward(self, mixture: Tensor, window: Tensor) -> Tensor:
        bands = self._bands(mixture)  # [b, c, k, t']
        x = spectra(centre_pad(bands.flatten(1, 2), _SIZE), window, _HOP)  # [b, (c k), n, f]
        magnitude = (x.real.square() + x.imag.square()).clamp_(min=_FLOOR).sqrt_()
        x /= magnitude
        logits = self._logits(magnitude).unflatten(1, (bands.shape[1], _OUTPUTS, _BANDS))
        magnitude, x = (part[..., :_BINS].unflatten(1, bands.shape[1:3]) for part in (magnitude, x))
        turn = torch.complex(logits[:, :, 1].tanh(), logits[:, :, 2].tanh())
        turn /= turn.abs().clamp_(min=_FLOOR)
        loud = torch.addcmul(logits[:, :, 3].tanh(), magnitude, logits[:, :, 0].sigmoid()).relu_()
        y = turn.mul_(x).mul_(loud)  # [b, c, k, n, f]
        y = F.pad(y, (0, 1)).flatten(0, 2).transpose(1, 2)
        waves = torch.istft(y, _SIZE, _HOP, window=window, length=bands.shape[-1])
        return self._wave(waves.unflatten(0, bands.shape[:3]))

    def _bands(self, mixture: Tensor) -> Tensor:
        """[b, c, t] -> [b, c, k, t / 4 + 16]."""
        padded = F.pad(mixture, (_TAPS - _BANDS, _TAPS))
        return self.split(padded.flatten(0, 1)[:, None]).unflatten(0, mixture.shape[:2])

    def _wave(self, bands: Tensor) -> Tensor:
        """[b, c, k, t / 4 + 16] -> [b, c, t]."""
        joined = self.join(F.pad(bands.flatten(0, 1), (0, _TAPS // _BANDS - 1)))
        return joined.transpose(1, 2).flatten(1)[:, :-_TAPS].unflatten(0, bands.shape[:2])

    def _logits(self, magnitude: Tensor) -> Tensor:
        """[b, (c k), n, f] -> [b, (c output k), n, 256]."""
        frames = magnitude.shape[2]
        x = self.norm(magnitude.transpose(1, 3)).transpose(1, 3)[..., :_BINS]
        x = F.pad(x, (0, 0, 0, -frames % _GRID)).contiguous(memory_format=torch.channels_last)
        skips = []
        for units, pool in zip(self.down, _POOLS, strict=True):
            x = units(x)
            skips.append(x)
            x = F.avg_pool2d(x, pool)
        x = self.middle(x)
        for layer in self.up:
            x = layer(x, skips.pop())
        return self.last(self.after(x))[:, :, :frames]


class _Unit(nn.Module):
    """Normalisation and convolutions with activations before each, added to what comes in.

    ResUNet: two of 3 × 3. MobileNet: 1 × 1, 3 × 3 in each channel, 1 × 1.
    """

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = Affine(inputs)
        if kind == _RES:
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)]
        else:
            layers = [
                nn.Conv2d(inputs, outputs, 1),
                nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs),
                nn.Conv2d(outputs, outputs, 1, bias=False),
            ]
        self.layers = nn.ModuleList(layers)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        for layer in self.layers:
            y = layer(F.leaky_relu_(y, _SLOPE))
        return y.add_(x if self.shortcut is None else self.shortcut(x))


def _chain(kind: str, inputs: int, outputs: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Unit(kind, inputs if i == 0 else outputs, outputs) for i in range(count)))


class _Raise(nn.Module):
    """To the size of the level above, and units on both."""

    def __init__(self, kind: str, inputs: int, outputs: int, factor: tuple[int, int], units: int) -> None:
        super().__init__()
        self.norm = Affine(inputs)
        self.learned = kind == _RES
        self.factor = factor
        self.layer = (
            nn.ConvTranspose2d(inputs, outputs, factor, factor, bias=False)
            if self.learned
            else nn.Conv2d(inputs, outputs, 1, bias=False)
        )
        self.units = _chain(kind, 2 * outputs, outputs, units)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.norm(x)
        if self.learned:
            x = self.layer(x.relu_())
        else:  # published the other way round, where it is the same on four times the pixels
            x = F.interpolate(self.layer(F.leaky_relu_(x, _SLOPE)), scale_factor=self.factor)
        return self.units(torch.cat([x, skip], 1))


# ---------------------------------------------------------------- published weights


class _Reader:
    """Tensors of one published state dict, by their names; it knows which were used."""

    def __init__(self, stem: str, state: Mapping[str, Tensor]) -> None:
        self._stem, self._state = stem, state
        self._used: set[str] = set()

    def network(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state of `_Network`."""
        res = values["model_type"] == _RES
        parts = {
            "split": {"weight": self._tensor("pqmf.ana_conv_filter.weight")},
            "join": {"weight": self._tensor("pqmf.syn_conv_filter.weight")},
            "norm": self._affine("bn0"),
            "last": {name: self._tensor(f"after_conv2.{name}") for name in ("weight", "bias")},
        }

        def chain(name: str, blocks: Sequence[str]) -> None:
            units = [unit for block in blocks for unit in (self._res(block) if res else self._mobile(block))]
            for number, unit in enumerate(units):
                parts.update({f"{name}.{number}.{part}".rstrip("."): own for part, own in unit.items()})

        def encoder(block: str) -> list[str]:
            return [f"{block}.conv_block{i}" for i in range(1, 5)] if res else [f"{block}.conv_block"]

        for level in range(6):
            chain(f"down.{level}", encoder(f"encoder_block{level + 1}"))
            decoder = f"decoder_block{level + 1}"
            parts[f"up.{level}.norm"] = self._affine(f"{decoder}.bn1")
            parts[f"up.{level}.layer"] = {"weight": self._tensor(f"{decoder}.conv1.weight")}
            chain(f"up.{level}.units", [f"{decoder}.conv_block{i}" for i in (range(2, 6) if res else (2,))])
        middle = [block for letter in "abcd" for block in encoder(f"conv_block7{letter}")] if res else ["conv_block7"]
        chain("middle", middle)
        chain("after", encoder("after_conv_block1") if res else ["after_conv_block1"])
        return {f"{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.items()}

    def finish(self) -> None:
        """Raise where there is something that no part of the network took."""
        fixed = ("stft.", "istft.")  # transforms, which the package stores as convolutions
        left = [
            name
            for name in self._state
            if name not in self._used and not name.startswith(fixed) and not name.endswith(".num_batches_tracked")
        ]
        if left:
            raise CheckpointError(
                f"the weights of {self._stem} hold {', '.join(left[:5])}, which this network has not."
            )

    def _tensor(self, name: str) -> Tensor:
        if name not in self._state:
            raise CheckpointError(
                f"the weights of {self._stem}: {name} is missing.",
                hint="`model_type` in the config is not that of these weights, or they are not bytesep's.",
            )
        self._used.add(name)
        return self._state[name].double()

    def _affine(self, name: str) -> dict[str, Tensor]:
        gamma, beta, mean, variance = (
            self._tensor(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + _NORM_EPSILON).sqrt()
        return {"scale": scale[:, None, None], "offset": (beta - scale * mean)[:, None, None]}

    def _folded(self, convolution: str, norm: str) -> dict[str, Tensor]:
        """A convolution with the normalisation behind it."""
        weight, affine = self._tensor(f"{convolution}.weight"), self._affine(norm)
        if weight.shape[0] != affine["scale"].shape[0]:
            raise CheckpointError(f"the weights of {self._stem}: {norm} and {convolution} don't fit each other.")
        return {"weight": weight * affine["scale"][..., None], "bias": affine["offset"].flatten()}

    def _shortcut(self, block: str) -> dict[str, dict[str, Tensor]]:
        if f"{block}.shortcut.weight" not in self._state:
            return {}
        return {"shortcut": {name: self._tensor(f"{block}.shortcut.{name}") for name in ("weight", "bias")}}

    def _res(self, block: str) -> Iterator[dict[str, dict[str, Tensor]]]:
        yield {
            "norm": self._affine(f"{block}.bn1"),
            "layers.0": self._folded(f"{block}.conv1", f"{block}.bn2"),
            "layers.1": {"weight": self._tensor(f"{block}.conv2.weight")},
            **self._shortcut(block),
        }

    def _mobile(self, block: str) -> Iterator[dict[str, dict[str, Tensor]]]:
        for half in "12":
            conv, norm = f"{block}.conv{half}", f"{block}.bn{half}"
            yield {
                "norm": self._affine(f"{norm}a"),
                "layers.0": self._folded(f"{conv}a", f"{norm}b"),
                "layers.1": self._folded(f"{conv}b", f"{norm}c"),
                "layers.2": {"weight": self._tensor(f"{conv}c.weight")},
                **(self._shortcut(block) if half == "1" else {}),
            }


# ---------------------------------------------------------------- settings


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, checked, with the published defaults.

    Raises:
        CheckpointError: a name or a value that bytesep does not have.
    """
    if unknown := sorted(set(config) - set(_DEFAULTS) - {"targets"}):
        raise CheckpointError(f"{NAME} has no {', '.join(unknown)} in its config.")
    values = {**_DEFAULTS, **{name: value for name, value in config.items() if name in _DEFAULTS}}
    kind, rate, targets = values["model_type"], values["sample_rate"], config.get("targets", [])
    require(
        NAME,
        (
            (isinstance(kind, str) and kind in _TYPES, f"model_type is {kind!r}, expected {' or '.join(_TYPES)}"),
            (type(rate) is int and 1000 <= rate <= 1 << 20, f"sample_rate is {rate!r}, expected hertz"),
            (
                values["input_channels"] in (1, 2) and values["input_channels"] == values["output_channels"],
                f"input_channels is {values['input_channels']!r}, expected 1 or 2 and as many output_channels",
            ),
            (
                isinstance(targets, (list, tuple)) and all(isinstance(name, str) for name in targets),
                f"targets is {targets!r}, expected a list of stems",
            ),
        ),
    )
    widths = values["widths"] = _TYPES[kind] if values["widths"] is None else values["widths"]
    good = isinstance(widths, (list, tuple)) and len(widths) == len(_POOLS)
    good = good and all(type(width) is int and 1 <= width <= 4096 for width in widths)
    require(NAME, [(good, f"widths is {widths!r}, expected {len(_POOLS)} whole numbers")])
    values["widths"] = tuple(widths)
    return values
