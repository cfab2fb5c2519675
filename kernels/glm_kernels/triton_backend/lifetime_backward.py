"""Lifetime recurrence, backward: the transposed system, solved like the forward one but from the last row on.

With G = ∂L/∂y and Z = (I − B)^-T G:
∂v_i = α_i z_i, ∂d_i = α_i (z_i·v_i − z_i·y_i) and ∂score_ij = β_ij (z_i·y_j − z_i·y_i).

1. `adjoint_pass`: every segment solves for Z in reverse with the adjoints of its last slots unknown, carrying the
   affine map on them; it stores each row's z for zero adjoints, and its row of the map.
   (`boundary_pass` then folds the maps of the segments.)
2. `gradient_pass`: completes z, recomputes the weights, and takes all gradients; the key gradients of rows that
   outlive a chunk are carried in their slots.
3. `key_pass`: rows that outlive their segment receive the key gradients that later segments carried for them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.weights import (
    chunk_weights,
    chunk_weights_transposed,
    from_state,
    inverse_less_identity,
    lanes,
)


@triton.jit
def adjoint_pass(
    q, k, d, grad, z, row_map, segment_map, segment_add, state_k,
    last, occupant, occupant_last, segments, H, scale,
    C: tl.constexpr, CHUNKS: tl.constexpr, DOUBLINGS: tl.constexpr, S: tl.constexpr, STATE_SLOTS: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, V2: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). Shapes as in `segment_pass`, with G for v and z for y."""
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
    following = tl.load(slots + CHUNKS * S)
    for step in tl.range(0, CHUNKS, num_stages=STAGES):
        chunk = CHUNKS - 1 - step
        rows = begin + chunk * C + r
        there = (rows < end)[:, None]
        at = (rows.to(tl.int64) * H + h)[:, None]
        q_c = tl.load(q + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        k_c = tl.load(k + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        g_c = tl.load(grad + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0)
        d_c = tl.load(d + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0).to(tl.float32)
        last_c = tl.load(last + rows, mask=rows < end, other=-1)
        held = tl.load(slots + chunk * S)
        last_s = tl.load(occupant_last + (segment * CHUNKS + chunk).to(tl.int64) * S + s)
        at_s = (held.to(tl.int64) * H + h)[:, None]
        k_s = tl.load(k + at_s * K + kk[None, :], mask=lanes((held >= 0)[:, None], kk, K, K2), other=0.0)
        if STATE_SLOTS > 0:
            k_s = from_state(k_s, state_k, held, sequence, h, H, s, kk, STATE_SLOTS, K, K2)

        p, p_s = chunk_weights_transposed(q_c, k_c, k_s, d_c, rows, last_c, last_s, scale, C, PRECISION)
        p_s = p_s.to(DTYPE)
        inverse = inverse_less_identity(p, DOUBLINGS, DTYPE, PRECISION).to(DTYPE)
        enters = (following[None, :] == rows[:, None]).to(DTYPE)
        received = tl.dot(enters, add.to(DTYPE), acc=g_c.to(tl.float32), input_precision=PRECISION)
        received_map = tl.dot(enters, map_.to(DTYPE), input_precision=PRECISION)
        z_c = tl.dot(inverse, received.to(DTYPE), acc=received, input_precision=PRECISION).to(DTYPE)
        z_map = tl.dot(inverse, received_map.to(DTYPE), acc=received_map, input_precision=PRECISION).to(DTYPE)
        tl.store(z + at * V + vv[None, :], z_c, mask=lanes(there, vv, V, V2))
        tl.store(row_map + at * S + s[None, :], z_map, mask=there)

        stays = ((following == held) & (held != -1))[:, None]
        add = tl.dot(p_s, z_c, acc=tl.where(stays, add, 0.0), input_precision=PRECISION)
        map_ = tl.dot(p_s, z_map, acc=tl.where(stays, map_, 0.0), input_precision=PRECISION)
        following = held
    of_segment = (segment.to(tl.int64) * H + h) * S + s[:, None]
    tl.store(segment_map + of_segment * S + s[None, :], map_)
    tl.store(segment_add + of_segment * V + vv[None, :], add, mask=in_v)


@triton.jit
def gradient_pass(
    q, k, v, d, y, z, row_map, boundary, state_k, state_y, dq, dk, dv, dd, segment_dk,
    last, occupant, occupant_last, segments, H, scale,
    C: tl.constexpr, CHUNKS: tl.constexpr, S: tl.constexpr, STATE_SLOTS: tl.constexpr,
    K: tl.constexpr, V: tl.constexpr, K2: tl.constexpr, V2: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H). boundary `[segments, H, S, V]`: adjoints at each segment's end; segment_dk `[…, S, K]`."""
    segment, h = tl.program_id(0), tl.program_id(1)
    DTYPE: tl.constexpr = q.dtype.element_ty
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin >= end:
        return
    sequence = tl.load(segments + segment * 4 + 3)
    r, s, kk, vv = tl.arange(0, C), tl.arange(0, S), tl.arange(0, K2), tl.arange(0, V2)
    in_k, in_v = (kk < K)[None, :], (vv < V)[None, :]
    of_segment = (segment.to(tl.int64) * H + h) * S + s[:, None]
    adjoint = tl.load(boundary + of_segment * V + vv[None, :], mask=in_v, other=0.0).to(DTYPE)
    carried = tl.zeros((S, K2), tl.float32)
    slots = occupant + (segment * CHUNKS).to(tl.int64) * S + s
    following = tl.load(slots + CHUNKS * S)
    for step in tl.range(0, CHUNKS, num_stages=STAGES):
        chunk = CHUNKS - 1 - step
        rows = begin + chunk * C + r
        there = (rows < end)[:, None]
        at = (rows.to(tl.int64) * H + h)[:, None]
        q_c = tl.load(q + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        k_c = tl.load(k + at * K + kk[None, :], mask=lanes(there, kk, K, K2), other=0.0)
        v_c = tl.load(v + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0)
        y_c = tl.load(y + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0)
        d_c = tl.load(d + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0).to(tl.float32)
        last_c = tl.load(last + rows, mask=rows < end, other=-1)
        held = tl.load(slots + chunk * S)
        last_s = tl.load(occupant_last + (segment * CHUNKS + chunk).to(tl.int64) * S + s)
        at_s, holds = (held.to(tl.int64) * H + h)[:, None], (held >= 0)[:, None]
        k_s = tl.load(k + at_s * K + kk[None, :], mask=lanes(holds, kk, K, K2), other=0.0)
        y_s = tl.load(y + at_s * V + vv[None, :], mask=lanes(holds, vv, V, V2), other=0.0)
        if STATE_SLOTS > 0:
            k_s = from_state(k_s, state_k, held, sequence, h, H, s, kk, STATE_SLOTS, K, K2)
            y_s = from_state(y_s, state_y, held, sequence, h, H, s, vv, STATE_SLOTS, V, V2)

        z_map = tl.load(row_map + at * S + s[None, :], mask=there, other=0.0)
        z_c = tl.load(z + at * V + vv[None, :], mask=lanes(there, vv, V, V2), other=0.0).to(tl.float32)
        z_c = tl.dot(z_map, adjoint, acc=z_c, input_precision=PRECISION).to(DTYPE)
        # The row term from the rounded z: then rounding z moves both terms of z·y_j − z·y_i alike.
        z_wide = z_c.to(tl.float32)
        zy = tl.sum(z_wide * y_c.to(tl.float32), 1)
        zv = tl.sum(z_wide * v_c.to(tl.float32), 1)

        alpha, p, p_s = chunk_weights(q_c, k_c, k_s, d_c, rows, last_c, last_s, scale, C, PRECISION)
        tl.store(dv + at * V + vv[None, :], (z_wide * alpha[:, None]).to(DTYPE), mask=lanes(there, vv, V, V2))
        tl.store(dd + rows.to(tl.int64) * H + h, (alpha * (zv - zy)).to(dd.dtype.element_ty), mask=rows < end)
        ds = scale * p * (tl.dot(z_c, tl.trans(y_c), input_precision=PRECISION) - zy[:, None])
        ds_s = scale * p_s * (tl.dot(z_c, tl.trans(y_s), input_precision=PRECISION) - zy[:, None])
        ds, ds_s = ds.to(DTYPE), ds_s.to(DTYPE)
        dq_c = tl.dot(ds_s, k_s, acc=tl.dot(ds, k_c, input_precision=PRECISION), input_precision=PRECISION)
        tl.store(dq + at * K + kk[None, :], dq_c.to(DTYPE), mask=lanes(there, kk, K, K2))

        enters = (following[None, :] == rows[:, None]).to(DTYPE)
        dk_c = tl.dot(enters, carried.to(DTYPE), input_precision=PRECISION)
        dk_c = tl.dot(tl.trans(ds), q_c, acc=dk_c, input_precision=PRECISION)
        tl.store(dk + at * K + kk[None, :], dk_c.to(DTYPE), mask=lanes(there, kk, K, K2))
        stays = ((following == held) & (held != -1))[:, None]
        carried = tl.dot(tl.trans(ds_s), q_c, acc=tl.where(stays, carried, 0.0), input_precision=PRECISION)
        following = held
    tl.store(segment_dk + of_segment * K + kk[None, :], carried, mask=in_k)


@triton.jit
def key_pass(
    dk, dstate_k, segment_dk, occupant, segments, sequences, H,
    CHUNKS: tl.constexpr, S: tl.constexpr, STATE_SLOTS: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H): adds to dk of a segment's rows that outlive it what later segments carried; in a fixed order.

    The first segment of a sequence also collects the key gradients `[sequences, H, STATE_SLOTS, K]` of the state.
    """
    segment, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin >= end:
        return
    within, sequence = tl.load(segments + segment * 4 + 2), tl.load(segments + segment * 4 + 3)
    behind = tl.load(sequences + sequence * 2) + tl.load(sequences + sequence * 2 + 1)
    s, kk = tl.arange(0, S), tl.arange(0, K2)
    in_k = (kk < K)[None, :]

    later = segment + 1
    held = tl.load(occupant + (later * CHUNKS).to(tl.int64) * S + s)
    mine = (held >= begin) & (held < end)
    total = _carried_for(held, mine, later, behind, segment_dk, occupant, H, h, CHUNKS, S, K, K2)
    at = (held.to(tl.int64) * H + h)[:, None] * K + kk[None, :]
    own = tl.load(dk + at, mask=mine[:, None] & in_k, other=0.0).to(tl.float32)
    tl.store(dk + at, (own + total).to(dk.dtype.element_ty), mask=mine[:, None] & in_k)
    if STATE_SLOTS > 0:  # noqa: SIM102 - decided by the compiler; the one inside on the device
        if within == 0:
            held = tl.load(occupant + (segment * CHUNKS).to(tl.int64) * S + s)
            total = _carried_for(held, held == -2, segment, behind, segment_dk, occupant, H, h, CHUNKS, S, K, K2)
            at = ((sequence.to(tl.int64) * H + h) * STATE_SLOTS + s)[:, None] * K + kk[None, :]
            tl.store(dstate_k + at, total, mask=(s < STATE_SLOTS)[:, None] & in_k)


@triton.jit
def _carried_for(
    held, wanted, segment, behind, segment_dk, occupant, H, h,
    CHUNKS: tl.constexpr, S: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    """What segments from `segment` on carried for the `wanted` slots, while `held` stay in them."""
    s, kk = tl.arange(0, S), tl.arange(0, K2)
    total = tl.zeros((S, K2), tl.float32)
    while (segment < behind) & (tl.max(wanted.to(tl.int32), 0) > 0):
        at = ((segment.to(tl.int64) * H + h) * S + s[:, None]) * K + kk[None, :]
        total += tl.load(segment_dk + at, mask=wanted[:, None] & (kk < K)[None, :], other=0.0)
        segment += 1
        wanted = wanted & (tl.load(occupant + (segment * CHUNKS).to(tl.int64) * S + s) == held)
    return total
