"""One token's products with weights: every weight is read once, at the speed of the memory.

At one row a product is no work for tensor cores, and a library's kernels leave a third of the bandwidth unused; what
stands around a product in a transformer (norm, gate, bias, residual) would take launches of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.decode.overlap import let_others_begin, wait_for_others


@triton.jit
def matvec_pass(
    x, weight, gate, norm, bias, residual, y, outputs, biased_from, eps,
    D: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, ADDED: tl.constexpr,
    OVERLAP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (outputs / ROWS): y `[outputs]` = weight `[outputs, D]` · x `[D]`, summed in fp32.

    NORMED: x is divided by its root mean square and scaled by `norm [D]` first. GATED: y is multiplied by
    silu(gate · x). BIASED: outputs from `biased_from` on get `bias`. ADDED: `residual [outputs]` is added.
    """
    let_others_begin(OVERLAP)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (rows < outputs)[:, None]
    columns = tl.arange(0, BLOCK)
    at = rows.to(tl.int64)[:, None] * D + columns[None, :]
    # Weights depend on nothing that runs before.
    part = tl.load(weight + at, mask=inside & (columns < D)[None, :], other=0.0, eviction_policy="evict_first")
    gates = part
    if GATED:
        gates = tl.load(gate + at, mask=inside & (columns < D)[None, :], other=0.0, eviction_policy="evict_first")
    wait_for_others(OVERLAP)
    rate = 1.0
    if NORMED:
        squares = tl.zeros((BLOCK,), tl.float32)
        for first in tl.static_range(0, D, BLOCK):
            piece = tl.load(x + first + columns, mask=first + columns < D, other=0.0).to(tl.float32)
            squares += piece * piece
        rate = tl.rsqrt(tl.sum(squares, 0) / D + eps)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    gate_sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in tl.static_range(0, D, BLOCK):
        ours = first + columns < D
        piece = tl.load(x + first + columns, mask=ours, other=0.0).to(tl.float32)
        if NORMED:
            piece = piece * rate * tl.load(norm + first + columns, mask=ours, other=0.0).to(tl.float32)
            piece = piece.to(x.dtype.element_ty).to(tl.float32)
        sums += part.to(tl.float32) * piece[None, :]
        if GATED:
            gate_sums += gates.to(tl.float32) * piece[None, :]
        if first + BLOCK < D:
            ahead = inside & (first + BLOCK + columns < D)[None, :]
            part = tl.load(weight + at + first + BLOCK, mask=ahead, other=0.0, eviction_policy="evict_first")
            if GATED:
                gates = tl.load(gate + at + first + BLOCK, mask=ahead, other=0.0, eviction_policy="evict_first")
    found = tl.sum(sums, 1)
    if GATED:
        opening = tl.sum(gate_sums, 1)
        found = found * opening / (1.0 + tl.exp(-opening))
    if BIASED:
        found += tl.load(bias + rows - biased_from, mask=(rows >= biased_from) & (rows < outputs), other=0.0).to(
            tl.float32
        )
    if ADDED:
        found += tl.load(residual + rows, mask=rows < outputs, other=0.0).to(tl.float32)
    tl.store(y + rows, found.to(y.dtype.element_ty), mask=rows < outputs)
