"""Vocals, drums and the other instruments without a trained network: three classical methods in one mask.

    drums   percussive by median filtering                     (harmonic_percussive.py)
    vocals  not percussive, not repeating, and in the middle   (repet_sim.py, centre_extraction.py)
    other   what is left

The papers are named in those files.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unmixcli.models.centre_extraction import centre_mask
from unmixcli.models.harmonic_percussive import percussive_mask
from unmixcli.models.masking import MaskingMethod
from unmixcli.models.repet_sim import bins_below, voice_mask


class ClassicalStems(MaskingMethod):
    """Vocals, drums, other."""

    all_stems = ("vocals", "drums", "other")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 4096,
        "hop": 1024,
        "segment_seconds": 90.0,
        "edge_seconds": 15.0,
        "overlap": 0.05,
        "similar_frames": 31,
        "distance_seconds": 1.0,
        "voice_from_hz": 120.0,
        "time_frames": 17,
        "frequency_bins": 31,
        "power": 2.0,
    }

    def extract(self, spectrum: Tensor) -> dict[str, Tensor]:
        """The vocals' and the drums' spectra."""
        magnitude = spectrum.abs()
        drums = percussive_mask(
            magnitude,
            time_frames=int(self.config["time_frames"]),
            frequency_bins=int(self.config["frequency_bins"]),
            power=self.config["power"],
        )
        vocals = voice_mask(
            magnitude,
            similar_frames=int(self.config["similar_frames"]),
            distance=round(self.config["distance_seconds"] * self.sample_rate / self.hop),
            low_bins=bins_below(self.config["voice_from_hz"], self.n_fft, self.sample_rate),
        )
        vocals *= (1 - drums) * centre_mask(spectrum)
        return {"vocals": spectrum * vocals, "drums": spectrum * drums}
