"""Mel-Band RoFormer: overlapping bands that are as wide as hearing is, and transformers over time and over bands.

"Mel-Band RoFormer for Music Source Separation" (Wang, Lu & Won, 2023, arXiv:2310.01809). Checked against the public
package `audio-separator` 0.47.1; `mlp_expansion_factor`, `linear_transformer_depth`, `skip_connection` and `zero_dc`,
which that package does not use here, follow the code the checkpoints that have them were trained with (MSST).

A band has the bins under a triangle of the mel scale of Slaney's "Auditory Toolbox" (1998), linear to 1 kHz and
logarithmic above; how high the triangle is doesn't matter.

The published `mask_estimator_depth` counts the linear layers of a mask before the last (in BS-RoFormer all of them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from unmixcli.errors import CheckpointError
from unmixcli.models.band_roformer import Band, BandRoformer

_HERTZ_PER_MEL = 200 / 3  # below the corner
_CORNER_MEL = 15.0  # 1 kHz
_MELS_PER_OCTAVE = 27 / np.log2(6.4)


def mel_edges(bands: int, rate: int) -> np.ndarray:
    """`bands` + 2 frequencies in Hz, equally far apart in mel, from 0 to half of the rate."""
    corner_hz = _HERTZ_PER_MEL * _CORNER_MEL
    nyquist = rate / 2
    if nyquist < corner_hz:
        top = nyquist / _HERTZ_PER_MEL
    else:
        top = _CORNER_MEL + np.log2(nyquist / corner_hz) * _MELS_PER_OCTAVE
    mels = np.linspace(0, top, bands + 2)
    above = corner_hz * 2 ** ((mels - _CORNER_MEL) / _MELS_PER_OCTAVE)
    return np.where(mels < _CORNER_MEL, _HERTZ_PER_MEL * mels, above)


class MelBandRoformer(BandRoformer):
    """See the module."""

    architecture = "mel_band_roformer"
    defaults: ClassVar[Mapping[str, Any]] = {"mask_estimator_depth": 1, "num_bands": 60, "norm_output": True}
    final_norm_instead = False

    def band_edges(self, config: Mapping[str, Any]) -> tuple[Band, ...]:
        """See `BandRoformer`. Band i lies strictly between the edges i and i + 2; the lowest and the highest bin always
        belong to the first and the last band."""
        count, rate = self.values["num_bands"], self.values["sample_rate"]
        bins = self.values["stft_n_fft"] // 2 + 1
        if not 1 <= count <= bins:
            raise CheckpointError(f"mel_band_roformer's num_bands is {count}, expected 1 to {bins}.")
        edges = mel_edges(count, rate)
        hertz = np.linspace(0, rate / 2, bins)
        first = np.searchsorted(hertz, edges[:-2], side="right")
        end = np.searchsorted(hertz, edges[2:], side="left")
        first[0], end[-1] = 0, bins
        if (first >= end).any() or (first[1:] > np.maximum.accumulate(end)[:-1]).any():
            raise CheckpointError(
                f"mel_band_roformer's {count} num_bands leave bands empty or some of {bins} bins out."
            )
        return tuple(zip(first.tolist(), end.tolist(), strict=True))

    def mask_layers(self) -> int:
        """See `BandRoformer`."""
        depth: int = self.values["mask_estimator_depth"]
        return depth + 1
