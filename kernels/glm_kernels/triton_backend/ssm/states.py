"""The SSM's states at the edges of segments: what each segment adds, and the fold over the segments of a sequence."""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import dot_factor
from glm_kernels.triton_backend.common.softmax import LOG2_E
from glm_kernels.triton_backend.common.tiles import lanes
from glm_kernels.triton_backend.ssm.chunks import segment_of, start_of


@triton.jit
def state_pass(k, v, log_decay, starts, added, kept, segments, H, scale, CASE: tl.constexpr):
    """Grid (V blocks · H · segments). added `[segments, H, K, V]` ← scale Σ_j (decays from j to the edge) k_j v_jᵀ;
    kept `[segments, H]`: the decay from edge to edge. The edge is the segment's end, in REVERSE its beginning. The last
    segment on the way is left out unless the state behind it is wanted too, which FINAL says.

    The chunks are walked from the edge away: so nothing added before has to be scaled again.
    """
    blocks: tl.constexpr = (CASE.V + CASE.BLOCK - 1) // CASE.BLOCK
    block, h, p = tl.program_id(0) % blocks, tl.program_id(0) // blocks % H, tl.program_id(0) // blocks // H
    begin, end, _sequence, origin, stop = segment_of(segments, p, CASE.SEGMENT)
    goes_on = (begin > origin) if CASE.REVERSE else (begin + CASE.SEGMENT < stop)
    if (begin < end) & (goes_on | CASE.FINAL):
        r, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.K2), block * CASE.BLOCK + tl.arange(0, CASE.BLOCK)
        total = tl.zeros((CASE.K2, CASE.BLOCK), tl.float32)
        passed = 0.0  # log decay of the chunks between this one and the edge
        edge_start = begin - origin
        if CASE.PACKED:
            edge_start = start_of(starts, end - 1, True)
        chunks = tl.cdiv(end - begin, CASE.C)
        for step in tl.range(0, chunks, num_stages=CASE.STAGES):
            chunk = step if CASE.REVERSE else chunks - 1 - step
            rows = begin + chunk * CASE.C + r
            there = rows < end
            a = tl.load(log_decay + rows.to(tl.int64) * H + h, mask=there, other=0.0).to(tl.float32) * LOG2_E
            if CASE.PACKED and not CASE.REVERSE:
                there = there & (rows - origin >= edge_start)
            at = (rows.to(tl.int64) * H + h)[:, None]
            k_c = tl.load(k + at * CASE.K + kk[None, :], mask=lanes(there[:, None], kk, CASE.K, CASE.K2), other=0.0)
            v_c = tl.load(
                v + at * CASE.V + vv[None, :], mask=lanes(there[:, None], vv, CASE.V, CASE.BLOCK * blocks), other=0.0
            )
            sums, in_chunk = tl.cumsum(a, 0), tl.sum(a, 0)
            weight = tl.exp2(passed + (sums if CASE.REVERSE else in_chunk - sums)) * scale
            if CASE.PACKED and CASE.REVERSE:
                start = start_of(starts, rows, rows < end)
                weight = tl.where(start < begin - origin, weight, 0.0)
            passed += in_chunk
            weighted = v_c.to(tl.float32) * weight[:, None]
            total = dot_factor(tl.trans(k_c.to(CASE.DTYPE)), weighted, total, True, CASE.DTYPE, CASE.PRECISION)
        at = (p.to(tl.int64) * H + h) * CASE.K * CASE.V
        in_state = (kk < CASE.K)[:, None] & (vv < CASE.V)[None, :]
        tl.store(added + at + kk[:, None] * CASE.V + vv[None, :], total, mask=in_state)
        if block == 0:
            decay = tl.exp2(passed)
            if CASE.PACKED:
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
