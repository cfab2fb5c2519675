"""Orthogonalisation of matrices by Newton and Schulz's iteration, as Muon takes its steps."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["AMPLIFICATION", "orthogonalized", "orthogonalizing_flops"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LEAST_NORM = 1e-7

AMPLIFICATION = _COEFFICIENTS[0] ** _ITERATIONS
"""The most by which a small singular value, in parts of the Frobenius norm, is enlarged; so are rounding errors."""


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices `[N, rows, columns]` with their singular vectors and all singular values near 1, from 0.7 to 1.2.

    Five steps of the quintic iteration X ← aX + (b XXᵀ + c (XXᵀ)²) X, whose coefficients are those of Jordan et al.,
    "Muon: An optimizer for hidden layers in neural networks" (2024), chosen for its slope at 0 and not for where it
    converges to. In the dtype of the matrices: bf16 is enough, and TF32 may be used for float32. Zeros stay zeros.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    norm = torch.linalg.matrix_norm(x.float(), keepdim=True)
    x = (x / (norm + _LEAST_NORM)).to(matrices.dtype)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def orthogonalizing_flops(rows: int, columns: int) -> float:
    """Of one matrix; two for a multiply–add."""
    least, most = sorted((rows, columns))
    return _ITERATIONS * 2.0 * least * least * (2 * most + least)
