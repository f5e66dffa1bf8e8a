"""BandIt v2: speech, music and effects of a film's sound, by recurrent layers over overlapping musical bands.

"Facing the Music: Tackling Singing Voice Separation in Cinematic Audio Source Separation" (Watcharasupat, Wu & Orife,
2024, arXiv:2408.03588), after "A Generalized Bandsplit Neural Network for Cinematic Audio Source Separation" (2023,
arXiv:2309.02539). Checked against the public package `msst` 0.1.0 (models.bandit_v2). Left out: training, and what the
published settings don't use (other kinds of bands, several channels as one, real masks).

The network hears one channel at a time, so that this model has one channel and the pipeline hands it each by itself.
Published protocol: segments of 8 s (`chunk_size`), a new one every `chunk_size / num_overlap`, the last one filled up
with its mirror image.

Legend: b batch, s stem, k band, f bin, t frame, c channel of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from unmixcli.errors import CheckpointError
from unmixcli.models import onednn
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import read_settings, require, without_memory
from unmixcli.models.spectrogram import OverlapAdd, centre_pad, frame_count, spectra

_DEFAULTS: dict[str, Any] = {
    "n_bands": 64,
    "n_sqm_modules": 12,
    "emb_dim": 128,
    "rnn_dim": 256,
    "bidirectional": True,
    "mlp_dim": 512,
    "use_freq_weights": True,
    "n_fft": 2048,
    "hop_length": 512,
    "normalized": True,
    "sample_rate": 48000,
    "chunk_size": 384000,
    "num_overlap": 2,
    "normalize": False,
}
# Settings of which the published networks have one value.
_ONLY: dict[str, Any] = {
    "in_channels": 1,
    "band_type": "musical",
    "require_no_overlap": False,
    "require_no_gap": True,
    "normalize_channel_independently": False,
    "treat_channel_as_feature": True,
    "hidden_activation": "Tanh",
    "hidden_activation_kwargs": None,
    "complex_mask": True,
    "window_fn": "hann_window",
    "wkwargs": None,
    "power": None,
    "center": True,
    "pad_mode": "reflect",
    "onesided": True,
}
_READ_HERE = frozenset({"stems", "instruments", "rnn_type", "win_length"})
# `fs` only scales the bands' limits, which are kept in bins
_IGNORED = frozenset({"fs", "num_channels", "min_mean_abs", "batch_size", "dim_t"})
_CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"GRU": nn.GRU, "LSTM": nn.LSTM}


class BandItV2(SeparationModel):
    """See the module."""

    channels = 1
    cpu_workers = True  # torch runs a GRU step by step in small products, which two threads share badly
    window: Tensor
    shares: Tensor
    band_split: nn.ModuleDict
    tf_model: nn.ModuleDict
    mask_estim: nn.ModuleDict

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        own = {name: value for name, value in config.items() if name not in _READ_HERE}
        self.values = values = read_settings("bandit_v2", own, _DEFAULTS, only=_ONLY, ignored=_IGNORED)
        _check(values, config)
        published, names = _names(config, stems)
        if missing := [stem for stem in stems if stem not in names]:
            raise CheckpointError(f"these weights have no stem {', '.join(missing)}; they give {', '.join(names)}.")
        self.stems = tuple(stems)
        self._wanted = [published[names.index(stem)] for stem in stems]
        self.sample_rate, self.segment_length = values["sample_rate"], values["chunk_size"]
        self.overlap = 1 - 1 / values["num_overlap"]
        self.normalization = "track" if values["normalize"] else "none"
        self.bands = musical_bands(values["n_fft"], values["n_bands"])
        cell = _CELLS[config.get("rnn_type", "LSTM")]
        for name, part in without_memory(lambda: _Layers(values, cell, published, self.bands)).named_children():
            setattr(self, name, part)
        window = torch.hann_window(values["n_fft"])
        scale = window.square().sum().rsqrt() if values["normalized"] else 1.0
        self.register_buffer("window", window * scale, persistent=False)
        counts = torch.zeros(values["n_fft"] // 2 + 1)
        for start, stop in self.bands:
            counts[start:stop] += 1
        shares = counts.reciprocal() if values["use_freq_weights"] else torch.ones_like(counts)
        self.register_buffer("shares", shares, persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> BandItV2:
        """See `SeparationModel`. Keys: the published constructor's arguments, whose `stems` are the outputs by their
        published names, `instruments` (the same by ours), `sample_rate`, `chunk_size`, `num_overlap`, `normalize`."""
        return cls(config, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published tensors, without those that are computed, or stored a second time under `combined`."""

        def needed(name: str) -> bool:
            computed = "freq_weights/" in name or name in ("stft.window", "istft.window")
            return not computed and not (name.startswith("mask_estim.") and ".combined." in name)

        return {name: tensor for name, tensor in super().convert_state(config, states).items() if needed(name)}

    def context(self, used: int) -> tuple[int, int]:
        """See `SeparationModel`: a shorter last segment is filled up."""
        return 0, max(0, self.segment_length - used)

    @torch.inference_mode()
    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, 1, T] -> estimates [B, S, 1, T]."""
        n_fft, hop = self.values["n_fft"], self.values["hop_length"]
        padded = centre_pad(mixture[:, 0], n_fft)
        frames = frame_count(padded.shape[-1], n_fft, hop)
        x = spectra(padded, self.window, hop)  # [b, t, f]
        y = self._across(self._split(x))
        added = OverlapAdd((len(mixture), len(self.stems), 1), frames, self.window, hop)
        for place, stem in enumerate(self._wanted):
            separated = x * self._mask(cast("nn.ModuleDict", self.mask_estim[stem])["norm_mlp"], y)
            for item in range(len(mixture)):
                added.add((item, place), separated[item, None], 0)
        return added.signal(n_fft // 2, mixture.shape[-1])

    def _split(self, x: Tensor) -> Tensor:
        """Every band's bins as one vector of c channels, [b, t, f] -> [b, k, t, c]."""
        layers = cast("nn.ModuleList", self.band_split["norm_fc_modules"])
        parts = [
            layer["combined"](torch.view_as_real(x[..., start:stop]).flatten(2))  # type: ignore[index]
            for layer, (start, stop) in zip(layers, self.bands, strict=True)
        ]
        return torch.stack(parts, 1)

    def _across(self, x: Tensor) -> Tensor:
        """The recurrent layers, over time and over bands in turn, [b, k, t, c] -> the same."""
        layers = list(self.tf_model["seqband"].children())[::2]
        for number, layer in enumerate(layers):
            # steps first, as the layers of torch want them
            turned = x.permute(2, 0, 1, 3) if number % 2 == 0 else x.permute(1, 0, 2, 3)
            result = layer(turned)
            x = result.permute(1, 2, 0, 3) if number % 2 == 0 else result.permute(1, 0, 2, 3)
        return x

    def _mask(self, layers: nn.Module, x: Tensor) -> Tensor:
        """What one stem's layers make of all bands, complex, [b, k, t, c] -> [b, t, f]."""
        mask = torch.zeros(len(x), x.shape[2], len(self.shares), dtype=torch.complex64, device=x.device)
        for number, ((start, stop), layer) in enumerate(zip(self.bands, layers.children(), strict=True)):
            part = layer(x[:, number]).unflatten(-1, (-1, 2)).contiguous()
            mask[..., start:stop] += torch.view_as_complex(part)
        return mask.mul_(self.shares)


