"""Harmonic-percussive separation: tones are horizontal lines in a spectrogram, drum hits are vertical ones.

D. FitzGerald, "Harmonic/percussive separation using median filtering", DAFx 2010; masks as in J. Driedger, M. Müller
and S. Disch, "Extending harmonic-percussive separation of audio signals", ISMIR 2014, with margin 1. A running median
along time keeps tones, one along frequency keeps hits, and a soft mask compares them. The masks are those of
`librosa.decompose.hpss` (the tests compare them: 1e-5 of full scale); the medians are our own because librosa's take
11 s for 60 s of one channel, these 0.2 s.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod, masked, median_filter, ratio_mask


class HarmonicPercussive(MaskingMethod):
    """Drums (what is percussive) and the rest (what is harmonic).

    Settings (`defaults`): `time_frames` and `frequency_bins`, the odd lengths of the two medians; `power` of the mask.
    """

    all_stems = ("drums", "rest")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 512,
        "segment_seconds": 30.0,
        "edge_seconds": 0.5,
        "overlap": 0.05,
        "time_frames": 31,
        "frequency_bins": 31,
        "power": 2.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The drums."""
        spectrum = self.spectrum(mixture)
        mask = percussive_mask(
            spectrum.abs(),
            time_frames=int(self.config["time_frames"]),
            frequency_bins=int(self.config["frequency_bins"]),
            power=self.config["power"],
        )
        return {"drums": self.wave(masked(spectrum, mask), mixture.shape[-1])}


def percussive_mask(magnitude: Tensor, *, time_frames: int, frequency_bins: int, power: float = 2.0) -> Tensor:
    """How percussive each bin is, 0 to 1; one minus it is how harmonic. magnitude [C, F, N] -> [C, F, N]"""
    mask = torch.empty_like(magnitude)
    for channel, image in enumerate(magnitude):  # one after the other: half the memory
        harmonic = median_filter(image, time_frames, dim=-1)
        percussive = median_filter(image, frequency_bins, dim=-2)
        mask[channel] = ratio_mask(percussive, harmonic, power)
    return mask
