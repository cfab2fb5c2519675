"""Lifetime recurrence, forward: three launches, of which only the middle one, over S slots, is sequential.

1. `segment_pass`: every segment walks its chunks with the outputs before it unknown. It carries, per slot, the affine
   map from the slots at the segment's start, Y_S ↦ M Y_S + N, and stores each row's output for Y_S = 0 and its row of
   the map.
2. `boundary_pass`: folds the maps of a sequence's segments, one after the other: Y_S at every segment's start.
3. `output_pass`: y_i += (row i's map) Y_S, for all rows at once.

Each tensor is read once; y is written, read and written: in between it holds the outputs for Y_S = 0 as float16 in
units of their own, since rounding them twice to bfloat16 would show. Chunks of 16 rows keep the inverse of I − P cheap.
Tiles of outputs lie transposed, rows in columns: so a product comes out the way round in which the next one needs
it as a factor, and nothing has to be exchanged between threads along the chain of chunks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.numerics import (
    dot_fine,
    fine_dot,
    fine_dot_fine,
    in_units,
    inverse_less_identity,
    unpacked,
)
from glm_kernels.triton_backend.common.softmax import LOG2_E, log_norm
from glm_kernels.triton_backend.common.tiles import lanes, load_slots, load_tokens, places
from glm_kernels.triton_backend.segmented.maps import store_affine, store_segment


@triton.jit
def segment_pass(
    q, k, v, d, y, lse, unit, row_map, segment_map, segment_add, state_k,
    last, occupant, occupant_last, segments, ends, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). y `[rows, H, V]`; row_map `[rows, H, S]`; segment_map and _add `[segments, H, S, S or V]`.

    lse `[rows, H]`: binary logarithms of the softmax denominators; unit `[rows, H]`: of the rows stored in y. Operands
    are worked on in DTYPE. The rows in slots at a segment's end are line `ends` + segment · END_LINES of `occupant`.
    """
    segment, h = tl.program_id(0), tl.program_id(1)
    SPLIT: tl.constexpr = CASE.DTYPE == tl.bfloat16
    WEIGHT: tl.constexpr = row_map.dtype.element_ty
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin >= end:
        return
    sequence = tl.load(segments + segment * 4 + 3)
    r, s, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.S), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    identity = (r[:, None] == r[None, :]).to(tl.float32)
    add = tl.zeros((CASE.V2, CASE.S), tl.float32)
    map_ = (s[:, None] == s[None, :]).to(tl.float32)
    held = tl.load(occupant + (segment * CASE.CHUNKS).to(tl.int64) * CASE.S + s)
    for chunk in tl.range(0, CASE.CHUNKS, num_stages=CASE.STAGES):
        first = begin + chunk * CASE.C
        rows = first + r
        there = rows < end
        at = first.to(tl.int64) * H + h + r * H
        q_c = load_tokens(q, first, r, h, H, kk, there[:, None], CASE.K, CASE.K2).to(CASE.DTYPE)
        k_c = load_tokens(k, first, r, h, H, kk, there[:, None], CASE.K, CASE.K2).to(CASE.DTYPE)
        v_c = load_tokens(v, first, r, h, H, vv, there[:, None], CASE.V, CASE.V2).to(CASE.DTYPE)
        d_c = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
        last_c = tl.load(last + rows, mask=there, other=-1)
        last_s = tl.load(occupant_last + (segment * CASE.CHUNKS + chunk).to(tl.int64) * CASE.S + s)
        k_s = load_slots(k, state_k, held, sequence, h, H, s, kk, CASE.STATE_SLOTS, CASE.K, CASE.K2, CASE.DTYPE)
        line = tl.where(chunk == CASE.CHUNKS - 1, ends + segment * CASE.END_LINES, segment * CASE.CHUNKS + chunk + 1)
        following = tl.load(occupant + line.to(tl.int64) * CASE.S + s)

        alpha, p, p_s, top, total = normalised_weights(q_c, k_c, k_s, d_c, rows, last_c, last_s, scale, CASE)
        tl.store(lse + at, log_norm(top, total, CASE.DTYPE, lse.dtype.element_ty), mask=there)
        inverse = inverse_less_identity(p, WEIGHT, CASE.PRECISION)
        reach = tl.dot(p_s.to(WEIGHT), inverse.to(WEIGHT), acc=p_s, input_precision=CASE.PRECISION)
        own = (inverse + identity) * alpha[:, None]
        v_t = tl.trans(v_c)
        out = dot_fine(v_t, own, tl.zeros((CASE.V2, CASE.C), tl.float32), CASE.PRECISION)
        out = fine_dot_fine(add, reach, out, SPLIT, CASE.PRECISION)
        out_map = tl.dot(map_.to(WEIGHT), reach.to(WEIGHT), input_precision=CASE.PRECISION).to(WEIGHT)
        store_affine(out_map, out, row_map, unit, y, first, r, there, h, H, s, vv, CASE.S, CASE.V, CASE.V2)

        # What the slots hold next, from what they hold and the inputs: no need to wait for the rows.
        stays = ((following == held) & (held != -1))[None, :] & (s[:, None] == s[None, :])
        enters = (following[None, :] == rows[:, None]).to(CASE.DTYPE)
        kept = fine_dot(reach, enters, stays.to(tl.float32), CASE.PRECISION)
        put = fine_dot(own, enters, tl.zeros((CASE.C, CASE.S), tl.float32), CASE.PRECISION)
        put = dot_fine(v_t, put, tl.zeros((CASE.V2, CASE.S), tl.float32), CASE.PRECISION)
        add = fine_dot_fine(add, kept, put, SPLIT, CASE.PRECISION)
        map_ = tl.dot(map_.to(WEIGHT), kept.to(WEIGHT), input_precision=CASE.PRECISION)
        held = following
    store_segment(map_, add, segment_map, segment_add, segment, h, H, s, vv, CASE.S, CASE.V)


