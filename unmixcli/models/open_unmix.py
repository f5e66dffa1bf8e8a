"""Open-Unmix: one recurrent network per target on magnitudes, joined by a multichannel Wiener filter.

"Open-Unmix - A Reference Implementation for Music Source Separation" (Stöter, Uhlich, Liutkus, Mitsufuji, JOSS 2019,
doi:10.21105/joss.01667). Checked against `openunmix` 1.3.0: umx, umxhq, umxl (stereo, 44.1 kHz) and umxse (mono,
16 kHz), with 0, 1 and 2 iterations of the filter, soft masks and the residual source. Left out: training, and the
asteroid filter bank.

A whole track in one call gives the published result. The network reads the track in both directions and the filter
works in blocks of `wiener_win_len` frames, so the pipeline hands over segments that begin on the block grid with a
whole block of context on both sides (`edge`); docs/benchmarks.md has what that changes.

Only a block's spectra exist at a time: they are computed once to feed the network and a second time for the filter,
which costs 2 % of the time and saves the memory of a whole segment's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.onednn import Linear
from unmixcli.models.spectrogram import OverlapAdd, centre_pad, frame_count, spectra
from unmixcli.models.wiener import soft_masks, wiener

RESIDUAL = "residual"
_BATCH_NORM_EPSILON = 1e-5
# published tensors that hold nothing the network needs
_IGNORED = frozenset({"sample_rate", "stft.window", "transform.0.window"})


@dataclass(frozen=True)
class Shape:
    """An entry's config, checked. Names are the published ones."""

    hidden_size: int = 512
    nb_layers: int = 3
    unidirectional: bool = False
    nfft: int = 4096
    nhop: int = 1024
    nb_channels: int = 2
    max_bin: int = 1487
    nb_output_bins: int = 2049
    sample_rate: int = 44100
    niter: int = 1
    wiener_win_len: int = 300
    softmask: bool = False
    residual: bool = False

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Shape:
        """The fields of `config` that there are; `targets` is read elsewhere.

        Raises:
            CheckpointError: a key that Open-Unmix does not have, or a value it can't have.
        """
        unknown = set(config) - set(cls.__dataclass_fields__) - {"targets"}
        if unknown:
            raise CheckpointError(f"open_unmix has no {', '.join(sorted(unknown))} in its config.")
        shape = cls(**{name: value for name, value in config.items() if name != "targets"})
        for name, default in cls().__dict__.items():
            value, wanted = getattr(shape, name), type(default)
            if type(value) is not wanted or (wanted is int and value < int(name != "niter")):
                raise CheckpointError(f"open_unmix's {name} is {value!r}, expected {_EXPECTED[wanted]}.")
        for rule, message in (
            (shape.nb_channels <= 2, f"nb_channels is {shape.nb_channels}, expected 1 or 2"),
            (shape.nfft % shape.nhop == 0, f"nhop is {shape.nhop}, expected a divisor of nfft, {shape.nfft}"),
            (
                shape.nb_output_bins == shape.nfft // 2 + 1,
                f"nb_output_bins is not nfft // 2 + 1 with nfft {shape.nfft}",
            ),
            (shape.max_bin <= shape.nb_output_bins, f"max_bin is {shape.max_bin}, more than nb_output_bins"),
            (shape.unidirectional or shape.hidden_size % 2 == 0, "hidden_size is odd, expected an even number"),
        ):
            if not rule:
                raise CheckpointError(f"open_unmix's {message}.")
        return shape

    @property
    def joint(self) -> bool:
        """True if a stem depends on the other targets, so that all of them must be computed."""
        return self.niter > 0 or self.softmask or self.residual


_EXPECTED: dict[type, str] = {int: "a whole number of at least 1 (niter: 0)", bool: "true or false"}


