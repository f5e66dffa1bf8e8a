"""REPET: what comes back after one fixed period is the accompaniment, the rest is the voice.

Z. Rafii and B. Pardo, "REpeating Pattern Extraction Technique (REPET): A Simple Method for Music/Voice Separation",
IEEE Transactions on Audio, Speech, and Language Processing 21.1 (2013). The beat spectrum (autocorrelation of the power
along time, mean over bins; J. Foote and S. Uchihashi, ICME 2001) is largest at the period; the median over all periods
of a segment is the part that repeats, and the soft mask min(median, V) / V keeps it. Below the voice (100 Hz)
everything is accompaniment. Each segment has a period of its own, as in the paper's extension to full songs, and is
compared in the tests with a slow plain version; nussl's `Repet` takes the same steps.

Limits: needs a loop of one fixed length, and at least about 20 seconds of it; where nothing repeats, or the tempo
moves, it does little or harm. `repet_sim.py` needs no fixed period.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod, masked
from unmixcli.models.repet_sim import bins_below


class Repet(MaskingMethod):
    """Vocals and accompaniment by one repeating period.

    Settings (`defaults`): `least_period_seconds` and `most_period_seconds`, between which the period is looked for
    (the latter is at most a third of the segment); `voice_from_hz` where the voice begins; the rest is size and place
    of frames and segments.
    """

    all_stems = ("vocals", "accompaniment")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 1024,
        "segment_seconds": 40.0,
        "edge_seconds": 5.0,
        "overlap": 0.05,
        "least_period_seconds": 0.8,
        "most_period_seconds": 8.0,
        "voice_from_hz": 100.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The vocals."""
        spectrum = self.spectrum(mixture)
        magnitude = spectrum.abs()
        seconds = self.sample_rate / self.hop  # frames in one
        period = repeating_period(
            beat_spectrum(magnitude),
            least=round(self.config["least_period_seconds"] * seconds),
            most=round(self.config["most_period_seconds"] * seconds),
        )
        mask = repeating_at(magnitude, period).div_(magnitude.clamp_min(torch.finfo(torch.float32).tiny))
        mask.neg_().add_(1).masked_fill_(magnitude <= 0, 0)
        mask[:, : bins_below(self.config["voice_from_hz"], self.n_fft, self.sample_rate)] = 0
        return {"vocals": self.wave(masked(spectrum, mask), mixture.shape[-1])}


def beat_spectrum(magnitude: Tensor) -> Tensor:
    """How alike the power is to itself some frames later: magnitude [C, F, N] -> [N], 1 at lag 0; silence gives 0.

    The autocorrelation at each lag is divided by the number of frames it is of.
    """
    frames = magnitude.shape[-1]
    loudest = magnitude.amax().clamp_min(torch.finfo(magnitude.dtype).tiny)
    total = torch.zeros(frames, dtype=torch.float64)  # on the CPU: not every device has it
    for rows in (magnitude / loudest).square().mean(dim=0).split(256):  # bins at a time
        turned = torch.fft.rfft(rows, 2 * frames)
        total += torch.fft.irfft(turned.abs().square(), 2 * frames)[:, :frames].sum(dim=0).cpu()
    total /= torch.arange(frames, 0, -1)
    return total / total[0] if total[0] > 0 else torch.zeros_like(total)


def repeating_period(beat: Tensor, *, least: int, most: int) -> int:
    """The lag where the beat spectrum is largest, in frames.

    Args:
        beat: [N].
        least: frames.
        most: frames; at most a third of N, so that there are three periods. Where `least` is not below that, it is
            the answer: a shorter piece repeats nothing.
    """
    least = max(1, least)
    most = min(most, len(beat) // 3)
    if most <= least:
        return least
    return least + int(beat[least : most + 1].argmax())


def repeating_at(magnitude: Tensor, period: int) -> Tensor:
    """The part of each frame that comes back every `period` frames: min(median over the periods, magnitude).

    The median of an even number of periods is the mean of the two in the middle. [C, F, N] -> [C, F, N]
    """
    frames = magnitude.shape[-1]
    result = torch.empty_like(magnitude)
    for phase in range(min(period, frames)):
        again = magnitude[..., phase::period]
        ordered = again.sort(dim=-1).values
        count = ordered.shape[-1]
        median = 0.5 * (ordered[..., (count - 1) // 2] + ordered[..., count // 2])
        result[..., phase::period] = torch.minimum(again, median[..., None])
    return result
