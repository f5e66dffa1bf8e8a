"""Spectral subtraction: take a steady background (hiss, hum, an air conditioner) out of every frame.

S. F. Boll, "Suppression of acoustic noise in speech using spectral subtraction", IEEE Transactions on Acoustics, Speech
and Signal Processing 27.2 (1979), with the over-subtraction and the floor of M. Berouti, R. Schwartz and J. Makhoul
(ICASSP 1979). There is no recording of the noise alone: its power in each bin is taken from the quietest frames of the
segment (quantiles as in V. Stahl, A. Fischer and R. Bippus, ICASSP 2000; noise has exponentially distributed power, so
the q-quantile is -ln(1 - q) of the mean). The gain of a bin is √max(floor², 1 - strength · noise / power).

Limits: for noise that does not change within a segment. What sounds all the time (a drone, dense chords) counts as
noise. It does not tell instruments apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmixcli.errors import CheckpointError
from unmixcli.models.masking import MaskingMethod, masked


class SpectralSubtraction(MaskingMethod):
    """Clean (without the steady background) and noise (that background).

    Settings (`defaults`): `quantile` of a bin's power over time, 0 to below 1; `strength` with which the noise's power
    is subtracted; `floor`, the least gain; the rest is size and place of frames and segments.
    """

    all_stems = ("clean", "noise")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 512,
        "segment_seconds": 30.0,
        "edge_seconds": 1.0,
        "overlap": 0.25,
        "quantile": 0.1,
        "strength": 2.0,
        "floor": 0.05,
    }

    def __init__(self, config: Mapping[str, Any] | None = None, stems: Sequence[str] | None = None) -> None:
        super().__init__(config, stems)
        if not 0 < self.config["quantile"] < 1:
            raise CheckpointError(f"quantile is {self.config['quantile']}, expected more than 0 and less than 1.")
        if self.config["floor"] > 1:
            raise CheckpointError(f"floor is {self.config['floor']}, expected 0 to 1.")

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """What is left when the background is subtracted."""
        spectrum = self.spectrum(mixture)
        level = spectrum.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
        power = (spectrum.abs() / level).square_()
        noise = background(power, self.config["quantile"])
        gain = noise[..., None].mul(-self.config["strength"]).div(power.clamp_min(torch.finfo(torch.float32).tiny))
        gain.add_(1).clamp_min_(self.config["floor"] ** 2).sqrt_()
        return {"clean": self.wave(masked(spectrum, gain), mixture.shape[-1])}


def background(power: Tensor, quantile: float) -> Tensor:
    """Mean power of the noise in each bin, from its quietest frames. [C, F, N] -> [C, F]"""
    place = max(1, math.ceil(quantile * power.shape[-1]))
    return power.sort(dim=-1).values[..., place - 1] / -math.log1p(-quantile)
