"""Non-negative matrix factorisation V ≈ W H with a β-divergence: the arithmetic that the NMF models share.

D. D. Lee and H. S. Seung, "Algorithms for Non-negative Matrix Factorization", NIPS 2000 (β = 2 Euclidean, β = 1
Kullback-Leibler); C. Févotte, N. Bertin and J.-L. Durrieu, Neural Computation 21.3 (2009) (β = 0 Itakura-Saito); the
exponent that makes every β fall: M. Nakano et al., "Convergence-guaranteed multiplicative algorithms for nonnegative
matrix factorization with β-divergence", MLSP 2010. With V' = W H

    H ← H · [Wᵀ (V'^(β-2) V) / Wᵀ V'^(β-1)]^γ,   W alike;   γ = 1/(2-β) for β < 1, 1 for 1 ≤ β ≤ 2, 1/(β-1) for β > 2

The tests compare these with scikit-learn's solver "mu".
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below the largest value of V: -120 dB. Zeros would stay zero for ever, and divide.
FLOOR = 1e-6


def exponent(beta: float) -> float:
    """γ."""
    return 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0


def _parts(v: Tensor, model: Tensor, beta: float) -> tuple[Tensor, Tensor | None]:
    """V'^(β-2) V and V'^(β-1); None stands for ones."""
    if beta == 1:
        return v / model, None
    if beta == 2:
        return v, model
    weight = model.pow(beta - 2)
    return weight * v, weight.mul_(model) if not weight.requires_grad else weight * model


def update_activations(v: Tensor, w: Tensor, h: Tensor, beta: float) -> Tensor:
    """A better H. v [..., F, N], w [F, K], h [..., K, N]"""
    tiny = torch.finfo(v.dtype).tiny
    above, below = _parts(v, (w @ h).clamp_min(FLOOR * FLOOR), beta)
    norm = w.sum(dim=0)[:, None] if below is None else w.T @ below
    return h * ((w.T @ above) / norm.clamp_min(tiny)) ** exponent(beta)


def update_atoms(v: Tensor, w: Tensor, h: Tensor, beta: float) -> Tensor:
    """A better W. v [F, N], w [F, K], h [K, N]"""
    tiny = torch.finfo(v.dtype).tiny
    above, below = _parts(v, (w @ h).clamp_min(FLOOR * FLOOR), beta)
    norm = h.sum(dim=1)[None] if below is None else below @ h.T
    return w * ((above @ h.T) / norm.clamp_min(tiny)) ** exponent(beta)


def divergence(v: Tensor, model: Tensor, beta: float) -> float:
    """Sum of the β-divergences of V from its model, both positive."""
    v, model = v.double(), model.double()
    if beta == 1:
        terms = torch.xlogy(v, v / model) - v + model
    elif beta == 0:
        terms = v / model - (v / model).log() - 1
    else:
        terms = (v**beta + (beta - 1) * model**beta - beta * v * model ** (beta - 1)) / (beta * (beta - 1))
    return float(terms.sum())


def scaled(v: Tensor) -> Tensor:
    """V divided by its largest value, no smaller than `FLOOR`; silence is that everywhere."""
    return (v / v.amax().clamp_min(torch.finfo(v.dtype).tiny)).clamp_min(FLOOR)


def starting_point(v: Tensor, atoms: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random W [F, K] and H [K, N] on the level of V [F, N]: the same for the same seed, on every device."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.rand(v.shape[0], atoms, generator=draw) + 0.1
    h = torch.rand(atoms, v.shape[1], generator=draw) + 0.1
    w, h = w.to(v), h.to(v)
    return w / w.sum(dim=0), h * (v.sum() / (0.6 * atoms * v.shape[1]))


def factorise(v: Tensor, atoms: int, *, beta: float, iterations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Learn W and H.

    Args:
        v: [F, N], positive; of `scaled`.
        atoms: K, columns of W.
        beta: of the divergence.
        iterations: rounds, each of W and H.
        seed: of the starting point.

    Returns:
        W [F, K], whose columns sum to 1, and H [K, N].
    """
    w, h = starting_point(v, atoms, seed)
    for _ in range(iterations):
        w = update_atoms(v, w, h, beta)
        h = update_activations(v, w, h, beta)
    size = w.sum(dim=0).clamp_min(torch.finfo(v.dtype).tiny)
    return w / size, h * size[:, None]
