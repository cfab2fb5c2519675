"""Lifetime recurrence, backward: the transposed system, solved like the forward one but from the last row on.

With G = ∂L/∂y and Z = (I − B)^-T G:
∂v_i = α_i z_i, ∂d_i = α_i (z_i·v_i − z_i·y_i) and ∂score_ij = β_ij (z_i·y_j − z_i·y_i).

1. `adjoint_pass`: every segment solves for Z in reverse with the adjoints of its last slots unknown, carrying the
   affine map on them; it stores each row's z for zero adjoints (where ∂v will be), and its row of the map.
   (`boundary_pass` then folds the maps of the segments.)
2. `gradient_pass`: completes z, recomputes the weights, and takes all gradients; the key gradients of rows that
   outlive a chunk are carried in their slots.
3. `late_key_pass`: rows that outlive their segment receive the key gradients that later segments carried for them.

The row term z_i·y_i is taken as the average Σ p ∂L/∂p = α_i z_i·v_i + Σ β_ij z_i·y_j of the same products that it is
subtracted from. So what the rounding of y does to them largely cancels: outputs that were averaged over many
rows differ little from one another, and their differences are what counts here.
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
from glm_kernels.triton_backend.common.softmax import LOG2_E, less
from glm_kernels.triton_backend.common.tiles import lanes, load_slots, load_tokens, places, store_tokens
from glm_kernels.triton_backend.segmented.maps import store_affine, store_segment


@triton.jit
def adjoint_pass(
    q, k, lse, grad, z, unit, row_map, segment_map, segment_add, state_k,
    last, occupant, occupant_last, segments, ends, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). Shapes as in `segment_pass`, with G for v and z for y."""
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
    slots = occupant + (segment * CASE.CHUNKS).to(tl.int64) * CASE.S + s
    following = tl.load(occupant + (ends + segment * CASE.END_LINES).to(tl.int64) * CASE.S + s)
    for step in tl.range(0, CASE.CHUNKS, num_stages=CASE.STAGES):
        chunk = CASE.CHUNKS - 1 - step
        first, rows, there, at, held, q_c, k_c = chunk_at(chunk, begin, end, q, k, slots, r, h, H, kk, CASE)
        g_c = load_tokens(grad, first, r, h, H, vv, there[:, None], CASE.V, CASE.V2).to(CASE.DTYPE)
        lse_c = tl.load(lse + at, mask=there, other=0.0)
        last_c = tl.load(last + rows, mask=there, other=-1)
        last_s = tl.load(occupant_last + (segment * CASE.CHUNKS + chunk).to(tl.int64) * CASE.S + s)
        k_s = load_slots(k, state_k, held, sequence, h, H, s, kk, CASE.STATE_SLOTS, CASE.K, CASE.K2, CASE.DTYPE)

        p, p_s = weights_again(q_c, k_c, k_s, lse_c, rows, last_c, last_s, scale, CASE.C, CASE.PRECISION)
        inverse = inverse_less_identity(p, WEIGHT, CASE.PRECISION)
        # What rows that stay in slots have received, as the rows of the chunk see it.
        enters = following[:, None] == rows[None, :]
        received = tl.dot(
            enters.to(WEIGHT), inverse.to(WEIGHT), acc=enters.to(tl.float32), input_precision=CASE.PRECISION
        )
        g_t, whole = tl.trans(g_c), inverse + identity
        z_c = dot_fine(g_t, whole, tl.zeros((CASE.V2, CASE.C), tl.float32), CASE.PRECISION)
        z_c = fine_dot_fine(add, received, z_c, SPLIT, CASE.PRECISION)
        z_map = tl.dot(map_.to(WEIGHT), received.to(WEIGHT), input_precision=CASE.PRECISION).to(WEIGHT)
        store_affine(z_map, z_c, row_map, unit, z, first, r, there, h, H, s, vv, CASE.S, CASE.V, CASE.V2)

        stays = ((following == held) & (held != -1))[None, :] & (s[:, None] == s[None, :])
        sent = p_s.to(WEIGHT)
        kept = tl.dot(received.to(WEIGHT), sent, acc=stays.to(tl.float32), input_precision=CASE.PRECISION)
        put = tl.dot(inverse.to(WEIGHT), sent, acc=p_s, input_precision=CASE.PRECISION)
        put = dot_fine(g_t, put, tl.zeros((CASE.V2, CASE.S), tl.float32), CASE.PRECISION)
        add = fine_dot_fine(add, kept, put, SPLIT, CASE.PRECISION)
        map_ = tl.dot(map_.to(WEIGHT), kept.to(WEIGHT), input_precision=CASE.PRECISION)
        following = held
    store_segment(map_, add, segment_map, segment_add, segment, h, H, s, vv, CASE.S, CASE.V)


