"""The first-order recurrence with state expansion by chunks (Mamba-2's duality, arXiv 2405.21060), in four passes.

1. `state_pass`: what the rows of a segment add to the state that leaves it, and the decay of the state that entered.
2. `fold_pass`: folds these over the segments of a sequence, one after the other: the state at every segment's edge.
3. `output_pass`: walks the chunks of a segment with the state in registers and writes the outputs.
4. `decay_pass`: the gradient of the log decays, from row sums that the output passes leave behind.

The recurrence y_i = Σ_j Γ_ij (q_i·k_j) v_j, with Γ_ij the product of the decays of rows j+1 … i, is its own transpose
but for the direction of time. So the same three passes also give the gradients: dq is the recurrence of (dy, v, k),
and dk and dv are recurrences of (v, dy, q) and (k, q, dy) that run backwards (REVERSE).

A *sequence* is a batch row, whose documents begin at `starts` (PACKED), or a document of `cu_seqlens`. A row's
*position* is its number within the sequence. Decays are base-2 logarithms in float32, summed up within a chunk only;
no exponential is taken of a positive difference as long as no log decay is positive.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import dot_factor, factor
from glm_kernels.triton_backend.common.softmax import LOG2_E
from glm_kernels.triton_backend.common.tiles import lanes


@triton.jit
def segment_of(segments, p, SEGMENT: tl.constexpr):
    """First row and row after the last of segment p, its sequence (−1: none), and the sequence's first and end row."""
    begin, sequence = tl.load(segments + p * 4), tl.load(segments + p * 4 + 1)
    origin, stop = tl.load(segments + p * 4 + 2), tl.load(segments + p * 4 + 3)
    return begin, tl.minimum(begin + SEGMENT, stop), sequence, origin, stop


@triton.jit
def start_of(starts, rows, there):
    """Where documents of rows start; the first one of a sequence before it, since it goes on from the initial state."""
    start = tl.load(starts + rows, mask=there, other=0)
    return tl.where(start <= 0, -1, start)


@triton.jit
def chunk_decays(log_decay, starts, first, end, origin, h, H, C: tl.constexpr, PACKED: tl.constexpr):
    """Of the chunk that begins at row `first`: running sums of its log decays and the starts of its rows, `[C]`.

    Then the weights `[C]` with which the state before the chunk enters each row (before's), and each row is left in
    the state after the chunk (after's), and the weight of the state before in the state after.
    """
    rows = first + tl.arange(0, C)
    there = rows < end
    a = tl.load(log_decay + rows.to(tl.int64) * H + h, mask=there, other=0.0).to(tl.float32) * LOG2_E
    sums = tl.cumsum(a, 0)
    total = tl.sum(a, 0)
    before, after, kept = tl.exp2(sums), tl.exp2(total - sums), tl.exp2(total)
    start = rows
    if PACKED:
        start = start_of(starts, rows, there)
        last_start = start_of(starts, tl.minimum(first + C, end) - 1, True)
        before = tl.where(start < first - origin, before, 0.0)
        after = tl.where(last_start <= rows - origin, after, 0.0)
        kept = tl.where(last_start < first - origin, kept, 0.0)
    return sums, start, before, after, kept


@triton.jit
def pair_decays(sums, start, rows, origin, C: tl.constexpr, PACKED: tl.constexpr, REVERSE: tl.constexpr):
    """Γ `[C, C]` of a chunk: lower triangular, or in REVERSE its transpose."""
    if REVERSE:
        reads = rows[:, None] <= rows[None, :]
        between = sums[None, :] - sums[:, None]
        if PACKED:
            reads = reads & (start[None, :] <= (rows - origin)[:, None])
    else:
        reads = rows[:, None] >= rows[None, :]
        between = sums[:, None] - sums[None, :]
        if PACKED:
            reads = reads & (start[:, None] <= (rows - origin)[None, :])
    return tl.exp2(tl.where(reads, between, float("-inf")))


