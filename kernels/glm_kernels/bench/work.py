"""What an operator must do at the least: useful multiplications, and bytes that must move once.

Per head, with R the number of (row, row it reads) pairs: the forward pass multiplies K + V numbers for each pair (the
score, the weighted row) and V for each row's own input. The backward pass needs twice that (dq and dk; the adjoint and
the inner products with it), scores computed again not counted, as is usual for attention. FLOP = 2 × multiplications.

The floor in bytes: forward reads q, k, v and the gate and writes y; backward reads those and y's gradient again and
writes the gradients: 4 and 12 passes over a tensor like v. Both count what is needed, not what a kernel does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glm_kernels.bench.cases import Shape
from glm_kernels.patterns import parse_pattern


def flops(name: str, shape: Shape, starts: Tensor | None = None) -> float:
    """Useful floating-point operations of one forward pass; forward and backward take three times as many."""
    name = name.removesuffix(" packed")
    per_row = shape.batch * shape.heads * 2.0
    if name == "ssm" or name.startswith("fla:"):
        # k vᵀ into the state, and q with the state.
        return per_row * shape.length * 2 * shape.width**2
    own = shape.length * shape.width
    if name.startswith("attention:") or name == "attention":
        pairs, own = shape.length * (shape.length + 1) / 2, 0
    elif name.startswith("local:"):
        window = int(name.split(":")[1])
        pairs, own = torch.arange(1, shape.length + 1).clamp(max=window).sum().item(), 0
    else:
        pairs = _pairs(name, shape, starts)
    return per_row * (pairs * 2 * shape.width + own)


def _pairs(name: str, shape: Shape, starts: Tensor | None) -> float:
    """Mean number of pairs of a batch row: a row's reads depend on its position in its document alone."""
    reads = parse_pattern(name).read_counts(shape.length)
    if starts is None:
        return float(reads.sum())
    positions = torch.arange(shape.length) - starts.cpu()
    return float(reads[positions].sum()) / shape.batch


def floor_bytes(shape: Shape, *, backward: bool) -> int:
    """Bytes that must move; of gates d, d and y's own, as math says."""
    rows = shape.batch * shape.length * shape.heads
    wide, gates = (12, 3) if backward else (4, 1)
    return rows * shape.dtype.itemsize * (wide * shape.width + gates)
