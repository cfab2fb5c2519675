"""Chained lifetime recurrence, forward: one launch, whose programs hand their chunk's outputs on to the next chunk.

A row of a chunk reads rows of its own chunk, of the chunk before, and *older* rows, which stand in the slots of the
tables. Scores need no outputs, so a program first takes its softmax, the inverse of I − P (P: weights inside the
chunk) and the weights on the chunk before, carried through that inverse; then

    y = (I − P)^-1 α v  +  (I − P)^-1 P_older Y_older  +  (I − P)^-1 P_before Y_before

where Y_older is finished two chunks back and only the last product waits for the chunk before: one product a chunk is
all that is sequential.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.chained.tiles import HEADROOM, older_keys, older_outputs, older_slots
from glm_kernels.triton_backend.common.chain import release, ticket, wait
from glm_kernels.triton_backend.common.numerics import fine_dot, inverse_less_identity, largest_of, store_fine, unit_in
from glm_kernels.triton_backend.common.softmax import LOG2_E, less, log_norm
from glm_kernels.triton_backend.common.tiles import lanes, load_tokens, places, segment_at


@triton.jit
def chained_forward(
    q, k, v, d, y, residual, normaliser, handed, handed_bound, state_k, state_y,
    last, occupant, occupant_last, segments, order, counter, flags, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments · H), a segment being one chunk; order `[segments]`: in which they are worked on.

    y, residual `[rows, H, V]`; normaliser `[rows, H]`: binary
    logarithms of the softmax denominators. handed `[entries, H, C, V2]` in WORK and handed_bound
    `[entries, H]`: y for the next chunk and how large it can be; an entry is one of two of a sequence if RING, else a
    segment. TILES tiles of TILE slots hold older rows. flags `[segments, H, 2]`: `handed` is there; y is there.
    """
    item = ticket(counter)
    h = item % H
    segment = tl.load(order + item // H)
    begin, end, within, sequence = segment_at(segments, segment)
    if begin >= end:
        return
    flag, chunk_flags = flags + (segment * H + h) * 2, H * 2
    r, s, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.TILE), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows = begin + r
    there, known = (rows < end)[:, None], ((r >= 0) & (within > 0))[:, None]
    q_c = load_tokens(q, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    k_c = load_tokens(k, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    k_p = load_tokens(k, begin - CASE.C, r, h, H, kk, known, CASE.K, CASE.K2)
    d_c = tl.load(d + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0).to(tl.float32) * LOG2_E
    last_c = tl.load(last + rows, mask=rows < end, other=-1)
    last_p = tl.load(last + begin - CASE.C + r, mask=(r >= 0) & (within > 0), other=-1)

    logits = scale * LOG2_E
    p = tl.dot(q_c, tl.trans(k_c), input_precision=CASE.PRECISION) * logits
    p = tl.where((r[None, :] < r[:, None]) & (rows[:, None] <= last_c[None, :]), p, float("-inf"))
    p_p = tl.dot(q_c, tl.trans(k_p), input_precision=CASE.PRECISION) * logits
    p_p = tl.where(rows[:, None] <= last_p[None, :], p_p, float("-inf"))
    near = tl.maximum(d_c, tl.maximum(tl.max(p, 1), tl.max(p_p, 1)))
    p, p_p, alpha = tl.exp2(p - near[:, None]), tl.exp2(p_p - near[:, None]), tl.exp2(d_c - near)
    top, total = near, alpha + tl.sum(p, 1) + tl.sum(p_p, 1)
    top, total = with_older_scores(
        q_c, k, state_k, occupant, occupant_last, segment, sequence, begin, r, s, h, H, kk, logits,
        top, total, CASE,
    )  # fmt: skip
    norm = log_norm(top, total, q.dtype.element_ty, normaliser.dtype.element_ty)
    tl.store(normaliser + rows.to(tl.int64) * H + h, norm, mask=rows < end)

    share = tl.exp2(near - top) / total
    alpha, p_p = alpha * share, p_p * share[:, None]
    inverse = inverse_less_identity(p * share[:, None], CASE.WORK, CASE.PRECISION)
    v_c = load_tokens(v, begin, r, h, H, vv, there, CASE.V, CASE.V2)
    own = v_c.to(tl.float32)
    bound = largest_of(own)
    on_inputs = inverse * alpha[None, :]
    out = fine_dot(on_inputs, v_c, own * alpha[:, None], CASE.PRECISION, CUT=False)
    inverse = inverse.to(CASE.WORK)
    reach_p = tl.dot(inverse, p_p.to(CASE.WORK), acc=p_p, input_precision=CASE.PRECISION).to(CASE.WORK)
    # The weights of a row sum to 1. Once rounded they do not: a chain of averages would drift by it.
    whole = alpha + tl.sum(on_inputs, 1) + tl.sum(reach_p.to(tl.float32), 1)

    entry = sequence * 2 + within % 2 if CASE.RING else segment
    if CASE.TILES > 0:
        # Low slots change hands most often. Theirs is the last tile, whose weights are taken before it is waited for.
        held, reader, any_held = older_slots(occupant, occupant_last, segment, s, begin - CASE.C, CASE)
        k_s = older_keys(k, state_k, held, sequence, h, H, s, kk, CASE)
        reach = reach_of(q_c, k_s, inverse, norm, rows, reader, logits, CASE)
        whole += tl.sum(reach.to(tl.float32), 1)
        for step in tl.range(0, CASE.TILES - 1, num_stages=1):
            slot = (CASE.TILES - 1 - step) * CASE.TILE + s
            held_t, reader_t, any_held_t = older_slots(occupant, occupant_last, segment, slot, begin - CASE.C, CASE)
            if any_held_t:
                k_t = older_keys(k, state_k, held_t, sequence, h, H, slot, kk, CASE)
                reach_t = reach_of(q_c, k_t, inverse, norm, rows, reader_t, logits, CASE)
                newest = tl.max(held_t, 0)
                if newest >= 0:
                    wait(flag - (within - (newest - begin + within * CASE.C) // CASE.C) * chunk_flags + 1)
                y_t, _, unit, largest = older_outputs(y, residual, state_y, held_t, sequence, h, H, slot, vv, CASE)
                out += tl.dot(reach_t, y_t, input_precision=CASE.PRECISION) * unit
                whole += tl.sum(reach_t.to(tl.float32), 1)
                bound = tl.maximum(bound, largest)
        if any_held:
            if within > 1:
                wait(flag - 2 * chunk_flags + 1)
            y_s, _, unit, largest = older_outputs(y, residual, state_y, held, sequence, h, H, s, vv, CASE)
            out += tl.dot(reach, y_s, input_precision=CASE.PRECISION) * unit
            bound = tl.maximum(bound, largest)

    # Outputs are averages of inputs (and of a state's): no larger than the largest of them so far.
    whole = 1.0 / whole
    out *= whole[:, None]
    if within > 0:
        before = sequence * 2 + (within - 1) % 2 if CASE.RING else segment - 1
        wait(flag - chunk_flags)
        bound_p = tl.load(handed_bound + before * H + h)
        y_p = tl.load(handed + (before.to(tl.int64) * H + h) * (CASE.C * CASE.V2) + r[:, None] * CASE.V2 + vv[None, :])
        read = tl.dot(reach_p, y_p, input_precision=CASE.PRECISION)
        out += read * (unit_in(bound_p, HEADROOM, CASE.WORK)[0] * whole)[:, None]
        bound = tl.maximum(bound, bound_p)
    units = (out * unit_in(bound, HEADROOM, CASE.WORK)[1]).to(CASE.WORK)
    tl.store(handed + (entry.to(tl.int64) * H + h) * (CASE.C * CASE.V2) + r[:, None] * CASE.V2 + vv[None, :], units)
    tl.store(handed_bound + entry * H + h, bound)
    release(flag)
    mask = lanes(there, vv, CASE.V, CASE.V2)
    store_fine(places(y, begin, r, h, H, vv, CASE.V), places(residual, begin, r, h, H, vv, CASE.V), out, mask)
    if CASE.TILES > 0:
        if within > 0:
            # Who waits for this chunk's rows may then read those of all chunks before it.
            wait(flag - chunk_flags + 1)
        release(flag + 1)


@triton.jit
def with_older_scores(
    q_c, k, state_k, occupant, occupant_last, segment, sequence, begin, r, s, h, H, kk, logits,
    top, total, CASE: tl.constexpr,
):  # fmt: skip
    """The largest score `[C]` of each token and the sum of its weights relative to it, from those of nearer keys, once
    the keys in all slots are counted in."""
    rows = begin + r
    for tile in tl.range(0, CASE.TILES, num_stages=1):
        slot = tile * CASE.TILE + s
        held, reader, any_held = older_slots(occupant, occupant_last, segment, slot, begin - CASE.C, CASE)
        if any_held:
            k_s = older_keys(k, state_k, held, sequence, h, H, slot, kk, CASE)
            p_s = tl.dot(q_c, tl.trans(k_s), input_precision=CASE.PRECISION) * logits
            p_s = tl.where(rows[:, None] <= reader[None, :], p_s, float("-inf"))
            higher = tl.maximum(top, tl.max(p_s, 1))
            total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(p_s - higher[:, None]), 1)
            top = higher
    return top, total


@triton.jit
def reach_of(q, k, inverse, norm, rows, reader, logits, CASE: tl.constexpr):
    """(I − P)^-1 P for the weights P of rows on older keys, which are read up to the rows `reader`."""
    p = tl.exp2(less(tl.dot(q, tl.trans(k), input_precision=CASE.PRECISION) * logits, norm[:, None]))
    p = tl.where(rows[:, None] <= reader[None, :], p, 0.0)
    return tl.dot(inverse, p.to(CASE.WORK), acc=p, input_precision=CASE.PRECISION).to(CASE.WORK)
