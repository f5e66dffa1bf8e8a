"""Centre extraction: what is the same in both channels, apart from what is not.

After C. Avendano and J.-M. Jot, "A frequency-domain approach to multichannel upmix", JAES 52 (2004), and D. Barry,
B. Lawlor and E. Coyle, "Sound source separation: azimuth discrimination and resynthesis" (ADRess), DAFx 2004. In every
bin the channels are taken as a centred source and two side signals, L = c + l and R = c + r. With c in the direction of
the middle M = (L + R) / 2 and with l and r uncorrelated in that bin,

    c = a M,   Re[(L - c) (R - c)*] = 0   =>   |M|² (1 - a)² = |D|²,  D = (L - R) / 2   =>   a = 1 - |D| / |M|

(the null at g = 1 of ADRess measured against the middle), and a = 0 where the difference is louder than the middle.
Equal channels (a mono track too) are all centre; channels of opposite sign are all sides.

Limits: everything in the middle goes to the centre: bass and kick drum too, beside the voice. Reverberation is not.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod


class CentreExtraction(MaskingMethod):
    """Centre (the same in both channels) and sides (each channel without it)."""

    all_stems = ("centre", "sides")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 4096,
        "hop": 1024,
        "segment_seconds": 30.0,
        "edge_seconds": 0.1,
        "overlap": 0.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The centre: the middle of the channels times `centre_mask`."""
        spectrum = self.spectrum(mixture)
        middle = spectrum.mean(dim=0, keepdim=True)
        centre = self.wave(middle * centre_mask(spectrum), mixture.shape[-1])
        return {"centre": centre.expand_as(mixture)}


def centre_mask(spectrum: Tensor) -> Tensor:
    """The factor a of the module's formula, 0 to 1. complex [C, F, N] -> [1, F, N]; one channel is all centre."""
    if spectrum.shape[0] == 1:
        return torch.ones_like(spectrum.real)
    left, right = spectrum
    middle, difference = (left + right).abs(), (left - right).abs()
    tiny = torch.finfo(middle.dtype).tiny
    return (1 - difference / middle.clamp_min(tiny)).clamp_min(0)[None]
