"""The gradient of the SSM's log decays, from sums that the passes of `outputs` leave behind for each token."""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.ssm.chunks import segment_of, start_of


@triton.jit
def decay_pass(
    terms, starts, states, adjoints, start, start_grad, dlog_decay, segments, H, total_rows,
    C: tl.constexpr, SEGMENT: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, SLABS: tl.constexpr,
    PACKED: tl.constexpr, MANY: tl.constexpr, FROM_STATE: tl.constexpr,
):  # fmt: skip
    """Grid (H, segments). dlog_decay `[rows, H]`, what crosses each row: what crosses the segment's first one, which is
    the state there times its adjoint, summed over their SIZE numbers, less Σ terms of the rows between, of its own
    document. MANY: sequences have several segments, whose states and adjoints at the edges were kept. FROM_STATE: what
    crosses a sequence's first row is the initial state times its gradient.

    In this direction nothing is subtracted that has not faded: the gradient of the final state, for one, never enters.
    """
    h, p = tl.program_id(0), tl.program_id(1)
    begin, end, sequence, origin, _stop = segment_of(segments, p, SEGMENT)
    crosses = 0.0
    if MANY:
        here = (p.to(tl.int64) * H + h) * SIZE
        before = begin > origin
        crosses += inner_product(states + here, adjoints + here - H * SIZE, tl.where(before, SIZE, 0), BLOCK)
    if FROM_STATE:
        here = (sequence.to(tl.int64) * H + h) * SIZE
        is_first = (begin < end) & (begin == origin)
        crosses += inner_product(start + here, start_grad + here, tl.where(is_first, SIZE, 0), BLOCK)
    r = tl.arange(0, C)
    chunks = tl.cdiv(end - begin, C)
    for chunk in range(chunks):
        first = begin + chunk * C
        rows = first + r
        term = tl.zeros((C,), tl.float32)
        for slab in tl.static_range(SLABS):
            term += tl.load(terms + (slab * H + h).to(tl.int64) * total_rows + rows, mask=rows < end, other=0.0)
        counts = r[None, :] < r[:, None]
        entered = crosses + r * 0.0
        if PACKED:
            opened = start_of(starts, rows, rows < end)
            counts = counts & (opened[:, None] <= (rows - origin)[None, :])
            entered = tl.where(opened < first - origin, crosses, 0.0)
            last_opened = start_of(starts, tl.minimum(first + C, end) - 1, True)
            crosses = tl.where(last_opened < first - origin, crosses, 0.0)
            crosses -= tl.sum(tl.where(last_opened <= rows - origin, term, 0.0), 0)
        else:
            crosses -= tl.sum(term, 0)
        gradient = entered - tl.sum(tl.where(counts, term[None, :], 0.0), 1)
        at = rows.to(tl.int64) * H + h
        tl.store(dlog_decay + at, gradient.to(dlog_decay.dtype.element_ty), mask=rows < end)


@triton.jit
def inner_product(x, y, size, BLOCK: tl.constexpr):
    """Σ x_i y_i over `size` fp32 numbers."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for low in range(0, size, BLOCK):
        inside = low + i < size
        total += tl.load(x + low + i, mask=inside, other=0.0) * tl.load(y + low + i, mask=inside, other=0.0)
    return tl.sum(total, 0)