@triton.jit
def boundary_pass(
    segment_map, segment_add, boundary, start, finish, sequences, H,
    S: tl.constexpr, STATE_SLOTS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BACKWARD: tl.constexpr,
    START: tl.constexpr, FINISH: tl.constexpr, MAPS: tl.constexpr,
):  # fmt: skip
    """Grid (H, D / BLOCK, sequences). boundary `[segments, H, S, D]`: what enters each segment, in fp32, never TF32.

    From the state `start [sequences, H, STATE_SLOTS, D]` if START, else from zero, to the state `finish` if FINISH.
    BACKWARD: in reverse. MAPS: of the maps alone, whose composition is `finish`.
    """
    h, block, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, count = tl.load(sequences + sequence * 2), tl.load(sequences + sequence * 2 + 1)
    s, dd = tl.arange(0, S), block * BLOCK + tl.arange(0, BLOCK)
    in_d = (dd < D)[None, :]
    carried = tl.zeros((S, BLOCK), tl.float32)
    of_state = ((sequence.to(tl.int64) * H + h) * STATE_SLOTS + s)[:, None] * D + dd[None, :]
    in_state = (s < STATE_SLOTS)[:, None] & in_d
    if START:
        carried = tl.load(start + of_state, mask=in_state, other=0.0).to(tl.float32)
    if MAPS:
        carried = (s[:, None] == dd[None, :]).to(tl.float32)
    for step in tl.range(0, count, num_stages=4):
        segment = first + (count - 1 - step if BACKWARD else step)
        at = (segment.to(tl.int64) * H + h) * S + s[:, None]
        map_ = tl.load(segment_map + at * S + s[None, :])
        if MAPS:
            carried = tl.dot(map_, carried, input_precision="ieee")
        else:
            add = tl.load(segment_add + at * D + dd[None, :], mask=in_d, other=0.0)
            tl.store(boundary + at * D + dd[None, :], carried, mask=in_d)
            carried = tl.dot(map_, carried, acc=add, input_precision="ieee")
    if FINISH:
        tl.store(finish + of_state, carried, mask=in_state)


@triton.jit
def output_pass(
    y, unit, row_map, boundary, segments, H,
    ROWS: tl.constexpr, SEGMENT: tl.constexpr, S: tl.constexpr, V: tl.constexpr, V2: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (segments · SEGMENT / ROWS, H): adds what entered the segment."""
    block, h = tl.program_id(0), tl.program_id(1)
    segment = block // (SEGMENT // ROWS)
    end = tl.load(segments + segment * 4 + 1)
    first = tl.load(segments + segment * 4) + (block % (SEGMENT // ROWS)) * ROWS
    if first >= end:
        return
    r, s, vv = tl.arange(0, ROWS), tl.arange(0, S), tl.arange(0, V2)
    there = first + r < end
    in_v = lanes(there[:, None], vv, V, V2)
    at_boundary = boundary + ((segment.to(tl.int64) * H + h) * S + s[:, None]) * V + vv[None, :]
    map_ = tl.load(places(row_map, first, r, h, H, s, S), mask=there[:, None], other=0.0)
    entered, entered_unit = in_units(tl.load(at_boundary, mask=(vv < V)[None, :], other=0.0), 0, map_.dtype)
    alone = tl.load(places(y, first, r, h, H, vv, V), mask=in_v, other=0.0)
    alone = unpacked(alone, tl.load(unit + first.to(tl.int64) * H + h + r * H, mask=there, other=0.0))
    whole = alone + tl.dot(map_, entered, input_precision=PRECISION) * entered_unit
    tl.store(places(y, first, r, h, H, vv, V), whole.to(y.dtype.element_ty), mask=in_v)


@triton.jit
def normalised_weights(q, k, k_old, d, rows, last, last_old, scale, CASE: tl.constexpr):
    """α `[C]`, Pᵀ `[C, C]`, P_Sᵀ `[S, C]`, and every row's softmax denominator, its maximum's logarithm and its rest.

    Row i's weights, on its input, on rows of its chunk and on older rows, stand in column i. They are computed that
    way round, since transposing a fresh product is not safe (Triton 3.4 to 3.7 on Hopper).
    """
    q_t, r = tl.trans(q), tl.arange(0, CASE.C)
    inside = tl.dot(k, q_t, input_precision=CASE.PRECISION) * (scale * LOG2_E)
    inside = tl.where((r[:, None] < r[None, :]) & (rows[None, :] <= last[:, None]), inside, float("-inf"))
    older = tl.dot(k_old, q_t, input_precision=CASE.PRECISION) * (scale * LOG2_E)
    older = tl.where(rows[None, :] <= last_old[:, None], older, float("-inf"))
    d *= LOG2_E
    top = tl.maximum(d, _columns(inside, older, CASE.C == CASE.S, True))
    inside = tl.exp2(inside - top[None, :])
    older = tl.exp2(older - top[None, :])
    own = tl.exp2(d - top)
    total = own + _columns(inside, older, CASE.C == CASE.S, False)
    norm = 1.0 / total
    return own * norm, inside * norm[None, :], older * norm[None, :], top, total


@triton.jit
def _columns(a, b, ALIKE: tl.constexpr, LARGEST: tl.constexpr):
    """The largest element, or the sum, of every column of two tiles; alike ones are put together first."""
    if ALIKE:
        found = tl.max(tl.maximum(a, b), 0) if LARGEST else tl.sum(a + b, 0)
    else:
        found = tl.maximum(tl.max(a, 0), tl.max(b, 0)) if LARGEST else tl.sum(a, 0) + tl.sum(b, 0)
    return found
