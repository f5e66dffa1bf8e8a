"""2DFT: what repeats is a peak in the Fourier transform of the spectrogram taken as a picture.

P. Seetharaman, F. Pishdadian and B. Pardo, "Music/Voice Separation Using the 2D Fourier Transform", WASPAA 2017. The
magnitudes of a segment are transformed along both axes; a bin is a peak if it is the largest of its neighbours along
the rate axis (the transform of time) and stands out of them by more than the standard deviation of the whole. Peaks
alone, turned back, are the accompaniment, the transform without them is the voice, and each bin of the mixture goes to
the larger of the two. Below the voice (100 Hz) everything is accompaniment. Checked in the tests against a plain
version with SciPy's filters; nussl's `FT2D` with `filter_approach="original"` takes the same steps.

Limits: as REPET needs a loop, and at least about 20 seconds of it. Binary masks leave musical noise. A demonstration.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod, masked
from unmixcli.models.repet_sim import bins_below


class FT2D(MaskingMethod):
    """Vocals and accompaniment by peaks of the two-dimensional Fourier transform.

    Settings (`defaults`): `neighbours`, the odd width along the rate axis in which a peak is the largest;
    `voice_from_hz` where the voice begins; the rest is size and place of frames and segments.
    """

    all_stems = ("vocals", "accompaniment")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 1024,
        "segment_seconds": 60.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
        "neighbours": 25,
        "voice_from_hz": 100.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The vocals."""
        spectrum = self.spectrum(mixture)
        mask = torch.stack([voice_bins(image.abs(), int(self.config["neighbours"])) for image in spectrum])
        low = bins_below(self.config["voice_from_hz"], self.n_fft, self.sample_rate)
        mask[:, :low] = False
        return {"vocals": self.wave(masked(spectrum, mask.float()), mixture.shape[-1])}


def voice_bins(magnitude: Tensor, neighbours: int) -> Tensor:
    """Which bins the voice gets: magnitude [F, N] -> bool [F, N]."""
    level = magnitude.amax().clamp_min(torch.finfo(magnitude.dtype).tiny)
    # Half of the transform along frequency is enough: the picture is real. Rates are all there, zero in the middle,
    # so that slow ones to both sides are neighbours.
    transform = torch.fft.fft(torch.fft.rfft(magnitude / level, dim=0), dim=1)
    peaks = rate_peaks(torch.fft.fftshift(transform.abs(), dim=1), neighbours, len(magnitude))
    peaks = torch.fft.ifftshift(peaks, dim=1)
    repeating, rest = (
        torch.fft.irfft(torch.fft.ifft(transform * kept, dim=1), len(magnitude), dim=0).abs()
        for kept in (peaks, ~peaks)
    )
    return rest > repeating


def rate_peaks(picture: Tensor, neighbours: int, rows: int) -> Tensor:
    """Local maxima along the last axis that stand out.

    Args:
        picture: [scales, rates], magnitudes of the half transform; row k stands for scale -k as well.
        neighbours: width of the window, odd.
        rows: of the full transform.

    Returns:
        bool [scales, rates].
    """
    width = neighbours | 1
    pool = torch.nn.functional.max_pool1d
    highest = pool(picture[:, None], width, 1, width // 2)[:, 0]
    lowest = -pool(-picture[:, None], width, 1, width // 2)[:, 0]
    times = torch.full((len(picture), 1), 2.0, device=picture.device)
    times[0] = 1  # scale 0 is its own mirror image, and so is the last one of an even number
    if rows % 2 == 0:
        times[-1] = 1
    count = rows * picture.shape[1]
    mean = (picture * times).sum() / count
    deviation = ((picture - mean).square() * times).sum().div(count).sqrt()
    return (picture == highest) & (highest - lowest > deviation)