def musical_bands(n_fft: int, count: int) -> list[tuple[int, int]]:
    """First bin and the bin after the last of bands that lie evenly on a scale of octaves and overlap.

    Centres run from bin 1 to the last; a band reaches a `count`-th of that range in octaves to either side, outwards to
    whole bins, and the first and the last band take what is beyond them. The published code computes the same in hertz,
    and rounds otherwise where a limit is a whole bin already (as many bands as octaves; none of the published 64).

    Args:
        n_fft: of the transform.
        count: bands, at least 2.
    """
    last = n_fft // 2
    octaves = math.log2(last)
    bands = []
    for band in range(count):
        low, high = (octaves * (band / (count - 1) + side / count) for side in (-1, 1))
        bands.append((math.floor(2**low), min(last, math.ceil(2**high)) + 1))
    bands[0], bands[-1] = (0, bands[0][1]), (bands[-1][0], last + 1)
    return bands


def _names(config: Mapping[str, Any], stems: Sequence[str]) -> tuple[list[str], list[str]]:
    """The outputs by their published names and by ours."""
    published = config.get("stems", config.get("instruments", list(stems)))
    ours = config.get("instruments", published)
    for key, names in (("stems", published), ("instruments", ours)):
        good = isinstance(names, (list, tuple)) and all(isinstance(name, str) and "." not in name for name in names)
        if not good or not names or len(set(names)) < len(names):
            raise CheckpointError(f"bandit_v2's {key} are {names!r}, expected a list of names.")
    if len(published) != len(ours):
        raise CheckpointError("bandit_v2's stems and instruments are not the same number.")
    return list(published), list(ours)


