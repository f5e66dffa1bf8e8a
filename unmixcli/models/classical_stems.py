"""Vocals, drums and the other instruments without a trained network: the classical methods together.

    drums   percussive by median filtering (harmonic_percussive.py); the mask is squared, which takes only the hits
    vocals  the mean of two guesses:
              - what does not repeat and is not percussive (repet_sim.py)
              - what is neither sustained nor a hit: percussive among frames of 0.4 s, harmonic among frames of 23 ms
            above 120 Hz, with the middle of the stereo image before the sides (centre_extraction.py)
    other   what is left

The second guess is D. FitzGerald and M. Gainza, "Single channel vocal separation using median filtering and
factorisation techniques", ISAST Transactions on Electronic and Signal Processing 4.1 (2010); the other papers are named
in those files. How much the middle counts is taken from the segment: with w the share of the guessed vocals' energy
that `centre_mask` a would keep, the vocals' mask is 1 - w² (1 - a): a voice spread over the sides is not cut out of
them.

Limits: a fallback. It leaves much of the band in the vocals and knows nothing of timbre.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.centre_extraction import centre_mask
from unmixcli.models.harmonic_percussive import percussive_mask
from unmixcli.models.masking import MaskingMethod, masked
from unmixcli.models.repet_sim import bins_below, voice_mask
from unmixcli.spectrum import istft, stft


class ClassicalStems(MaskingMethod):
    """Vocals, drums, other.

    Settings (`defaults`): those of the methods it is made of. `long_n_fft` and `short_n_fft` are the frames of the
    second guess; their hop is a quarter.
    """

    all_stems = ("vocals", "drums", "other")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 4096,
        "hop": 1024,
        "segment_seconds": 60.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
        "similar_frames": 15,
        "distance_seconds": 0.25,
        "voice_from_hz": 120.0,
        "time_frames": 17,
        "frequency_bins": 31,
        "long_n_fft": 16384,
        "short_n_fft": 1024,
        "neither_frames": 17,
    }

    def largest_hop(self) -> int:
        """Samples between the longest frames."""
        return max(self.hop, int(self.config["long_n_fft"]) // 4)

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The vocals and the drums."""
        spectrum = self.spectrum(mixture)
        magnitude = spectrum.abs()
        percussive = percussive_mask(
            magnitude, time_frames=int(self.config["time_frames"]), frequency_bins=int(self.config["frequency_bins"])
        )
        waves = {}
        if self.stems != ("vocals",):
            waves["drums"] = self.wave(masked(spectrum, percussive.square()), mixture.shape[-1])
        if self.stems != ("drums",):
            waves["vocals"] = self._vocals(mixture, spectrum, magnitude, percussive)
        return waves

    def _vocals(self, mixture: Tensor, spectrum: Tensor, magnitude: Tensor, percussive: Tensor) -> Tensor:
        """The mean of two guesses. The arguments are used up: a minute of music makes them large."""
        low_bins = bins_below(self.config["voice_from_hz"], self.n_fft, self.sample_rate)
        mask = voice_mask(
            magnitude,
            similar_frames=int(self.config["similar_frames"]),
            distance=round(self.config["distance_seconds"] * self.sample_rate / self.hop),
            low_bins=low_bins,
        ).mul_(percussive.neg_().add_(1))
        centre = centre_mask(spectrum)
        torch.view_as_real(spectrum).mul_(mask[..., None])
        del mask
        for vocals, wave in zip(spectrum, self._neither_sustained_nor_hit(mixture), strict=True):
            vocals[low_bins:] += self.spectrum(wave)[low_bins:]
        torch.view_as_real(spectrum).mul_(0.5 * _preference_for_the_centre(spectrum, centre)[..., None])
        return self.wave(spectrum, mixture.shape[-1])

    def _neither_sustained_nor_hit(self, mixture: Tensor) -> Tensor:
        """What sounds shorter than the long frames and longer than the short ones. [C, T] -> [C, T]"""
        length, size = mixture.shape[-1], int(self.config["neither_frames"])
        waves = []
        for wave in mixture.split(1):
            for n_fft, percussive in ((int(self.config["long_n_fft"]), True), (int(self.config["short_n_fft"]), False)):
                spectrum = stft(wave, n_fft, n_fft // 4)
                mask = percussive_mask(spectrum.abs(), time_frames=size, frequency_bins=size)
                if not percussive:
                    mask.neg_().add_(1)
                wave = istft(masked(spectrum, mask), n_fft, n_fft // 4, length)
            waves.append(wave)
        return torch.cat(waves)


def _preference_for_the_centre(vocals: Tensor, centre: Tensor) -> Tensor:
    """1 - w² (1 - a), see the module. vocals complex [C, F, N], centre [1, F, N] -> [1, F, N]"""
    energy = torch.view_as_real(vocals).square().sum(dim=(0, -1))
    total = energy.sum(dtype=torch.float64).clamp_min(torch.finfo(torch.float32).tiny)
    share = float((energy * centre[0]).sum(dtype=torch.float64) / total)
    return 1 - share**2 * (1 - centre)
