"""What the trainable mask networks share: spectra, features, masks that add to one, and how segments are cut.

A network sees a stereo spectrum as middle and side, (L + R)/√2 and (L - R)/√2, and masks these: a voice in the centre
has no side, and a mask on the side costs it nothing. The transform is orthonormal, so a loss means the same on both.
Features are the logarithms of the magnitudes of left, right, middle and side: where a source stands follows from their
differences.

The masks are a softmax over all stems, so that the stems add up to the mixture.

Legend: b batch, s stem, c channel (middle, side; or mono), k feature (left, right, middle, side; or mono), f bin,
n frame.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmixcli.errors import CheckpointError
from unmixcli.models.target_masks import TargetMasks
from unmixcli.spectrum import istft, stft

# Added to magnitudes under the logarithm: about the level of 16-bit noise in a bin.
_FLOOR = 1e-2
# Where a level is evened out: root mean square of a loud mix, and the most that quiet passages are raised.
_LEVEL = 10 ** (-17 / 20)
_MOST = 100.0
_COMMON: dict[str, int] = {"n_fft": 4096, "hop": 1024, "channels": 2, "sample_rate": 44100}


class MaskNetwork(TargetMasks):
    """A network between features and logits.

    A subclass gives `defaults` (its settings beside the common ones, whole numbers), builds its layers after calling
    `__init__`, and writes `logits`. Where it has a setting `level`, so many frames to each side, their level is evened
    out before they are looked at, so that a quiet recording is separated as a loud one.

    Args:
        config: values instead of the defaults, and `targets`: all stems that the mixture is shared out to (default:
            those asked for).
        stems: to give, some of the targets.
        context: frames to each side that a frame depends on.
        multiple: frames; segments begin on this grid.
        seconds: of a segment without its edges.

    Raises:
        CheckpointError: a key or a value that the architecture does not have.
    """

    defaults: ClassVar[Mapping[str, int]]

    def __init__(
        self,
        config: Mapping[str, Any],
        stems: Sequence[str],
        *,
        context: int,
        multiple: int = 1,
        seconds: float = 8.0,
    ) -> None:
        super().__init__(config, stems, stems)
        self.settings = self.read(config)
        self.n_fft, self.hop = self.settings["n_fft"], self.settings["hop"]
        self.channels, self.sample_rate = self.settings["channels"], self.settings["sample_rate"]
        self.bins = self.n_fft // 2 + 1
        self.features = 4 if self.channels == 2 else 1
        self.logits_per_bin = len(self.targets) * self.channels
        # Frames lie on the track's grid, and what a sample depends on lies within the edge: frames around it, those
        # that their masks depend on, and the samples of these.
        self.level_frames = self.settings.get("level", 0)
        context += self.level_frames
        grid = multiple * self.hop
        self.segment_multiple = grid
        self.edge = -(-(context * self.hop + self.n_fft) // grid) * grid
        self.segment_length = 2 * self.edge + max(1, round(seconds * self.sample_rate / grid)) * grid
        self.overlap = 0.0

    def logits(self, features: Tensor) -> Tensor:
        """[b, k, f, n] -> [b, (s c), f', n], f' <= f: what lies above takes the masks of the highest bins."""
        raise TypeError(f"{type(self).__name__} has no layers")

    def training_outputs(self, mixture: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Masked spectra, as `training_spectra` has them, their projections or waveforms: what is wanted."""
        x = self.training_spectra(mixture)  # [b, c, f, n]
        masks = self._masks(x)
        outputs = {}
        if "projections" in wanted:
            outputs["projections"] = masks * x.abs()[:, None]
        if "spectra" in wanted:
            outputs["spectra"] = torch.stack([_masked(x, mask) for mask in masks.unbind(1)], 1)
        if "waveforms" in wanted:
            # one stem after the other: the spectra of all of them would be most of the memory that separating takes
            waves = [istft(_masked(x, mask), self.n_fft, self.hop, mixture.shape[-1]) for mask in masks.unbind(1)]
            outputs["waveforms"] = self._turned(torch.stack(waves, 1), -2)
        return outputs

    def _masks(self, x: Tensor) -> Tensor:
        """complex [b, c, f, n] -> real [b, s, c, f, n]."""
        masks = self.logits(self._features(x)).float().unflatten(1, (-1, self.channels)).softmax(1)
        if self.chosen != list(range(len(self.targets))):
            masks = masks[:, self.chosen]
        missing = self.bins - masks.shape[3]
        if missing:
            top = masks[:, :, :, -16:].mean(3, keepdim=True)
            masks = torch.cat([masks, top.expand(-1, -1, -1, missing, -1)], 3)
        return masks

    def training_spectra(self, waves: Tensor) -> Tensor:
        """[..., C, T] -> complex [..., C, F, N], the channels middle and side."""
        return stft(self._turned(waves, -2), self.n_fft, self.hop)

    def training_projections(self, mixture: Tensor, references: Tensor) -> Tensor:
        """See `SeparationModel`."""
        x, s = self.training_spectra(mixture), self.training_spectra(references)
        phase = x / (x.abs() + 1e-9)
        # real planes, one after the other: products of complex numbers take twice the time
        cosine, sine = phase.real.contiguous()[:, None], phase.imag.contiguous()[:, None]
        return (s.real * cosine).addcmul_(s.imag, sine)

    def _turned(self, signal: Tensor, dim: int) -> Tensor:
        """Left and right to middle and side, or back: the transform is its own inverse."""
        if self.channels == 1:
            return signal
        left, right = signal.unbind(dim)
        return torch.stack([left + right, left - right], dim).mul_(math.sqrt(0.5))

    def _features(self, x: Tensor) -> Tensor:
        """[b, c, f, n] complex -> [b, k, f, n]."""
        loud = (torch.cat([self._turned(x, 1), x], 1) if self.channels == 2 else x).abs()
        if self.level_frames:
            loud = loud * self._gain(loud[:, -self.channels :])
        return (loud + _FLOOR).log()

    def _gain(self, magnitudes: Tensor) -> Tensor:
        """What brings the surroundings of each frame to one level. [b, c, f, n] -> [b, 1, 1, n]."""
        energy = magnitudes.square().sum((1, 2))[:, None]
        span = 2 * self.level_frames + 1
        around = F.avg_pool1d(energy, span, stride=1, padding=self.level_frames, count_include_pad=False)
        # Parseval: half the spectrum of a Hann window, whose mean square is 3/8
        rms = (around / (self.channels * 0.375 * self.n_fft * self.n_fft / 2)).sqrt()
        return (_LEVEL / rms.clamp_min(_LEVEL / _MOST))[:, :, None]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> dict[str, int]:
        """The config with defaults filled in.

        Raises:
            CheckpointError: a key or a value that the architecture does not have.
        """
        defaults = {**_COMMON, **cls.defaults}
        if unknown := set(config) - set(defaults) - {"targets"}:
            raise CheckpointError(f"{cls._name()} has no {', '.join(sorted(unknown))} in its config.")
        values = {**defaults, **{name: value for name, value in config.items() if name != "targets"}}
        for name, value in values.items():
            if type(value) is not int or not 1 <= value <= 1 << 20:
                raise CheckpointError(f"{cls._name()}'s {name} is {value!r}, expected a whole number of at least 1.")
        bins = values["n_fft"] // 2 + 1
        cls.check(
            (values["n_fft"] % 2 == 0, f"n_fft is {values['n_fft']}, expected an even number"),
            (values["hop"] <= values["n_fft"] // 2, f"hop is {values['hop']}, expected at most half of n_fft"),
            (values.get("max_bin", 1) <= bins, f"max_bin is {values.get('max_bin')}, expected at most {bins}"),
            (values["blocks"] <= 12, f"blocks is {values['blocks']}, expected at most 12"),
            (values["channels"] <= 2, f"channels is {values['channels']}, expected 1 or 2"),
        )
        return values


def _masked(spectra: Tensor, mask: Tensor) -> Tensor:
    return torch.view_as_complex(torch.view_as_real(spectra) * mask[..., None])


class FeatureNorm(nn.Module):
    """Every feature of every bin to mean 0 and variance 1, as seen in training. [b, k, f, n] -> the same."""

    def __init__(self, features: int, bins: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features * bins)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.norm(x.flatten(1, 2))
        return scaled.unflatten(1, x.shape[1:3])


class Residual(nn.Module):
    """Two convolutions over bands and frames, added to what they see; the first is dilated in time by `dilation`.

    [b, c, bands, n] -> the same.
    """

    def __init__(self, channels: int, second: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=(1, dilation), dilation=(1, dilation), bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, second, padding=second // 2)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = x + self.second(torch.relu(self.norm(self.first(x))))
        return joined


class AcrossBands(nn.Module):
    """What all bands of a frame say, added to each: two dense layers over the bands, the same for all channels.

    The time-distributed fully-connected layers ("TDF") of "Investigating U-Nets with various Intermediate Blocks for
    Spectrogram-based Singing Voice Separation" (Choi et al., ISMIR 2020). [b, c, bands, n] -> the same, in
    `torch.channels_last`: there both layers are one matrix product each, and nothing is turned round in memory.
    """

    def __init__(self, channels: int, bands: int, narrow: int) -> None:
        super().__init__()
        self.enter = nn.Parameter(torch.randn(narrow, bands) / bands**0.5)
        self.norm = nn.BatchNorm2d(channels)
        self.leave = nn.Parameter(torch.randn(bands, narrow) * 0.1 / narrow**0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)  # [b, bands, n, c]: contiguous
        inner = (self.enter @ rows.flatten(2)).unflatten(2, rows.shape[2:])
        inner = torch.relu(self.norm(inner.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        joined: Tensor = rows + (self.leave @ inner.flatten(2)).unflatten(2, rows.shape[2:])
        return joined.permute(0, 3, 1, 2)