def _check(values: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    n_fft, hop, window = values["n_fft"], values["hop_length"], config.get("win_length")
    least = ("n_sqm_modules", "emb_dim", "rnn_dim", "mlp_dim", "hop_length", "sample_rate", "chunk_size", "num_overlap")
    require(
        "bandit_v2",
        (
            *((values[name] >= 1, f"{name} is {values[name]}, expected at least 1") for name in least),
            (config.get("rnn_type", "LSTM") in _CELLS, f"rnn_type is {config.get('rnn_type')!r}, expected GRU or LSTM"),
            (values["n_bands"] >= 2, f"n_bands is {values['n_bands']}, expected at least 2"),
            (n_fft >= 4 and n_fft % 2 == 0, f"n_fft is {n_fft}, expected an even number"),
            (hop >= 1 and n_fft % max(1, hop) == 0, f"hop_length is {hop}, expected a divisor of n_fft"),
            (window is None or window == n_fft, f"win_length is {window!r}, expected n_fft, {n_fft}"),
        ),
    )


class _Layers(nn.Module):
    """The parts under their published names."""

    def __init__(
        self,
        values: Mapping[str, Any],
        cell: type[nn.GRU] | type[nn.LSTM],
        stems: Sequence[str],
        bands: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        channels = values["emb_dim"]
        widths = [stop - start for start, stop in bands]
        split = (nn.Sequential(nn.LayerNorm(2 * width), onednn.Linear(2 * width, channels)) for width in widths)
        self.band_split = nn.ModuleDict(
            {"norm_fc_modules": nn.ModuleList(nn.ModuleDict({"combined": layers}) for layers in split)}
        )
        layers: list[nn.Module] = []
        for _ in range(2 * values["n_sqm_modules"]):
            # the published list has one more between any two, which turns the axes
            layers += [_Recurrent(channels, values["rnn_dim"], cell, values["bidirectional"]), nn.Identity()]
        self.tf_model = nn.ModuleDict({"seqband": nn.Sequential(*layers)})
        self.mask_estim = nn.ModuleDict(
            {
                stem: nn.ModuleDict({"norm_mlp": nn.ModuleList(_Mask(channels, values["mlp_dim"], w) for w in widths)})
                for stem in stems
            }
        )


class _Recurrent(nn.Module):
    """A recurrent layer that is added to its input, [n, a, b, c] -> the same; n are the steps."""

    def __init__(self, channels: int, hidden: int, cell: type[nn.GRU] | type[nn.LSTM], bidirectional: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.rnn = cell(channels, hidden, bidirectional=bidirectional)
        self.fc = onednn.Linear(hidden * (2 if bidirectional else 1), channels)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.norm(x).reshape(len(x), -1, x.shape[-1])
        result: Tensor = self.fc(self.rnn(steps)[0])
        return result.view(x.shape).add_(x)


class _Mask(nn.Module):
    """A band's mask, [b, t, c] -> [b, t, 2 f]."""

    def __init__(self, channels: int, hidden: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Sequential(onednn.Linear(channels, hidden), nn.Tanh())
        self.output = nn.Sequential(onednn.Linear(hidden, 4 * width), nn.GLU(-1))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.output(self.hidden(self.norm(x)))
        return result
