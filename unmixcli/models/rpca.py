"""RPCA: the accompaniment's spectrogram has low rank, the voice's is sparse.

P.-S. Huang, S. D. Chen, P. Smaragdis and M. Hasegawa-Johnson, "Singing-voice separation from monaural recordings using
robust principal component analysis", ICASSP 2012. The magnitudes of a segment, its channels side by side in time, are
split into M = L + S that minimise |L|_* + λ |S|_1, λ = 1 / √max(F, C N), with the inexact augmented Lagrange multiplier
method of Z. Lin, M. Chen and Y. Ma (arXiv 1009.5055). A bin is voice where |S| > gain |L|. Checked in the tests against
a plain version with NumPy's singular value decomposition.

Limits: assumes few chords and drum sounds that come again, and a voice that is thin in the spectrogram; drum hits and
solos go to the voice. The singular vectors come from F x F products in double precision, which is most of the time.
A baseline of the literature, a demonstration today.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from unmixcli.models.masking import MaskingMethod, masked

_GROWTH = 1.5  # of the multiplier's weight in each round, as Lin et al.


class RPCA(MaskingMethod):
    """Vocals and accompaniment by rank and sparsity.

    Settings (`defaults`): `gain` of the mask; `sparsity`, a factor of λ (less finds more voice); `iterations` at most,
    and the `tolerance` |M - L - S| / |M| that is enough; the rest is size and place of frames and segments.
    """

    all_stems = ("vocals", "accompaniment")
    defaults: ClassVar[dict[str, float]] = {
        "sample_rate": 44100,
        "n_fft": 2048,
        "hop": 512,  # a quarter, as in the paper: with half, 0.6 dB less of a voice is found
        "segment_seconds": 30.0,
        "edge_seconds": 1.0,
        "overlap": 0.05,
        "gain": 1.0,
        "sparsity": 1.0,
        "iterations": 100,
        "tolerance": 1e-3,
    }

    def extract(self, mixture: Tensor) -> dict[str, Tensor]:
        """The vocals."""
        spectrum = self.spectrum(mixture)
        # Singular vectors want double precision, which not every device has.
        matrix = torch.cat(list(spectrum.abs().cpu().double()), dim=1)
        low, sparse = low_rank_and_sparse(
            matrix,
            sparsity=self.config["sparsity"],
            iterations=int(self.config["iterations"]),
            tolerance=self.config["tolerance"],
        )
        voice = sparse.abs_() > low.abs_().mul_(self.config["gain"])
        mask = torch.stack(voice.float().split(spectrum.shape[-1], dim=1)).to(spectrum.device)
        return {"vocals": self.wave(masked(spectrum, mask), mixture.shape[-1])}


def low_rank_and_sparse(
    matrix: Tensor, *, sparsity: float = 1.0, iterations: int = 100, tolerance: float = 1e-7
) -> tuple[Tensor, Tensor]:
    """Split a matrix into one of low rank and a sparse one.

    Args:
        matrix: [F, N], float64.
        sparsity: λ in units of 1 / √max(F, N).
        iterations: at most.
        tolerance: relative error of the sum at which to stop.

    Returns:
        (low rank, sparse), [F, N] each.
    """
    weight = sparsity / math.sqrt(max(matrix.shape))
    norm = float(matrix.norm())
    low, sparse = torch.zeros_like(matrix), torch.zeros_like(matrix)
    if norm == 0:
        return low, sparse
    spectral = math.sqrt(float(torch.linalg.eigvalsh(_gram(matrix))[-1]))
    multiplier = matrix / max(spectral, float(matrix.abs().max()) / weight)
    mu = 1.25 / spectral
    most = mu * 1e7
    for _ in range(iterations):
        low = _shrunk_singular_values(matrix - sparse + multiplier / mu, 1 / mu)
        rest = matrix - low
        sparse = rest + multiplier / mu
        sparse = sparse.sign() * (sparse.abs() - weight / mu).clamp_min_(0)
        rest -= sparse
        multiplier.add_(rest, alpha=mu)
        mu = min(mu * _GROWTH, most)
        if float(rest.norm()) < tolerance * norm:
            break
    return low, sparse


def _gram(matrix: Tensor) -> Tensor:
    """The smaller one of A A^T and A^T A."""
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def _shrunk_singular_values(matrix: Tensor, threshold: float) -> Tensor:
    """The matrix with its singular values made smaller by `threshold`, at least 0.

    With A A^T = U s² U^T only the vectors with s > threshold are needed: A becomes U (1 - threshold / s) U^T A.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return _shrunk_singular_values(matrix.T, threshold).T
    squares, vectors = torch.linalg.eigh(_gram(matrix))
    values = squares.clamp_min_(0).sqrt_()
    kept = values > threshold
    chosen = vectors[:, kept]
    return (chosen * (1 - threshold / values[kept])) @ (chosen.T @ matrix)
