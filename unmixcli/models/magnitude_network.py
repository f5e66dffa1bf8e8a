"""What the early networks share: magnitudes of a mono spectrum in, one ratio mask per source out, the mixture's phase.

They look at a frame (and perhaps its neighbours) as one vector of all bins. Those that are recurrent begin with an
empty state: segments are long and run in on the seconds before them, and a track that fits into one segment is seen
from its true beginning, as a whole.

Legend: b batch, s stem, f bin, n frame.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.base import EdgePadding, Normalization
from unmixcli.models.target_masks import TargetMasks
from unmixcli.spectrum import istft, stft

_EPSILON = 1e-10
# A mixture quieter than this is not amplified: -100 dBFS, below the noise of 16 bit.
_QUIET = 1e-5


def _sine(size: int) -> Tensor:
    return torch.sin(torch.pi * torch.arange(size) / size)


WINDOWS: dict[str, Callable[[int], Tensor]] = {
    "sine": _sine,
    "hann": torch.hann_window,
    "hamming": torch.hamming_window,
}


class MagnitudeNetwork(TargetMasks):
    """A network between magnitudes and masks.

    A subclass gives `defaults` (its settings, whole numbers of at least 1 and texts), `choices` (what a text may be),
    calls `__init__` and writes `masks`. Settings that all have: `n_fft`, `hop`, `window`, `sample_rate`.

    Magnitudes are divided by the root of the window's energy, so that the noise floor of a bin is the signal's standard
    deviation whatever the window's length. In training the levels that the pipeline evens out (`normalization`) are
    those of each excerpt.

    Args:
        config: values instead of the defaults, and `targets`: all stems that the network gives (default: those of
            `own_targets`).
        stems: to give, some of the targets.
        seconds: of a segment without its edges.
        run_in: seconds at each side of a segment that are not used.

    Raises:
        CheckpointError: a key or a value that the architecture does not have.
    """

    channels = 1
    edge_padding: EdgePadding = "none"
    normalization: Normalization = "track"
    overlap = 0.0
    defaults: ClassVar[Mapping[str, Any]]
    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    own_targets: ClassVar[tuple[str, ...]] = ("accompaniment", "vocals")

    def __init__(self, config: Mapping[str, Any], stems: Sequence[str], *, seconds: float, run_in: float) -> None:
        super().__init__(config, stems, self.own_targets)
        self.settings = self.read(config)
        self.n_fft, self.hop = self.settings["n_fft"], self.settings["hop"]
        self.sample_rate = self.settings["sample_rate"]
        self.bins = self.n_fft // 2 + 1
        with torch.device("cpu"):  # it is needed where weights are not
            window = WINDOWS[self.settings["window"]](self.n_fft)
            self.window_sum = float(window.sum())
            self.scale = 1 / float(window.square().sum().sqrt())
        self.window: Tensor
        self.register_buffer("window", window, persistent=False)
        # frames lie on the track's grid
        self.segment_multiple = self.hop
        self.edge = -(-max(round(run_in * self.sample_rate), self.n_fft) // self.hop) * self.hop
        self.segment_length = 2 * self.edge + max(1, round(seconds * self.sample_rate / self.hop)) * self.hop

    def masks(self, magnitudes: Tensor) -> Tensor:
        """magnitudes [b, n, f] of a signal at the level that `normalization` gives -> masks [b, n, s, f]."""
        raise TypeError(f"{self._name()} has no masks")

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Masked spectra or waveforms: what is wanted."""
        x = self.training_spectra(mixture)  # [b, 1, f, n]
        magnitudes = x.abs()[:, 0].transpose(1, 2)
        if self.training:
            magnitudes = magnitudes / self._training_level(mixture).clamp_min(_QUIET)[:, None, None]
        masks = self.masks(magnitudes)[:, :, self.chosen].permute(0, 2, 3, 1)  # [b, s, f, n]
        spectra = torch.view_as_complex(torch.view_as_real(x) * masks[..., None].float())
        outputs = {}
        if "spectra" in wanted:
            outputs["spectra"] = spectra[:, :, None]
        if "waveforms" in wanted:
            length = mixture.shape[-1]
            outputs["waveforms"] = istft(spectra / self.scale, self.n_fft, self.hop, length, self.window)[:, :, None]
        return outputs

    def training_spectra(self, waves: Tensor) -> Tensor:
        """[..., C, T] -> complex [..., C, F, N]."""
        return stft(waves, self.n_fft, self.hop, self.window) * self.scale

    def _training_level(self, mixture: Tensor) -> Tensor:
        """What the pipeline would divide this excerpt by. [B, 1, T] -> [B]."""
        return self.level(mixture) if self.normalization == "level" else mixture.std((1, 2), correction=0)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with defaults filled in.

        Raises:
            CheckpointError: a key or a value that the architecture does not have.
        """
        if unknown := set(config) - set(cls.defaults) - {"targets"}:
            raise CheckpointError(f"{cls._name()} has no {', '.join(sorted(unknown))} in its config.")
        values = {**cls.defaults, **{name: value for name, value in config.items() if name != "targets"}}
        for name, value in values.items():
            if isinstance(cls.defaults[name], str):
                words = WINDOWS if name == "window" else cls.choices[name]
                cls.check((value in words, f"{name} is {value!r}, expected {', '.join(words)}"))
            else:
                most = 384000 if name == "sample_rate" else 1 << 16
                whole = type(value) is int and 1 <= value <= most
                cls.check((whole, f"{name} is {value!r}, expected a whole number from 1 to {most}"))
        n_fft, hop = values["n_fft"], values["hop"]
        cls.check(
            (n_fft % 2 == 0 and n_fft >= 4, f"n_fft is {n_fft}, expected an even number of at least 4"),
            (hop <= n_fft // 2, f"hop is {hop}, expected at most half of n_fft"),
        )
        return values


def joined_frames(frames: Tensor, count: int) -> Tensor:
    """Each frame beside its neighbours, `count` (odd) in all, the ends repeated: [b, n, f] -> [b, n, count·f]."""
    if count == 1:
        return frames
    reach = count // 2
    first, last = frames[:, :1].expand(-1, reach, -1), frames[:, -1:].expand(-1, reach, -1)
    return torch.cat([first, frames, last], 1).unfold(1, count, 1).transpose(2, 3).flatten(2)


def shares(loud: Tensor) -> Tensor:
    """Masks in proportion to outputs >= 0 (even ones where all are zero): the papers' mask layer. [b, n, s, f]"""
    loud = loud + _EPSILON
    return loud / loud.sum(2, keepdim=True)