@triton.jit
def state_pass(
    k, v, log_decay, starts, added, kept, segments, H, scale,
    C: tl.constexpr, SEGMENT: tl.constexpr, K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, BLOCK: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, ALL: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (V blocks · H · segments). added `[segments, H, K, V]` ← scale Σ_j (decays from j to the edge) k_j v_jᵀ;
    kept `[segments, H]`: the decay from edge to edge. The edge is the segment's end, in REVERSE its beginning. The last
    segment on the way is left out unless ALL are wanted.

    The chunks are walked from the edge away: so nothing added before has to be scaled again.
    """
    blocks: tl.constexpr = (V + BLOCK - 1) // BLOCK
    block, h, p = tl.program_id(0) % blocks, tl.program_id(0) // blocks % H, tl.program_id(0) // blocks // H
    begin, end, _sequence, origin, stop = segment_of(segments, p, SEGMENT)
    goes_on = (begin > origin) if REVERSE else (begin + SEGMENT < stop)
    if (begin < end) & (goes_on | ALL):
        r, kk, vv = tl.arange(0, C), tl.arange(0, K2), block * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((K2, BLOCK), tl.float32)
        passed = 0.0  # log decay of the chunks between this one and the edge
        edge_start = begin - origin
        if PACKED:
            edge_start = start_of(starts, end - 1, True)
        chunks = tl.cdiv(end - begin, C)
        for step in tl.range(0, chunks, num_stages=STAGES):
            chunk = step if REVERSE else chunks - 1 - step
            rows = begin + chunk * C + r
            there = rows < end
            a = tl.load(log_decay + rows.to(tl.int64) * H + h, mask=there, other=0.0).to(tl.float32) * LOG2_E
            if PACKED and not REVERSE:
                there = there & (rows - origin >= edge_start)
            at = (rows.to(tl.int64) * H + h)[:, None]
            k_c = tl.load(k + at * K + kk[None, :], mask=lanes(there[:, None], kk, K, K2), other=0.0)
            v_c = tl.load(v + at * V + vv[None, :], mask=lanes(there[:, None], vv, V, BLOCK * blocks), other=0.0)
            sums, in_chunk = tl.cumsum(a, 0), tl.sum(a, 0)
            weight = tl.exp2(passed + (sums if REVERSE else in_chunk - sums)) * scale
            if PACKED and REVERSE:
                start = start_of(starts, rows, rows < end)
                weight = tl.where(start < begin - origin, weight, 0.0)
            passed += in_chunk
            weighted = v_c.to(tl.float32) * weight[:, None]
            total = dot_factor(tl.trans(k_c.to(DTYPE)), weighted, total, True, DTYPE, PRECISION)
        at = (p.to(tl.int64) * H + h) * K * V
        tl.store(added + at + kk[:, None] * V + vv[None, :], total, mask=(kk < K)[:, None] & (vv < V)[None, :])
        if block == 0:
            decay = tl.exp2(passed)
            if PACKED:
                decay = tl.where(edge_start < begin - origin, decay, 0.0)
            tl.store(kept + p * H + h, decay)


@triton.jit
def fold_pass(
    added, kept, start, final, sequences, H, SIZE,
    BLOCK: tl.constexpr, FROM_STATE: tl.constexpr, FINAL: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of the SIZE = K·V numbers of a state, H, sequences). The state with which every segment is entered
    takes the place of what the segment adds; start and final `[sequences, H, K, V]`, final only if FINAL."""
    block, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < SIZE
    at = (n.to(tl.int64) * H + h) * SIZE + i
    state = tl.zeros((BLOCK,), tl.float32)
    if FROM_STATE:
        state = tl.load(start + at, mask=inside, other=0.0).to(tl.float32)
    first, behind = tl.load(sequences + n), tl.load(sequences + n + 1)
    for step in range(behind - first):
        p = behind - 1 - step if REVERSE else first + step
        here = added + (p.to(tl.int64) * H + h) * SIZE + i
        new = tl.load(here, mask=inside, other=0.0)
        tl.store(here, state, mask=inside)
        state = state * tl.load(kept + p * H + h) + new
    if FINAL:
        tl.store(final + at, state, mask=inside)


@triton.jit
def output_pass(
    q, k, v, log_decay, starts, states, y, final, other, terms, segments, H, total_rows, scale, K_STRIDE, V_STRIDE,
    C: tl.constexpr, SEGMENT: tl.constexpr, K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, BLOCK: tl.constexpr,
    PACKED: tl.constexpr, REVERSE: tl.constexpr, FROM_STATE: tl.constexpr, FINAL: tl.constexpr, TERMS: tl.constexpr,
    DTYPE: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (V blocks · H · segments). y `[rows, H, V]` from the states `[segments, H, K, V]` at the segments' edges.

    Lines and columns of a state are K_STRIDE and V_STRIDE apart. final: the state when the walk is over, if FINAL.

    TERMS, of gradients: the sum over every row i of `other_i · y_i`, of which the gradient of the log decays is made.
    other is the tensor whose gradient y is. What a chunk's rows give one another is summed pair by pair, row i adding
    and row j < i subtracting the same float32 number ("pairs"), or is left out ("edge", which subtracts all the rest).
    terms `[V blocks, H, rows]`.
    """
    FINE: tl.constexpr = TERMS != "none"
    blocks: tl.constexpr = (V + BLOCK - 1) // BLOCK
    block, h, p = tl.program_id(0) % blocks, tl.program_id(0) // blocks % H, tl.program_id(0) // blocks // H
    begin, end, sequence, origin, stop = segment_of(segments, p, SEGMENT)
    r, kk, vv = tl.arange(0, C), tl.arange(0, K2), block * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros((K2, BLOCK), tl.float32)
    in_state = (kk < K)[:, None] & (vv < V)[None, :]
    in_states = kk[:, None] * K_STRIDE + vv[None, :] * V_STRIDE
    if FROM_STATE:
        state = tl.load(states + (p.to(tl.int64) * H + h) * K * V + in_states, mask=in_state, other=0.0)
    at_k, at_v = r[:, None] * (H * K) + kk[None, :], r[:, None] * (H * V) + vv[None, :]
    chunks = tl.cdiv(end - begin, C)
    for step in tl.range(0, chunks, num_stages=STAGES):
        first = begin + (chunks - 1 - step if REVERSE else step) * C
        rows = first + r
        there = (rows < end)[:, None]
        line = first.to(tl.int64) * H + h
        in_v = lanes(there, vv, V, BLOCK * blocks)
        q_c = tl.load(q + line * K + at_k, mask=lanes(there, kk, K, K2), other=0.0).to(DTYPE)
        k_c = tl.load(k + line * K + at_k, mask=lanes(there, kk, K, K2), other=0.0).to(DTYPE)
        v_c = tl.load(v + line * V + at_v, mask=in_v, other=0.0)
        sums, start, before, after, kept = chunk_decays(log_decay, starts, first, end, origin, h, H, C, PACKED)
        enters = after if REVERSE else before * scale
        leaves = before * scale if REVERSE else after

        scores = tl.dot(q_c, tl.trans(k_c), input_precision=PRECISION)
        scores = scores * pair_decays(sums, start, rows, origin, C, PACKED, REVERSE) * scale
        if TERMS != "none":
            other_c = tl.load(other + line * V + at_v, mask=in_v, other=0.0)
        y_c = dot_factor(q_c, state, tl.zeros((C, BLOCK), tl.float32), FINE, DTYPE, PRECISION) * enters[:, None]
        if TERMS != "none":
            term = tl.sum(y_c * other_c.to(tl.float32), 1)
            if TERMS == "pairs":
                pairs = tl.dot(other_c.to(DTYPE), tl.trans(v_c.to(DTYPE)), input_precision=PRECISION)
                pairs = tl.where(rows[:, None] > rows[None, :], pairs * scores, 0.0)
                term += tl.sum(pairs, 1) - tl.sum(pairs, 0)
            else:
                term = -term
            tl.store(terms + (block * H + h).to(tl.int64) * total_rows + rows, term, mask=rows < end)
        weights = factor(scores, DTYPE, PRECISION)
        y_c = tl.dot(weights, v_c.to(DTYPE), y_c, input_precision=PRECISION)
        tl.store(y + line * V + at_v, y_c.to(y.dtype.element_ty), mask=in_v)
        left = v_c.to(tl.float32) * leaves[:, None]
        state = dot_factor(tl.trans(k_c), left, state * kept, FINE, DTYPE, PRECISION)
    if FINAL:
        is_last = (begin == origin) if REVERSE else (begin + SEGMENT >= stop)
        if is_last & (sequence >= 0):
            tl.store(final + (sequence.to(tl.int64) * H + h) * K * V + in_states, state, mask=in_state)


@triton.jit
def inner_product(x, y, size, BLOCK: tl.constexpr):
    """Σ x_i y_i over `size` fp32 numbers."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for low in range(0, size, BLOCK):
        inside = low + i < size
        total += tl.load(x + low + i, mask=inside, other=0.0) * tl.load(y + low + i, mask=inside, other=0.0)
    return tl.sum(total, 0)


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