@triton.jit
def gradient_pass(
    q, k, v, d, y, lse, unit, row_map, boundary, state_k, state_y, dq, dk, dv, dd, segment_dk,
    last, occupant, occupant_last, segments, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). boundary `[segments, H, S, V]`: adjoints at each segment's end; segment_dk `[…, S, K]`.

    Walks ROWS rows at a time, several chunks of C if that is more: no inverse is needed any more. dv holds z for zero
    adjoints. V in blocks of BLOCK lanes, which saves registers.
    """
    segment, h = tl.program_id(0), tl.program_id(1)
    WEIGHT: tl.constexpr = row_map.dtype.element_ty
    STEPS: tl.constexpr = CASE.CHUNKS * CASE.C // CASE.ROWS
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin >= end:
        return
    sequence = tl.load(segments + segment * 4 + 3)
    r, s, kk, vv = tl.arange(0, CASE.ROWS), tl.arange(0, CASE.S), tl.arange(0, CASE.K2), tl.arange(0, CASE.BLOCK)
    of_segment = (segment.to(tl.int64) * H + h) * CASE.S + s[:, None]
    adjoints, units = (), ()
    for block in tl.static_range(CASE.V2 // CASE.BLOCK):
        lane = block * CASE.BLOCK + vv
        loaded = tl.load(boundary + of_segment * CASE.V + lane[None, :], mask=(lane < CASE.V)[None, :], other=0.0)
        loaded, adjoint_unit = in_units(loaded, 0, WEIGHT)
        adjoints, units = adjoints + (loaded,), units + (adjoint_unit,)  # noqa: RUF005 - Triton's tuples
    carried = tl.zeros((CASE.S, CASE.K2), tl.float32)
    slots = occupant + (segment * CASE.CHUNKS).to(tl.int64) * CASE.S + s
    following = tl.load(slots + CASE.CHUNKS * CASE.S)
    for step in tl.range(0, STEPS, num_stages=CASE.STAGES):
        chunk = (STEPS - 1 - step) * (CASE.ROWS // CASE.C)
        first, rows, there, at, held, q_c, k_c = chunk_at(chunk, begin, end, q, k, slots, r, h, H, kk, CASE)
        k_s = load_slots(k, state_k, held, sequence, h, H, s, kk, CASE.STATE_SLOTS, CASE.K, CASE.K2, CASE.DTYPE)
        d_c = tl.load(d + at, mask=there, other=0.0).to(tl.float32)
        lse_c = tl.load(lse + at, mask=there, other=0.0)
        unit_c = tl.load(unit + at, mask=there, other=0.0)
        last_c = tl.load(last + rows, mask=there, other=-1)
        last_s = tl.load(occupant_last + (segment * CASE.CHUNKS + chunk).to(tl.int64) * CASE.S + s)
        z_map = tl.load(places(row_map, first, r, h, H, s, CASE.S), mask=there[:, None], other=0.0)

        p, p_s = weights_again(q_c, k_c, k_s, lse_c, rows, last_c, last_s, scale, CASE.ROWS, CASE.PRECISION)
        alpha = tl.exp2(less(d_c * LOG2_E, lse_c))
        dp, dp_s = tl.zeros((CASE.ROWS, CASE.ROWS), tl.float32), tl.zeros((CASE.ROWS, CASE.S), tl.float32)
        dalpha = tl.zeros((CASE.ROWS,), tl.float32)
        for block in tl.static_range(CASE.V2 // CASE.BLOCK):
            lane = block * CASE.BLOCK + vv
            in_v = lanes(there[:, None], lane, CASE.V, CASE.V2)
            v_c = load_tokens(v, first, r, h, H, lane, there[:, None], CASE.V, CASE.V2).to(CASE.DTYPE)
            y_c = load_tokens(y, first, r, h, H, lane, there[:, None], CASE.V, CASE.V2).to(CASE.DTYPE)
            y_s = load_slots(
                y, state_y, held, sequence, h, H, s, lane, CASE.STATE_SLOTS, CASE.V, CASE.V2,
                CASE.DTYPE if CASE.STATE_SLOTS == 0 else tl.float32,
            )  # fmt: skip
            at_dv = places(dv, first, r, h, H, lane, CASE.V)
            alone = unpacked(tl.load(at_dv, mask=in_v, other=0.0), unit_c)
            z_c = alone + tl.dot(z_map, adjoints[block], input_precision=CASE.PRECISION) * units[block]
            tl.store(at_dv, (z_c * alpha[:, None]).to(dv.dtype.element_ty), mask=in_v)
            dalpha += tl.sum(z_c * v_c.to(tl.float32), 1)
            dp = fine_dot(z_c, tl.trans(y_c), dp, CASE.PRECISION)
            if CASE.STATE_SLOTS == 0:
                dp_s = fine_dot(z_c, tl.trans(y_s), dp_s, CASE.PRECISION)
            else:
                dp_s = fine_dot_fine(z_c, tl.trans(y_s), dp_s, CASE.DTYPE == tl.bfloat16, CASE.PRECISION)

        average = alpha * dalpha + tl.sum(p * dp, 1) + tl.sum(p_s * dp_s, 1)
        # α (∂α − average): written so that it loses nothing where the input has almost all weight.
        rest = tl.sum(p * (dalpha[:, None] - dp), 1) + tl.sum(p_s * (dalpha[:, None] - dp_s), 1)
        tl.store(dd + at, (alpha * rest).to(dd.dtype.element_ty), mask=there)
        ds = scale * p * (dp - average[:, None])
        ds_s = scale * p_s * (dp_s - average[:, None])
        dq_c = fine_dot(ds, k_c, tl.zeros((CASE.ROWS, CASE.K2), tl.float32), CASE.PRECISION)
        dq_c = fine_dot(ds_s, k_s, dq_c, CASE.PRECISION)
        store_tokens(dq, first, r, h, H, kk, there[:, None], dq_c, CASE.K, CASE.K2)

        enters = following[None, :] == rows[:, None]
        dk_c = dot_fine(enters.to(CASE.DTYPE), carried, tl.zeros((CASE.ROWS, CASE.K2), tl.float32), CASE.PRECISION)
        dk_c = fine_dot(tl.trans(ds), q_c, dk_c, CASE.PRECISION)
        store_tokens(dk, first, r, h, H, kk, there[:, None], dk_c, CASE.K, CASE.K2)
        stays = ((following == held) & (held != -1))[:, None]
        carried = fine_dot(tl.trans(ds_s), q_c, tl.where(stays, carried, 0.0), CASE.PRECISION)
        following = held
    tl.store(segment_dk + of_segment * CASE.K + kk[None, :], carried, mask=(kk < CASE.K)[None, :])


@triton.jit
def chunk_at(chunk, begin, end, q, k, slots, r, h, H, kk, CASE: tl.constexpr):
    """Of a chunk: its first row, its rows, which of them are there, where those stand in tensors `[rows, H]`, the rows
    that its slots hold, queries and keys."""
    first = begin + chunk * CASE.C
    rows = first + r
    there = rows < end
    at = first.to(tl.int64) * H + h + r * H
    held = tl.load(slots + chunk * CASE.S)
    q_c = load_tokens(q, first, r, h, H, kk, there[:, None], CASE.K, CASE.K2).to(CASE.DTYPE)
    k_c = load_tokens(k, first, r, h, H, kk, there[:, None], CASE.K, CASE.K2).to(CASE.DTYPE)
    return first, rows, there, at, held, q_c, k_c


@triton.jit
def weights_again(q, k, k_old, norm, rows, last, last_old, scale, C: tl.constexpr, PRECISION: tl.constexpr):
    """P `[C, C]` and P_S `[C, S]` from the binary logarithms of the denominators."""
    r = tl.arange(0, C)
    inside = less(tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E), norm[:, None])
    inside = tl.where((r[None, :] < r[:, None]) & (rows[:, None] <= last[None, :]), inside, float("-inf"))
    older = less(tl.dot(q, tl.trans(k_old), input_precision=PRECISION) * (scale * LOG2_E), norm[:, None])
    older = tl.where(rows[:, None] <= last_old[None, :], older, float("-inf"))
    return tl.exp2(inside), tl.exp2(older)
