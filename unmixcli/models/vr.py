"""VR: a sigmoid mask on the magnitudes of a spectrogram made of bands, for one stem; the other stem is the rest.

The models of Ultimate Vocal Remover's "VR architecture" (Anjok07 and aufr33) and of tsurumeso's vocal-remover, from
which they come. Checked against audio-separator 0.47.1: networks and whole path (docs/benchmarks/vr.py). The protocol
is the published one: magnitudes divided by the largest of the track (`normalization` "level"), windows of 512 frames of
which the middle 256 (version 5.1: 384) are used, silence around the track, mask ** (1 + aggression). Left out, all off
where they are published: the mirrored high end, post-processing of the mask, test-time augmentation (`Options.shifts`
does as much).

Segments hold whole windows on the published grid. Neighbours share `_FADE` frames: there both masks are trusted, and
the stems are cross-faded; the published program changes from one mask to the next between two frames.

Legend: b batch, c channel, f bin, n frame, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.base import SeparationModel
from unmixcli.models.settings import require, without_memory
from unmixcli.models.vr_bands import BandSplit, Layout
from unmixcli.models.vr_networks import ASPP_SIZES, LSTM_SIZES, CascadedASPP, CascadedLSTM, fold

# Stems whose masks the published aggression makes much steeper (backing vocals are published as vocals).
_SOLO = frozenset(
    {
        "vocals", "backing_vocals", "other", "bass", "drums", "guitar", "piano", "synthesizer", "strings", "woodwinds",
        "brass",
    }
)  # fmt: skip
_FADE = 4  # frames that neighbouring segments share
_SECONDS = 12.0  # of a segment without its edges, rounded to whole windows
_DEFAULTS: dict[str, Any] = {"window": 512, "aggression": 5, "instruments": ("instrumental", "vocals")}
_KEYS = frozenset({"layout", "network", "nout", "nout_lstm", *_DEFAULTS})

_Network: TypeAlias = CascadedASPP | CascadedLSTM


class VR(SeparationModel):
    """One mask network on a band layout.

    Args:
        values: the config with defaults, of `from_config`.
        stems: to give, one or both of `instruments`.
    """

    normalization = "level"
    edge_padding = "zero"

    def __init__(self, values: Mapping[str, Any], stems: Sequence[str]) -> None:
        super().__init__()
        layout = Layout.read(values.get("layout"))
        network = cast("_Network", without_memory(lambda: _network(values, layout.bins)))
        # 1.4 times as fast for the ASPP networks on a CPU, no difference for the others
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bands = BandSplit(layout, per_band=isinstance(network, CascadedLSTM))
        self.sample_rate = layout.sample_rate
        self.channels = 2
        self.stems = tuple(stems)
        self.instruments = tuple(values["instruments"])
        self.covers_mixture = len(stems) == 2
        self.window: int = values["window"]
        self.offset = network.offset
        self.hop = self.bands.hop
        self.step = self.window - 2 * self.offset  # frames that a window is used for
        multiple = network.multiple
        require(
            "vr",
            (
                (
                    set(stems) <= set(self.instruments),
                    f"stems are {', '.join(self.instruments)}, asked for were {stems!r}",
                ),
                (layout.bins % (2 * multiple) == 0, f"bins are {layout.bins}, expected a multiple of {2 * multiple}"),
                (
                    self.window % multiple == 0 and self.step > 0,
                    f"window is {self.window}, expected a multiple of {multiple} above {2 * self.offset}",
                ),
            ),
        )
        self.register_buffer("exponents", self._exponents(values["aggression"], layout), persistent=False)
        # A window's masks are wanted a little beyond the middle as well: where a segment ends, and by frames that
        # reach into its used part. All this lies within the offset.
        self.margin = self.bands.reach
        self.edge = (self.offset + self.margin) * self.hop
        windows = max(1, round(_SECONDS * self.sample_rate / (self.step * self.hop)))
        used = (windows * self.step + _FADE) * self.hop
        self.segment_length = used + 2 * self.edge
        self.segment_multiple = self.hop
        self.overlap = _FADE * self.hop / used

    exponents: Tensor

    @classmethod
    def from_config(cls, config: Mapping[str, Any], stems: Sequence[str]) -> VR:
        """See `SeparationModel`. Keys:

        - `layout`: name of a published one, or a mapping (see `vr_bands.Layout`);
        - `network`: the published size in KB, a key of `ASPP_SIZES` or `LSTM_SIZES`; or instead `nout` and `nout_lstm`
          (default 128) for another size of version 5.1;
        - `window`: frames that the network sees at once (512);
        - `aggression`: percent by which masks are made steeper (5; 0 leaves them as they are);
        - `instruments`: what the mask keeps, and the rest ("instrumental", "vocals").
        """
        if unknown := set(config) - _KEYS:
            raise CheckpointError(f"vr has no {', '.join(sorted(unknown))} in its config.")
        values = {**_DEFAULTS, **config}
        for name, least, most in (("window", 1, 4096), ("aggression", -100, 100)):
            if type(values[name]) is not int or not least <= values[name] <= most:
                raise CheckpointError(
                    f"vr's {name} is {values[name]!r}, expected a whole number from {least} to {most}."
                )
        instruments = values["instruments"]
        if not isinstance(instruments, (list, tuple)) or len(set(instruments)) != 2 or len(instruments) != 2:
            raise CheckpointError(f"vr's instruments are {instruments!r}, expected two names.")
        return cls(values, stems)

    @classmethod
    def convert_state(cls, config: Mapping[str, Any], states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The published state dict with its normalisations folded."""
        (state,) = states.values()
        with torch.device("meta"):
            network = _network({**_DEFAULTS, **config}, Layout.read(config.get("layout")).bins)
        return {f"network.{name}": tensor for name, tensor in fold(network, state).items()}

    def level(self, mixture: Tensor) -> Tensor:
        """See `SeparationModel`: the largest magnitude of what the network hears."""
        return self._heard(self.bands.analyse(self._whole(mixture)).abs(), mixture).amax((1, 2, 3))

    def forward(self, mixture: Tensor) -> Tensor:
        """mixture [B, C, T], divided by the track's level -> estimates [B, S, C, T]."""
        x = self.bands.analyse(self._whole(mixture))
        mask = self._masks(self._heard(x.abs(), mixture))
        mask = mask.pow_(self.exponents[:, None])
        first = mask.to(x.dtype).mul_(x)
        waves = []
        for stem in self.stems:
            spectrum = first if stem == self.instruments[0] else x - first
            waves.append(self.bands.synthesise(spectrum)[..., : mixture.shape[-1]])
        return torch.stack(waves, 1)

    def _whole(self, mixture: Tensor) -> Tensor:
        """Filled up with silence to whole hops."""
        return F.pad(mixture.float(), (0, -mixture.shape[-1] % self.hop))

    def _heard(self, magnitude: Tensor, mixture: Tensor) -> Tensor:
        """Frames that are centred beyond the ends of the track are silent for the network, as published, though the
        track's first samples reach into them. An end shows by its edge, all zeros."""
        edge, frames = self.edge // self.hop, magnitude.shape[-1]
        length = mixture.shape[-1]
        if length <= 2 * self.edge:
            return magnitude
        at_start = (mixture[..., : self.edge] == 0).all(-1).all(-1)
        at_end = (mixture[..., -self.edge :] == 0).all(-1).all(-1)
        number = torch.arange(frames, device=mixture.device)
        beyond = at_start[:, None] & (number < edge) | at_end[:, None] & (number > (length - self.edge) // self.hop)
        return magnitude.masked_fill_(beyond[:, None, None], 0)

    def _masks(self, magnitude: Tensor) -> Tensor:
        """[b, c, f, n] -> [b, c, f, n]. Window k is used for `step` frames from edge + k * step on; the first and the
        last one also for what lies beyond, as far as they reach."""
        frames, edge = magnitude.shape[-1], self.edge // self.hop
        windows = max(1, math.ceil((frames - 1 - 2 * edge - _FADE) / self.step))
        begin = edge - self.offset
        end = begin + (windows - 1) * self.step + self.window
        padded = F.pad(magnitude, (0, max(0, end - frames)))
        masks = torch.zeros_like(padded)
        for number in range(windows):
            start = begin + number * self.step
            heard = padded[..., start : start + self.window].contiguous(memory_format=torch.channels_last)
            found = self.network(heard)
            first = 0 if number == 0 else self.offset
            masks[..., start + first : start + self.window] = found[..., first:]
        return masks[..., :frames]

    def _exponents(self, aggression: int, layout: Layout) -> Tensor:
        """Of the mask, [f]: a third of the aggression in the lowest band."""
        excess = 2 * aggression / 100
        if excess and self.instruments[0].lower() in _SOLO:
            excess = 1 - excess
        exponents = torch.full((layout.bins + 1,), 1 + excess)
        exponents[: layout.bands[0].crop[1]] = 1 + excess / 3
        return exponents


def _network(values: Mapping[str, Any], bins: int) -> _Network:
    size, width, hidden = values.get("network"), values.get("nout"), values.get("nout_lstm", 128)
    if size is None and width is not None:
        for name, value in (("nout", width), ("nout_lstm", hidden)):
            if type(value) is not int or not 4 <= value <= 1024 or value % 4:
                raise CheckpointError(f"vr's {name} is {value!r}, expected a multiple of 4 up to 1024.")
        return CascadedLSTM(bins, width, hidden)
    if size is not None and width is None and "nout_lstm" not in values:
        if size in LSTM_SIZES:
            return CascadedLSTM(bins, *LSTM_SIZES[size])
        if size in ASPP_SIZES:
            return CascadedASPP(ASPP_SIZES[size])
    known = ", ".join(str(number) for number in sorted({*ASPP_SIZES, *LSTM_SIZES}))
    raise CheckpointError(
        f"vr's network is {size!r} and its nout {width!r}, expected either nout or one of {known} as network."
    )
