"""The SSM's outputs, and by the same kernel with other operands the gradients of q, k and v."""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import dot_factor, factor
from glm_kernels.triton_backend.common.tiles import lanes
from glm_kernels.triton_backend.ssm.chunks import chunk_decays, pair_decays, segment_of


@triton.jit
def output_pass(
    q, k, v, log_decay, starts, states, y, final, other, terms, segments, H, total_rows, scale, K_STRIDE, V_STRIDE,
    CASE: tl.constexpr,
):  # fmt: skip
    """Grid (V blocks · H · segments). y `[rows, H, V]` from the states `[segments, H, K, V]` at the segments' edges.

    Lines and columns of a state are K_STRIDE and V_STRIDE apart. final: the state when the walk is over, if FINAL.

    TERMS, of gradients: the sum over every row i of `other_i · y_i`, of which the gradient of the log decays is made.
    other is the tensor whose gradient y is. What a chunk's rows give one another is summed pair by pair, row i adding
    and row j < i subtracting the same float32 number ("pairs"), or is left out ("edge", which subtracts all the rest).
    terms `[V blocks, H, rows]`.
    """
    FINE: tl.constexpr = CASE.TERMS != "none"
    blocks: tl.constexpr = (CASE.V + CASE.BLOCK - 1) // CASE.BLOCK
    block, h, p = tl.program_id(0) % blocks, tl.program_id(0) // blocks % H, tl.program_id(0) // blocks // H
    begin, end, sequence, origin, stop = segment_of(segments, p, CASE.SEGMENT)
    r, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.K2), block * CASE.BLOCK + tl.arange(0, CASE.BLOCK)
    state = tl.zeros((CASE.K2, CASE.BLOCK), tl.float32)
    in_state = (kk < CASE.K)[:, None] & (vv < CASE.V)[None, :]
    in_states = kk[:, None] * K_STRIDE + vv[None, :] * V_STRIDE
    if CASE.FROM_STATE:
        state = tl.load(states + (p.to(tl.int64) * H + h) * CASE.K * CASE.V + in_states, mask=in_state, other=0.0)
    at_k, at_v = r[:, None] * (H * CASE.K) + kk[None, :], r[:, None] * (H * CASE.V) + vv[None, :]
    chunks = tl.cdiv(end - begin, CASE.C)
    for step in tl.range(0, chunks, num_stages=CASE.STAGES):
        first = begin + (chunks - 1 - step if CASE.REVERSE else step) * CASE.C
        rows = first + r
        there = (rows < end)[:, None]
        line = first.to(tl.int64) * H + h
        in_v = lanes(there, vv, CASE.V, CASE.BLOCK * blocks)
        q_c = tl.load(q + line * CASE.K + at_k, mask=lanes(there, kk, CASE.K, CASE.K2), other=0.0).to(CASE.DTYPE)
        k_c = tl.load(k + line * CASE.K + at_k, mask=lanes(there, kk, CASE.K, CASE.K2), other=0.0).to(CASE.DTYPE)
        v_c = tl.load(v + line * CASE.V + at_v, mask=in_v, other=0.0)
        sums, start, before, after, kept = chunk_decays(log_decay, starts, first, end, origin, h, H, CASE)
        enters = after if CASE.REVERSE else before * scale
        leaves = before * scale if CASE.REVERSE else after

        scores = tl.dot(q_c, tl.trans(k_c), input_precision=CASE.PRECISION)
        scores = scores * pair_decays(sums, start, rows, origin, CASE) * scale
        if CASE.TERMS != "none":
            other_c = tl.load(other + line * CASE.V + at_v, mask=in_v, other=0.0)
        y_c = tl.zeros((CASE.C, CASE.BLOCK), tl.float32)
        y_c = dot_factor(q_c, state, y_c, FINE, CASE.DTYPE, CASE.PRECISION) * enters[:, None]
        if CASE.TERMS != "none":
            term = tl.sum(y_c * other_c.to(tl.float32), 1)
            if CASE.TERMS == "pairs":
                pairs = tl.dot(other_c.to(CASE.DTYPE), tl.trans(v_c.to(CASE.DTYPE)), input_precision=CASE.PRECISION)
                pairs = tl.where(rows[:, None] > rows[None, :], pairs * scores, 0.0)
                term += tl.sum(pairs, 1) - tl.sum(pairs, 0)
            else:
                term = -term
            tl.store(terms + (block * H + h).to(tl.int64) * total_rows + rows, term, mask=rows < end)
        weights = factor(scores, CASE.DTYPE, CASE.PRECISION)
        y_c = tl.dot(weights, v_c.to(CASE.DTYPE), y_c, input_precision=CASE.PRECISION)
        tl.store(y + line * CASE.V + at_v, y_c.to(y.dtype.element_ty), mask=in_v)
        left = v_c.to(tl.float32) * leaves[:, None]
        state = dot_factor(tl.trans(k_c), left, state * kept, FINE, CASE.DTYPE, CASE.PRECISION)
    if CASE.FINAL:
        is_last = (begin == origin) if CASE.REVERSE else (begin + CASE.SEGMENT >= stop)
        if is_last & (sequence >= 0):
            tl.store(final + (sequence.to(tl.int64) * H + h) * CASE.K * CASE.V + in_states, state, mask=in_state)
