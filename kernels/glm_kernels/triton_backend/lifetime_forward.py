"""Lifetime recurrence, forward: three launches, of which only the middle one, over S slots, is sequential.

1. `segment_pass`: every segment walks its chunks with the outputs before it unknown. It carries, per slot, the affine
   map from the slots at the segment's start, Y_S ↦ M Y_S + N, and stores each row's output for Y_S = 0 and its row of
   the map.
2. `boundary_pass`: folds the maps of a sequence's segments, one after the other: Y_S at every segment's start.
3. `output_pass`: y_i += (row i's map) Y_S, for all rows at once.

Each tensor is read once; y is written, read and written. Chunks of 16 rows keep the inverse of I − P cheap, and one
warp per segment lets an SM hide the latency of one segment's dependent small products behind those of others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.weights import chunk_weights, from_state, inverse_less_identity, lanes


@triton.jit
def segment_pass(
    q, k, v, d, y, row_map, segment_map, segment_add, state_k,
    last, occupant, occupant_last, segments, H, scale,
    C: tl.constexpr, CHUNKS: tl.constexpr, DOUBLINGS: tl.constexpr, S: tl.constexpr, STATE_SLOTS: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, V2: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). y `[rows, H, V]`; row_map `[rows, H, S]`; segment_map and _add `[segments, H, S, S or V]`."""
    segment, h = tl.program_id(0), tl.program_id(1)
    DTYPE: tl.constexpr = q.dtype.element_ty
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin >= end:
        return
    sequence = tl.load(segments + segment * 4 + 3)
    r, s, kk, vv = tl.arange(0, C), tl.arange(0, S), tl.arange(0, K2), tl.arange(0, V2)
    in_v = (vv < V)[None, :]
    add = tl.zeros((S, V2), tl.float32)
    map_ = (s[:, None] == s[None, :]).to(tl.float32)
    slots = occupant + (segment * CHUNKS).to(tl.int64) * S + s
    held = tl.load(slots)
    for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
        rows = begin + chunk * C + r
        there = (rows < end)[:, None]
        at = (rows.to(tl.int64) * H + h)[:, None]
        q_c = tl.load(q + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        k_c = tl.load(k + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        v_c = tl.load(v + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0)
        d_c = tl.load(d + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0).to(tl.float32)
        last_c = tl.load(last + rows, mask=rows < end, other=-1)
        last_s = tl.load(occupant_last + (segment * CHUNKS + chunk).to(tl.int64) * S + s)
        at_s = (held.to(tl.int64) * H + h)[:, None]
        k_s = tl.load(k + at_s * K + kk[None, :], mask=lanes((held >= 0)[:, None], kk, K, K2), other=0.0)
        if STATE_SLOTS > 0:
            k_s = from_state(k_s, state_k, held, sequence, h, H, s, kk, STATE_SLOTS, K, K2)

        alpha, p, p_s = chunk_weights(q_c, k_c, k_s, d_c, rows, last_c, last_s, scale, C, PRECISION)
        inverse = inverse_less_identity(p, DOUBLINGS, DTYPE, PRECISION).to(DTYPE)
        reach = (p_s + tl.dot(inverse, p_s.to(DTYPE), input_precision=PRECISION)).to(DTYPE)
        own = v_c.to(tl.float32) * alpha[:, None]
        out = tl.dot(inverse, own.to(DTYPE), acc=own, input_precision=PRECISION)
        out = tl.dot(reach, add.to(DTYPE), acc=out, input_precision=PRECISION).to(DTYPE)
        out_map = tl.dot(reach, map_.to(DTYPE), input_precision=PRECISION).to(DTYPE)
        tl.store(y + at * V + vv[None, :], out, mask=lanes(there, vv, V, V2))
        tl.store(row_map + at * S + s[None, :], out_map, mask=there)

        following = tl.load(slots + (chunk + 1) * S)
        stays = ((following == held) & (held != -1))[:, None]
        enters = (following[:, None] == rows[None, :]).to(DTYPE)
        add = tl.dot(enters, out, acc=tl.where(stays, add, 0.0), input_precision=PRECISION)
        map_ = tl.dot(enters, out_map, acc=tl.where(stays, map_, 0.0), input_precision=PRECISION)
        held = following
    of_segment = (segment.to(tl.int64) * H + h) * S + s[:, None]
    tl.store(segment_map + of_segment * S + s[None, :], map_)
    tl.store(segment_add + of_segment * V + vv[None, :], add, mask=in_v)


@triton.jit
def boundary_pass(
    segment_map, segment_add, boundary, start, finish, sequences, H,
    S: tl.constexpr, STATE_SLOTS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Grid (H, D / BLOCK, sequences). boundary `[segments, H, S, D]`: what enters each segment, in fp32, never TF32.

    Forward from the state `start [sequences, H, STATE_SLOTS, D]`. BACKWARD: in reverse from zero, what leaves the first
    segment into `finish`, of the same shape.
    """
    h, block, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, count = tl.load(sequences + sequence * 2), tl.load(sequences + sequence * 2 + 1)
    s, dd = tl.arange(0, S), block * BLOCK + tl.arange(0, BLOCK)
    in_d = (dd < D)[None, :]
    carried = tl.zeros((S, BLOCK), tl.float32)
    of_state = ((sequence.to(tl.int64) * H + h) * STATE_SLOTS + s)[:, None] * D + dd[None, :]
    in_state = (s < STATE_SLOTS)[:, None] & in_d
    if STATE_SLOTS > 0 and not BACKWARD:
        carried = tl.load(start + of_state, mask=in_state, other=0.0).to(tl.float32)
    for step in tl.range(0, count, num_stages=4):
        segment = first + (count - 1 - step if BACKWARD else step)
        at = (segment.to(tl.int64) * H + h) * S + s[:, None]
        map_ = tl.load(segment_map + at * S + s[None, :])
        add = tl.load(segment_add + at * D + dd[None, :], mask=in_d, other=0.0)
        tl.store(boundary + at * D + dd[None, :], carried, mask=in_d)
        carried = tl.dot(map_, carried, acc=add, input_precision="ieee")
    if STATE_SLOTS > 0 and BACKWARD:
        tl.store(finish + of_state, carried, mask=in_state)


@triton.jit
def output_pass(
    y, row_map, boundary, segments, H,
    ROWS: tl.constexpr, SEGMENT: tl.constexpr, S: tl.constexpr, V: tl.constexpr, V2: tl.constexpr,
    FROM_START: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (segments · SEGMENT / ROWS, H): adds what entered the segment; into a first one it does with a state."""
    block, h = tl.program_id(0), tl.program_id(1)
    DTYPE: tl.constexpr = y.dtype.element_ty
    segment = block // (SEGMENT // ROWS)
    end, within = tl.load(segments + segment * 4 + 1), tl.load(segments + segment * 4 + 2)
    rows = tl.load(segments + segment * 4) + (block % (SEGMENT // ROWS)) * ROWS + tl.arange(0, ROWS)
    if within > 0 or FROM_START:
        s, vv = tl.arange(0, S), tl.arange(0, V2)
        there, in_v = (rows < end)[:, None], (vv < V)[None, :]
        at = (rows.to(tl.int64) * H + h)[:, None]
        entered = tl.load(
            boundary + ((segment.to(tl.int64) * H + h) * S + s[:, None]) * V + vv[None, :], mask=in_v, other=0.0
        )
        map_ = tl.load(row_map + at * S + s[None, :], mask=there, other=0.0)
        alone = tl.load(y + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0).to(tl.float32)
        whole = tl.dot(map_, entered.to(DTYPE), acc=alone, input_precision=PRECISION)
        tl.store(y + at * V + vv[None, :], whole.to(DTYPE), mask=lanes(there, vv, V, V2))
