"""NMF: a song as a sum of few spectra that come and go; spectra that are alike together are a component.

Factorisation as in `nmf_updates.py`, of the magnitudes (mean of the channels) of a segment, by default with the
Kullback-Leibler divergence: P. Smaragdis and J. C. Brown, "Non-negative matrix factorization for polyphonic music
transcription", WASPAA 2003. The atoms are clustered by the shape of their spectra (cepstra on a mel scale, k-means):
M. Spiertz and V. Gnann, "Source-filter based clustering for monaural blind source separation", DAFx 2009. Each
component is given back through a ratio mask on the mixture, dark ones first.

Limits: nobody tells it what an instrument is. A component is a timbre, often a part of one, and which one may change
from segment to segment; only their order from dark to bright is kept. A demonstration; `nmf_supervised.py` learns from
examples.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod, masked
from unmixcli.models.nmf_updates import factorise, scaled

_ROUNDS = 30  # of k-means
_MEL_BANDS = 40
_CEPSTRA = 13  # the usual number: the first is the level and is left out


class NMF(MaskingMethod):
    """Four components from dark to bright.

    Settings (`defaults`): `atoms` of a segment; `beta` of the divergence (0 Itakura-Saito, 1 Kullback-Leibler,
    2 Euclidean); `iterations`; `power` of the ratio mask; the rest is size and place of frames and segments.
    """

    all_stems = ("component_1", "component_2", "component_3", "component_4")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 1024,
        "segment_seconds": 120.0,
        "edge_seconds": 2.0,
        "overlap": 0.05,
        "atoms": 32,
        "beta": 1.0,
        "iterations": 100,
        "power": 1.0,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """All components but the brightest."""
        spectrum = self.spectrum(mixture)
        atoms, activations = factorise(
            scaled(spectrum.abs().mean(dim=0)),
            int(self.config["atoms"]),
            beta=self.config["beta"],
            iterations=int(self.config["iterations"]),
        )
        energy = activations.sum(dim=1)
        groups = grouped(atoms, energy, len(self.all_stems), self.sample_rate)
        power = self.config["power"]
        parts = torch.stack([(atoms[:, groups == n] @ activations[groups == n]) for n in range(len(self.all_stems))])
        # A component without atoms is silent; `factorise` keeps the sum of all positive.
        parts /= parts.amax(dim=0).clamp_min(torch.finfo(parts.dtype).tiny)
        parts.pow_(power)
        parts /= parts.sum(dim=0)
        return {
            stem: self.wave(masked(spectrum, mask), mixture.shape[-1])
            for stem, mask in zip(self.all_stems[:-1], parts, strict=False)
        }


def grouped(atoms: Tensor, energy: Tensor, count: int, sample_rate: int) -> Tensor:
    """Which group each atom belongs to.

    Args:
        atoms: [F, K], columns sum to 1.
        energy: [K], what each atom adds to the song.
        count: of groups.
        sample_rate: Hz.

    Returns:
        [K] integers 0 … count - 1, the group with the lowest mean frequency first. Ties and empty groups can be.
    """
    bins = torch.arange(len(atoms), dtype=torch.float64)
    columns, weight = atoms.cpu().double(), energy.cpu().double().clamp_min(1e-12)
    centroid = bins @ columns
    features = _cepstra(columns, sample_rate)
    # Begin with the atoms in order of their mean frequency, cut into parts of equal number.
    order = centroid.argsort(stable=True)
    labels = torch.empty(len(order), dtype=torch.long)
    labels[order] = torch.arange(len(order)) * count // len(order)
    for _ in range(_ROUNDS):
        centres = torch.stack([_mean(features, weight * (labels == n)) for n in range(count)], dim=1)
        distances = (features[:, :, None] - centres[:, None]).square().sum(dim=0)
        closest = distances.argmin(dim=1)
        if torch.equal(closest, labels):
            break
        labels = closest
    pitch = torch.stack([_mean(centroid[None], weight * (labels == n))[0] for n in range(count)])
    rank = pitch.argsort(stable=True).argsort(stable=True)
    return rank[labels].to(atoms.device)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean along the last axis; far away where nothing weighs."""
    total = weight.sum()
    return (values @ weight) / total if total > 0 else torch.full_like(values[:, 0], 1e9)


def _cepstra(columns: Tensor, sample_rate: int) -> Tensor:
    """Shape of each spectrum without its level: [F, K] -> [cepstra, K]."""
    frequencies = torch.linspace(0, sample_rate / 2, len(columns), dtype=torch.float64)
    mel = 2595 * torch.log10(1 + frequencies / 700)
    centres = torch.linspace(0, float(mel[-1]), _MEL_BANDS + 2, dtype=torch.float64)
    width = centres[1]
    bank = (1 - (mel[None] - centres[1:-1, None]).abs() / width).clamp_min(0)
    loud = (bank @ columns).clamp_min(1e-8).log()
    place = (torch.arange(_MEL_BANDS, dtype=torch.float64) + 0.5) / _MEL_BANDS
    cosines = torch.cos(torch.pi * torch.arange(1, _CEPSTRA + 1, dtype=torch.float64)[:, None] * place)
    return cosines @ loud
