"""Chained lifetime recurrence, forward: one launch, whose programs hand their chunk's outputs on to the next chunk.

A row of a chunk reads rows of its own chunk, of the two chunks before, and *older* rows, which stand in the slots of
the tables. Scores need no outputs, so a program first takes its softmax, the inverse of I − P (P: weights inside the
chunk) and the weights on earlier chunks, carried through that inverse; then

    y = (I − P)^-1 α v  +  (I − P)^-1 P_older Y_older  +  (I − P)^-1 P_2 Y_2  +  (I − P)^-1 P_1 Y_1

where Y_1 and Y_2 are of the chunk before and of that before it. Only the last product waits for the chunk before: one
product a chunk is all that is sequential. These two arrive as soon as they are stored (`chain.arriving`); for older
rows, in slots, there is time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.chained.tiles import HEADROOM, older_in_units, older_keys, older_slots
from glm_kernels.triton_backend.common.chain import arriving, release, ticket, wait
from glm_kernels.triton_backend.common.numerics import fine_dot, inverse_less_identity, store_fine, unit_in
from glm_kernels.triton_backend.common.softmax import LOG2_E, less, log_norm
from glm_kernels.triton_backend.common.tiles import lanes, load_tokens, places, segment_at


@triton.jit
def chained_forward(
    q, k, v, d, y, residual, normaliser, handed, largest, state_k, state_y,
    last, occupant, occupant_last, segments, order, counter, flags, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments · H), a segment being one chunk; order `[segments]`: in which they are worked on.

    y, residual `[rows, H, V]`; normaliser `[rows, H]`: binary logarithms of the softmax denominators. handed
    `[segments, H, C, V2]` in WORK, of which `nothing_yet` is there: y for the next two chunks. largest fp32 `[H]`: no v
    and no output of a state is larger, so no y is. TILES tiles of TILE slots hold older rows. flags `[segments, H]`: y
    of this chunk and of all before it is there.
    """
    item = ticket(counter)
    h = item % H
    segment = tl.load(order + item // H)
    begin, end, within, sequence = segment_at(segments, segment)
    if begin >= end:
        return
    flag = flags + segment * H + h
    r, s, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.TILE), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows = begin + r
    there = (rows < end)[:, None]
    q_c = load_tokens(q, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    k_c = load_tokens(k, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    d_c = tl.load(d + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0).to(tl.float32) * LOG2_E
    last_c = tl.load(last + rows, mask=rows < end, other=-1)

    logits = scale * LOG2_E
    p = tl.dot(q_c, tl.trans(k_c), input_precision=CASE.PRECISION) * logits
    p = tl.where((r[None, :] < r[:, None]) & (rows[:, None] <= last_c[None, :]), p, float("-inf"))
    p_1 = scores_before(q_c, k, last, begin, 1, within, r, h, H, kk, logits, CASE)
    p_2 = scores_before(q_c, k, last, begin, 2, within, r, h, H, kk, logits, CASE)
    near = tl.maximum(tl.maximum(d_c, tl.max(p, 1)), tl.maximum(tl.max(p_1, 1), tl.max(p_2, 1)))
    p, alpha = tl.exp2(p - near[:, None]), tl.exp2(d_c - near)
    p_1, p_2 = tl.exp2(p_1 - near[:, None]), tl.exp2(p_2 - near[:, None])
    top, total = near, alpha + tl.sum(p, 1) + tl.sum(p_1, 1) + tl.sum(p_2, 1)
    top, total = with_older_scores(
        q_c, k, state_k, occupant, occupant_last, segment, sequence, begin, r, s, h, H, kk, logits,
        top, total, CASE,
    )  # fmt: skip
    norm = log_norm(top, total, q.dtype.element_ty, normaliser.dtype.element_ty)
    tl.store(normaliser + rows.to(tl.int64) * H + h, norm, mask=rows < end)

    share = tl.exp2(near - top) / total
    alpha, p_1, p_2 = alpha * share, p_1 * share[:, None], p_2 * share[:, None]
    inverse = inverse_less_identity(p * share[:, None], CASE.WORK, CASE.PRECISION)
    v_c = load_tokens(v, begin, r, h, H, vv, there, CASE.V, CASE.V2)
    on_inputs = inverse * alpha[None, :]
    out = fine_dot(on_inputs, v_c, v_c.to(tl.float32) * alpha[:, None], CASE.PRECISION, CUT=False)
    inverse = inverse.to(CASE.WORK)
    reach_1 = tl.dot(inverse, p_1.to(CASE.WORK), acc=p_1, input_precision=CASE.PRECISION).to(CASE.WORK)
    reach_2 = tl.dot(inverse, p_2.to(CASE.WORK), acc=p_2, input_precision=CASE.PRECISION).to(CASE.WORK)
    # The weights of a row sum to 1. Once rounded they do not: a chain of averages would drift by it.
    whole = alpha + tl.sum(on_inputs, 1) + tl.sum(reach_1.to(tl.float32), 1) + tl.sum(reach_2.to(tl.float32), 1)

    # Outputs are averages of inputs (and of a state's).
    unit, into_units = unit_in(tl.load(largest + h), HEADROOM, CASE.WORK)
    if CASE.TILES > 0:
        # Low slots change hands most often. Theirs is the last tile, whose weights are taken before it is waited for.
        held, reader, any_held = older_slots(occupant, occupant_last, segment, s, begin - 2 * CASE.C, CASE)
        k_s = older_keys(k, state_k, held, sequence, h, H, s, kk, CASE)
        reach = reach_of(q_c, k_s, inverse, norm, rows, reader, logits, CASE)
        whole += tl.sum(reach.to(tl.float32), 1)
        for step in tl.range(0, CASE.TILES - 1, num_stages=1):
            slot = (CASE.TILES - 1 - step) * CASE.TILE + s
            held_t, reader_t, any_held_t = older_slots(occupant, occupant_last, segment, slot, begin - 2 * CASE.C, CASE)
            if any_held_t:
                k_t = older_keys(k, state_k, held_t, sequence, h, H, slot, kk, CASE)
                reach_t = reach_of(q_c, k_t, inverse, norm, rows, reader_t, logits, CASE)
                newest = tl.max(held_t, 0)
                if newest >= 0:
                    wait(flag - (within - (newest - begin + within * CASE.C) // CASE.C) * H)
                y_t = older_in_units(y, residual, state_y, held_t, sequence, h, H, slot, vv, into_units, CASE)
                out += tl.dot(reach_t, y_t, input_precision=CASE.PRECISION) * unit
                whole += tl.sum(reach_t.to(tl.float32), 1)
        if any_held:
            if within > 2:
                wait(flag - 3 * H)
            y_s = older_in_units(y, residual, state_y, held, sequence, h, H, s, vv, into_units, CASE)
            out += tl.dot(reach, y_s, input_precision=CASE.PRECISION) * unit

    whole = 1.0 / whole
    out *= whole[:, None]
    whole *= unit
    handed += (segment.to(tl.int64) * H + h) * (CASE.C * CASE.V2)
    chunk = H * CASE.C * CASE.V2
    if within > 1:
        y_2 = arriving(handed - 2 * chunk, CASE.V2, CASE.C, CASE.C, CASE.V2, CASE.WARPS)
        out += tl.dot(reach_2, y_2, input_precision=CASE.PRECISION) * whole[:, None]
    if within > 0:
        y_1 = arriving(handed - chunk, CASE.V2, CASE.C, CASE.C, CASE.V2, CASE.WARPS)
        out += tl.dot(reach_1, y_1, input_precision=CASE.PRECISION) * whole[:, None]
    tl.store(handed + r[:, None] * CASE.V2 + vv[None, :], (out * into_units).to(CASE.WORK))
    mask = lanes(there, vv, CASE.V, CASE.V2)
    store_fine(places(y, begin, r, h, H, vv, CASE.V), places(residual, begin, r, h, H, vv, CASE.V), out, mask)
    if CASE.TILES > 0:
        if within > 0:
            # Who waits for this chunk's rows may then read those of all chunks before it.
            wait(flag - H)
        release(flag)


@triton.jit
def scores_before(q_c, k, last, begin, back, within, r, h, H, kk, logits, CASE: tl.constexpr):
    """Binary logarithms of the weights of a chunk's rows on those of the chunk so many before it."""
    first, known = begin - back * CASE.C, (r >= 0) & (within >= back)
    k_b = load_tokens(k, first, r, h, H, kk, known[:, None], CASE.K, CASE.K2)
    last_b = tl.load(last + first + r, mask=known, other=-1)
    p = tl.dot(q_c, tl.trans(k_b), input_precision=CASE.PRECISION) * logits
    return tl.where((begin + r)[:, None] <= last_b[None, :], p, float("-inf"))


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
        held, reader, any_held = older_slots(occupant, occupant_last, segment, slot, begin - 2 * CASE.C, CASE)
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