class Target(nn.Module):
    """The network of one target, published layers folded where they are affine (see `fold`)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        hidden = shape.hidden_size
        self.fc1 = Linear(shape.nb_channels * shape.max_bin, hidden)
        self.lstm = nn.LSTM(
            hidden,
            hidden if shape.unidirectional else hidden // 2,
            num_layers=shape.nb_layers,
            bidirectional=not shape.unidirectional,
        )
        self.fc2 = Linear(2 * hidden, hidden)
        self.fc3 = Linear(hidden, shape.nb_channels * shape.nb_output_bins)

    def encode(self, magnitude: Tensor) -> Tensor:
        """[..., C * max_bin] -> [..., H], frame by frame."""
        return self.fc1(magnitude).tanh_()

    def remember(self, encoded: Tensor) -> Tensor:
        """Everything that looks at other frames. [N, B, H] -> [N, B, H], ready for `masks`."""
        return self.fc2(torch.cat([encoded, self.lstm(encoded)[0]], -1)).relu_()

    def masks(self, hidden: Tensor, out: Tensor) -> None:
        """[n, H] -> out [n, C * F], >= 0, frame by frame."""
        torch.clamp_min(self.fc3(hidden), 0.0, out=out)


class OpenUnmix(SeparationModel):
    """Several target networks and their joint filter.

    Args:
        shape: the checked config.
        targets: the networks to run.
        stems: the outputs, some of `targets` (and "residual", with `shape.residual`).
    """

    window: Tensor

    def __init__(self, shape: Shape, targets: Sequence[str], stems: Sequence[str]) -> None:
        super().__init__()
        self.shape = shape
        self.sample_rate = shape.sample_rate
        self.channels = shape.nb_channels
        self.stems = tuple(stems)
        block = shape.wiener_win_len * shape.nhop
        self.segment_multiple = block
        self.edge = block
        self.segment_length = 6 * block  # half as many frames again as without context; 42 s at 44.1 kHz
        self.overlap = 0.0
        self.cpu_workers = True  # two threads on one segment wait for each other more than they gain
        self.edge_padding = "none"
        # zeros instead of random numbers that the weights replace anyway: 0.1 s less at every start
        with torch.device("meta"):
            networks = nn.ModuleDict({name: Target(shape) for name in targets})
        self.networks = networks._apply(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
        self.register_buffer("window", torch.hann_window(shape.nfft), persistent=False)
        sources = [*targets, RESIDUAL] if shape.residual else list(targets)
        self._outputs = [sources.index(stem) for stem in stems]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> OpenUnmix:
        """See `SeparationModel`. Keys: those of the published models' settings, and `targets`, the names of all
        target networks (default: the stems asked), needed as soon as the filter joins them."""
        shape = Shape.read(config)
        networks = tuple(stem for stem in stems if stem != RESIDUAL)
        targets = tuple(config.get("targets", networks)) if shape.joint else networks
        known = {*targets, RESIDUAL} if shape.residual else set(targets)
        if missing := [stem for stem in stems if stem not in known]:
            raise CheckpointError(
                f"open_unmix has no target {', '.join(missing)}; its targets are {', '.join(targets)}."
            )
        if shape.niter > 0 and len(targets) + shape.residual < 2:
            raise CheckpointError(
                f"the Wiener filter of open_unmix needs two sources, there is only {', '.join(targets) or 'none'}.",
                hint="set niter to 0, or residual to true.",
            )
        return cls(shape, targets, stems)

    @classmethod
    def parts_needed(cls, config: Mapping[str, Any], parts: Sequence[str], stems: Sequence[str]) -> tuple[str, ...]:
        """One file per target; all of them where the filter joins them."""
        if Shape.read(config).joint:
            return tuple(parts)
        return tuple(part for part in parts if part in stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict of every target, folded."""
        shape = Shape.read(config)
        return {
            f"networks.{target}.{name}": tensor
            for target, state in states.items()
            for name, tensor in fold(shape, target, state).items()
        }

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T] -> estimates [B, S, C, T]."""
        length = mixture.shape[-1]
        padded = centre_pad(mixture, self.shape.nfft)
        frames = frame_count(padded.shape[-1], self.shape.nfft, self.shape.nhop)
        hidden = self._hidden(padded, frames)
        shape = (len(padded), len(self.stems), self.shape.nb_channels)
        added = OverlapAdd(shape, frames, self.window, self.shape.nhop)
        for item in range(len(padded)):
            for start, stop in self._blocks(frames):
                x = spectra(padded[item], self.window, self.shape.nhop, start, stop)
                for stem, y in enumerate(self._block(x, hidden[:, start:stop, item])):
                    added.add((item, stem), y, start)
        return added.signal(self.shape.nfft // 2, length)

    def _targets(self) -> list[Target]:
        return cast("list[Target]", list(self.networks.values()))

    def _blocks(self, frames: int) -> list[tuple[int, int]]:
        size = self.shape.wiener_win_len
        return [(start, min(frames, start + size)) for start in range(0, frames, size)]

    def _hidden(self, padded: Tensor, frames: int) -> Tensor:
        """What every target network knows of every frame, [J, N, B, H]."""
        batch = padded.shape[0]
        networks = self._targets()
        encoded = padded.new_empty(len(networks), frames, batch, self.shape.hidden_size)
        for start, stop in self._blocks(frames):
            x = spectra(padded, self.window, self.shape.nhop, start, stop)
            magnitude = x[..., : self.shape.max_bin].abs().permute(2, 0, 1, 3).flatten(2)
            for j, network in enumerate(networks):
                encoded[j, start:stop] = network.encode(magnitude)
        return self.remember(encoded)

    def remember(self, encoded: Tensor) -> Tensor:
        """What the networks make of all frames, [J, N, B, H] -> the same, in the same memory."""
        for j, network in enumerate(self._targets()):
            encoded[j] = network.remember(encoded[j])
        return encoded

    def _block(self, x: Tensor, hidden: Tensor) -> Iterator[Tensor]:
        """One block of the filter: x [C, n, F], hidden [J, n, H] -> each stem's spectra [C, n, F]."""
        shape = self.shape
        masks = x.real.new_empty(len(self.networks), x.shape[1], shape.nb_channels * shape.nb_output_bins)
        for j, network in enumerate(self._targets()):
            network.masks(hidden[j], masks[j])
        masks = masks.unflatten(-1, (shape.nb_channels, -1)).transpose(1, 2)
        if shape.softmask:
            masks = soft_masks(x.abs(), masks)
        if shape.residual:
            masks = torch.cat([masks, 1 - masks.sum(0, keepdim=True)])
        return wiener(x, masks, shape.niter, self._outputs)


