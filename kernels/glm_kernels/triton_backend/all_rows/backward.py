"""Dense and offset recurrences, backward: the transposed system, solved by a chain from the last chunk to the first.

With G = ∂L/∂y and Z = (I − B)^-T G, and δ_i = z_i·y_i:
∂v_i = α_i z_i, ∂d_i = α_i (z_i·v_i − δ_i) and ∂score_ij = β_ij (z_i·y_j − δ_i).

1. `adjoint_pass`, the chain: a chunk's rows receive from their readers what `source_pass` made rows read.
2. `gradient_pass`, twice, all chunks at once: ∂q from what rows read, ∂k from their readers.

Near and far, tiles and units are those of the forward pass. Weights are recomputed from the softmax's denominators.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.all_rows.tiles import NEVER, chunk_of, put_tile, readable, tile
from glm_kernels.triton_backend.common.chain import publish, ticket, wait_for, wait_until
from glm_kernels.triton_backend.common.numerics import inverse_less_identity, unit_of
from glm_kernels.triton_backend.common.softmax import LOG2_E, less


@triton.jit(do_not_specialize=["L", "H", "all_lanes", "together", "near", "headroom"])
def adjoint_pass(
    q, k, v, d, y_work, grad, log_norm, z_work, dv, row_term, largest, largest_grad, starts, ends, near_bits, far,
    far_before, counter, progress, L, H, all_lanes, together, near, headroom, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (chunks · B · H). z_work, dv `[B, L, H, V]`; row_term `[B, H, L]` fp32: δ in the units of z_work and y_work.

    ends int32 `[B, chunks]`: the row after the last that reads the chunk's last row.
    """
    WORK: tl.constexpr = z_work.dtype.element_ty
    # A weight is at most 1: fp16 is precise for those down to 2^-29 if they are multiplied by 2^15.
    LIFT: tl.constexpr = 15.0
    chunks = (L + CASE.C - 1) // CASE.C
    lane, turn = chunk_of(ticket(counter), all_lanes, chunks, together)
    c = chunks - 1 - turn
    b, h = lane // H, lane % H
    of_head = b.to(tl.int64) * L * H + h
    q_rows, z_rows, norms = q + of_head * CASE.K, z_work + of_head * CASE.V, log_norm + lane.to(tl.int64) * L
    first = c * CASE.C
    r, n, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.BLOCK), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows = first + r
    there = rows < L
    end = L
    starts += b * L
    if CASE.DOCUMENTS:
        end = tl.load(ends + b * chunks + c)
    logits = scale * LOG2_E
    _, z_size = unit_of(tl.load(largest_grad + lane), headroom)
    acc = tile(grad + of_head * CASE.V, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32)
    acc *= z_size * 32768.0

    if CASE.FAR:
        k_far = tile(k + of_head * CASE.K, first, r, H, kk, there, CASE.K, CASE.K2, False).to(tl.float32)
        far_acc = receive_far(
            k_far, q_rows, z_rows, norms, starts, far, far_before, progress + lane, end, c, chunks, there,
            r, L, H, kk, vv, logits, CASE,
        )  # fmt: skip
        acc += far_acc * 32768.0

    k_own = tile(k + of_head * CASE.K, first, r, H, kk, there, CASE.K, CASE.K2, False)
    p = chunk_weights_of_readers(k_own, q_rows, norms, first, r, H, L, kk, rows, starts, near_bits, logits, CASE)
    inverse = inverse_less_identity(p, WORK, CASE.PRECISION).to(WORK)
    above = end
    if not CASE.DENSE:
        above = tl.minimum(above, first + CASE.C + near - 1)
    above = (above + CASE.BLOCK - 1) // CASE.BLOCK * CASE.BLOCK
    after = first + CASE.C
    while above > after + 2 * CASE.C:
        finished = wait_until(progress + lane, chunks - (above - CASE.BLOCK) // CASE.C)
        until = tl.maximum((chunks - finished) * CASE.C, after + 2 * CASE.C)
        for step in tl.range(0, (above - until) // CASE.BLOCK, num_stages=CASE.STAGES):
            i = above - (step + 1) * CASE.BLOCK
            q_t = tile(q_rows, i, n, H, kk, i + n < L, CASE.K, CASE.K2, CASE.WHOLE)
            norm = tl.load(norms + i + n, mask=i + n < L, other=NEVER)
            s = less(tl.dot(k_own, tl.trans(q_t), input_precision=CASE.PRECISION) * logits, (norm - LIFT)[None, :])
            if CASE.DOCUMENTS or not CASE.DENSE:
                start = n
                if CASE.DOCUMENTS:
                    start = tl.load(starts + i + n, mask=i + n < L, other=0)
                allowed = readable(rows, i, n, start[None, :], near_bits, True, CASE.DENSE, CASE.DOCUMENTS)
                s = tl.where(allowed, s, float("-inf"))
            z_t = tile(z_rows, i, n, H, vv, i + n < L, CASE.V, CASE.V2, CASE.WHOLE)
            acc = tl.dot(tl.exp2(s).to(WORK), z_t, acc=acc, input_precision=CASE.PRECISION)
        above = until

    # The two chunks after: their queries are known, their z may take a while yet.
    p_2 = chunk_weights_of_readers(
        k_own, q_rows, norms, after + CASE.C, r, H, L, kk, rows, starts, near_bits, logits, CASE
    )
    p_2 = (p_2 * 32768.0).to(WORK)
    p_1 = chunk_weights_of_readers(k_own, q_rows, norms, after, r, H, L, kk, rows, starts, near_bits, logits, CASE)
    p_1 = (p_1 * 32768.0).to(WORK)
    if turn > 1:
        wait_for(progress + lane, turn - 1)
    z_t = tile(z_rows, after + CASE.C, r, H, vv, after + CASE.C + r < L, CASE.V, CASE.V2, False)
    acc = tl.dot(p_2, z_t, acc=acc, input_precision=CASE.PRECISION)
    if turn > 0:
        wait_for(progress + lane, turn)
    z_t = tile(z_rows, after, r, H, vv, after + r < L, CASE.V, CASE.V2, False)
    received = tl.dot(p_1, z_t, acc=acc, input_precision=CASE.PRECISION) / 32768.0
    out = tl.dot(inverse, received.to(WORK), acc=received, input_precision=CASE.PRECISION).to(WORK)
    put_tile(z_rows, first, r, H, vv, there, out, CASE.V, CASE.V2)
    publish(progress + lane, turn + 1)

    z = out.to(tl.float32)
    norm = tl.load(norms + rows, mask=there, other=NEVER)
    own = tl.load(d + of_head + rows.to(tl.int64) * H, mask=there, other=0.0).to(tl.float32) * LOG2_E
    put_tile(
        dv + of_head * CASE.V, first, r, H, vv, there, z * (tl.exp2(less(own, norm)) / z_size)[:, None], CASE.V, CASE.V2
    )
    y_own = tile(y_work + of_head * CASE.V, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32)
    tl.store(row_term + lane.to(tl.int64) * L + rows, tl.sum(z * y_own, 1), mask=there)


@triton.jit
def receive_far(
    k_far, q_rows, z_rows, norms, starts, far, far_before, progress, end, c, chunks, there,
    r, L, H, kk, vv, logits, CASE: tl.constexpr,
):  # fmt: skip
    """What chunk c's tokens receive from those that read them at far offsets, which come before token `end`.

    `progress`: the counter of finished chunks, the last of which is the first to be.
    """
    first = c * CASE.C
    rows = first + r
    far_acc = tl.zeros((CASE.C, CASE.V2), tl.float32)
    above = tl.load(far_before + (end - 1 - first) // CASE.C + 1)
    while above > 0:
        first_row = first + tl.load(far + above - 1)
        finished = wait_until(progress, chunks - tl.minimum(first_row // CASE.C, chunks - 1))
        below = tl.load(far_before + (chunks - finished - c))
        for step in tl.range(0, above - below, num_stages=2):
            later = tl.load(far + above - 1 - step) + first
            reach = there & (later + r < L)
            if CASE.DOCUMENTS:
                reach = reach & (tl.load(starts + later + r, mask=reach, other=0) <= rows)
            q_far = tile(q_rows, later, r, H, kk, reach, CASE.K, CASE.K2, False)
            z_far = tile(z_rows, later, r, H, vv, reach, CASE.V, CASE.V2, False)
            norm = tl.load(norms + later + r, mask=reach, other=NEVER)
            p = tl.exp2(less(tl.sum(k_far * q_far.to(tl.float32), 1) * logits, norm))
            far_acc += z_far.to(tl.float32) * p[:, None]
        above = below
    return far_acc


@triton.jit
def chunk_weights_of_readers(
    k_own, q_rows, norms, at, r, H, L, kk, rows, starts, near_bits, logits, CASE: tl.constexpr
):
    """Pᵀ `[C, C]`: by which weight each of the rows is read by those of the chunk whose first row is `at`."""
    there = at + r < L
    q_t = tile(q_rows, at, r, H, kk, there, CASE.K, CASE.K2, False)
    norm = tl.load(norms + at + r, mask=there, other=NEVER)
    start = r
    if CASE.DOCUMENTS:
        start = tl.load(starts + at + r, mask=there, other=0)
    s = less(tl.dot(k_own, tl.trans(q_t), input_precision=CASE.PRECISION) * logits, norm[None, :])
    allowed = readable(rows, at, r, start[None, :], near_bits, True, CASE.DENSE, CASE.DOCUMENTS)
    return tl.where(allowed, tl.exp2(s), 0.0)


@triton.jit(do_not_specialize=["L", "H", "near", "headroom"])
def gradient_pass(
    q, k, v, d, y_work, z_work, log_norm, row_term, grad_out, dd, largest, largest_grad, starts, ends, near_bits, far,
    far_before, L, H, near, headroom, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, B · H). Into grad_out `[B, L, H, K]`: ∂q from what the chunk's rows read, and dd `[B, L, H]`;
    READERS: ∂k from the rows that read the chunk's.

    Own rows pair (q, z) with others' (k, y), or with READERS own (k, y) with others' (q, z).
    """
    chunks = (L + CASE.C - 1) // CASE.C
    # The chunks with most to do come first.
    c = tl.program_id(0) if CASE.READERS else chunks - 1 - tl.program_id(0)
    lane = tl.program_id(1)
    b, h = lane // H, lane % H
    of_head, of_lane = b.to(tl.int64) * L * H + h, lane.to(tl.int64) * L
    starts += b * L
    own_a, own_b = q + of_head * CASE.K, z_work + of_head * CASE.V
    a_rows, b_rows = k + of_head * CASE.K, y_work + of_head * CASE.V
    if CASE.READERS:
        own_a, own_b, a_rows, b_rows = a_rows, b_rows, own_a, own_b
    norms, terms = log_norm + of_lane, row_term + of_lane
    first = c * CASE.C
    r, n, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.BLOCK), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows = first + r
    there = rows < L
    logits = scale * LOG2_E
    acc, share = tl.zeros((CASE.C, CASE.K2), tl.float32), tl.zeros((CASE.C,), tl.float32)
    # What belongs to each reading row: those of the chunk, or with READERS of each tile.
    norm = tl.load(norms + rows, mask=there, other=NEVER)
    term = tl.load(terms + rows, mask=there, other=0.0)
    start, input_term = rows, term
    oldest, end = 0, L
    if CASE.DOCUMENTS:
        start = tl.load(starts + rows, mask=there, other=0)
        oldest = tl.load(starts + first)
        units = (L + CASE.UNIT - 1) // CASE.UNIT
        end = tl.load(ends + b * units + tl.minimum(first + CASE.C - 1, L - 1) // CASE.UNIT)
    if not CASE.READERS:
        z_own = tile(own_b, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32)
        v_own = tile(v + of_head * CASE.V, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32)
        input_term = tl.sum(z_own * v_own, 1) * unit_of(tl.load(largest + lane), 0)[1]

    if CASE.FAR:
        a_own = tile(own_a, first, r, H, kk, there, CASE.K, CASE.K2, False).to(tl.float32)
        b_own = tile(own_b, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32)
        farthest = end - 1 - first if CASE.READERS else first + CASE.C - 1 - oldest
        for m in tl.range(0, tl.load(far_before + farthest // CASE.UNIT + 1), num_stages=2):
            if CASE.READERS:
                other = first + tl.load(far + m)
                reach = there & (other + r < L)
                if CASE.DOCUMENTS:
                    reach = reach & (tl.load(starts + other + r, mask=reach, other=0) <= rows)
                norm = tl.load(norms + other + r, mask=reach, other=NEVER)
                term = tl.load(terms + other + r, mask=reach, other=0.0)
            else:
                other = first - tl.load(far + m)
                reach = there & (other + r >= (start if CASE.DOCUMENTS else 0))
            a_far = tile(a_rows, other, r, H, kk, reach, CASE.K, CASE.K2, False).to(tl.float32)
            b_far = tile(b_rows, other, r, H, vv, reach, CASE.V, CASE.V2, False).to(tl.float32)
            p = tl.where(reach, tl.exp2(less(tl.sum(a_own * a_far, 1) * logits, norm)), 0.0)
            dp = tl.sum(b_own * b_far, 1)
            acc += a_far * (p * (dp - term))[:, None]
            share += p * (input_term - dp)

    a_own = tile(own_a, first, r, H, kk, there, CASE.K, CASE.K2, False)
    b_own = tile(own_b, first, r, H, vv, there, CASE.V, CASE.V2, False)
    begin, stop = first, end
    if CASE.READERS and not CASE.DENSE:
        stop = tl.minimum(stop, first + CASE.C + near - 1)
    if not CASE.READERS:
        begin, stop = oldest, tl.minimum(first + CASE.C, L)
        if not CASE.DENSE:
            begin = tl.maximum(begin, first - near + 1)
        begin = begin // CASE.BLOCK * CASE.BLOCK
    # The tiles of the chunk itself, in which some rows come after others, before all others.
    within = tl.maximum(begin, first)
    for side in tl.static_range(2):
        low, high = within, tl.minimum(stop, first + CASE.C)
        if side == 1:
            low, high = (first + CASE.C, stop) if CASE.READERS else (begin, first)
        for i in tl.range(low, high, CASE.BLOCK, num_stages=CASE.STAGES):
            others = i + n
            among = others < L
            a_t = tile(a_rows, i, n, H, kk, among, CASE.K, CASE.K2, CASE.WHOLE)
            b_t = tile(b_rows, i, n, H, vv, among, CASE.V, CASE.V2, CASE.WHOLE)
            s = tl.dot(a_own, tl.trans(a_t), input_precision=CASE.PRECISION) * logits
            dp = tl.dot(b_own, tl.trans(b_t), input_precision=CASE.PRECISION)
            if CASE.READERS:
                norm_t = tl.load(norms + others, mask=among, other=NEVER)[None, :]
                term_t = tl.load(terms + others, mask=among, other=0.0)[None, :]
                start_t = others[None, :]
                if CASE.DOCUMENTS:
                    start_t = tl.load(starts + others, mask=among, other=0)[None, :]
            else:
                norm_t, term_t, start_t = norm[:, None], term[:, None], start[:, None]
            p = tl.exp2(less(s, norm_t))
            if side == 0 or CASE.DOCUMENTS or not CASE.DENSE:
                p = tl.where(readable(rows, i, n, start_t, near_bits, CASE.READERS, CASE.DENSE, CASE.DOCUMENTS), p, 0.0)
            if not CASE.READERS:
                share += tl.sum(p * (input_term[:, None] - dp), 1)
            ds = p * (dp - term_t)
            if a_t.dtype == tl.float16:
                # The units leave ds no room in fp16.
                acc = tl.dot(ds, a_t.to(tl.float32), acc=acc, input_precision=CASE.PRECISION)
            else:
                acc = tl.dot(ds.to(a_t.dtype), a_t, acc=acc, input_precision=CASE.PRECISION)

    y_size, z_size = unit_of(tl.load(largest + lane), 0)[1], unit_of(tl.load(largest_grad + lane), headroom)[1]
    size = 1.0 / y_size / z_size
    put_tile(grad_out + of_head * CASE.K, first, r, H, kk, there, acc * (scale * size), CASE.K, CASE.K2)
    if not CASE.READERS:
        at = of_head + rows.to(tl.int64) * H
        own = tl.load(d + at, mask=there, other=0.0).to(tl.float32) * LOG2_E
        tl.store(dd + at, (tl.exp2(less(own, norm)) * share * size).to(dd.dtype.element_ty), mask=there)