def fold(shape: Shape, target: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as that of `Target`.

    In evaluation mode every batch normalisation is a scale and an offset per feature, as are the input's and the
    output's statistics: with the linear layer beside them they are one linear layer. The products are taken in
    float64, so that only the last rounding differs.
    """
    expected = _published_shapes(shape)
    for name, size in expected.items():
        if name not in state or tuple(state[name].shape) != size:
            found = f"has the shape {tuple(state[name].shape)}" if name in state else "is missing"
            raise CheckpointError(
                f"the weights of {target}: {name} {found}, expected {size}.",
                hint="the config does not describe these weights, or they are not Open-Unmix's.",
            )
    if unknown := [n for n in state if n not in expected and n not in _IGNORED and not n.endswith("_tracked")]:
        raise CheckpointError(f"the weights of {target} hold {', '.join(unknown)}, which Open-Unmix does not have.")

    def norm(name: str) -> tuple[Tensor, Tensor]:
        scale = state[f"{name}.weight"].double() / (state[f"{name}.running_var"].double() + _BATCH_NORM_EPSILON).sqrt()
        return scale, state[f"{name}.bias"].double() - scale * state[f"{name}.running_mean"].double()

    channels = shape.nb_channels
    folded = {name: tensor for name, tensor in state.items() if name.startswith("lstm.")}
    # the published input mean is negated and the scale inverted already: (x + mean) * scale
    scale, offset = norm("bn1")
    weight = scale[:, None] * state["fc1.weight"].double() * state["input_scale"].double().repeat(channels)
    folded["fc1.weight"], folded["fc1.bias"] = weight, offset + weight @ state["input_mean"].double().repeat(channels)
    scale, offset = norm("bn2")
    folded["fc2.weight"], folded["fc2.bias"] = scale[:, None] * state["fc2.weight"].double(), offset
    scale, offset = norm("bn3")
    out = state["output_scale"].double().repeat(channels)
    folded["fc3.weight"] = (scale * out)[:, None] * state["fc3.weight"].double()
    folded["fc3.bias"] = offset * out + state["output_mean"].double().repeat(channels)
    return {name: tensor.float() for name, tensor in folded.items()}


def _published_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Tensors of a published target file and their shapes."""
    hidden, channels = shape.hidden_size, shape.nb_channels
    outputs = channels * shape.nb_output_bins
    shapes: dict[str, tuple[int, ...]] = {
        "fc1.weight": (hidden, channels * shape.max_bin),
        "fc2.weight": (hidden, 2 * hidden),
        "fc3.weight": (outputs, hidden),
        "input_mean": (shape.max_bin,),
        "input_scale": (shape.max_bin,),
        "output_mean": (shape.nb_output_bins,),
        "output_scale": (shape.nb_output_bins,),
    }
    for norm, features in (("bn1", hidden), ("bn2", hidden), ("bn3", outputs)):
        shapes |= {f"{norm}.{name}": (features,) for name in ("weight", "bias", "running_mean", "running_var")}
    cell = hidden if shape.unidirectional else hidden // 2
    for layer in range(shape.nb_layers):
        for direction in ("",) if shape.unidirectional else ("", "_reverse"):
            suffix = f"l{layer}{direction}"
            shapes |= {f"lstm.weight_ih_{suffix}": (4 * cell, hidden), f"lstm.weight_hh_{suffix}": (4 * cell, cell)}
            shapes |= {f"lstm.bias_ih_{suffix}": (4 * cell,), f"lstm.bias_hh_{suffix}": (4 * cell,)}
    return shapes
