"""Chained lifetime recurrence, backward: a chain in reverse for z of (I − B)^T z = G.

Notation and formulas of `segmented.backward`. A row receives from its readers: those in its own chunk, those in the
next chunk, and later ones, whose contributions are carried in its slot:

    z = (I − P^T)^-1 (G + carried)  +  (I − P^T)^-1 P_next^T Z_next

As in the forward pass all but the last product is ready when the next chunk's z arrives. Having handed its own z on, a
program adds what its chunk gives to older rows to their slots, tile by tile in the order of the chain, so that sums are
the same in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.chained.tiles import HEADROOM, older_keys, older_slots, slots_of, weights_transposed
from glm_kernels.triton_backend.common.chain import release, ticket, wait
from glm_kernels.triton_backend.common.numerics import fine, in_units, inverse_less_identity
from glm_kernels.triton_backend.common.softmax import LOG2_E, less
from glm_kernels.triton_backend.common.tiles import lanes, load_tokens, places, segment_at, store_tokens


@triton.jit
def chained_adjoint(
    q, k, v, d, y, residual, grad, normaliser, dd, z, z_unit, row_term, carried, state_k, dstate_y,
    last, occupant, occupant_last, segments, order, counter, flags, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments · H). z `[rows, H, V]` in WORK and units of z_unit `[segments, H]`.

    row_term fp32 `[rows, H]`: z·y. carried fp32 `[carriers, H, SLOTS, V]`. flags `[segments, H, 1 + TILES]`: z is
    there; each tile of `carried` has what this chunk gives.
    """
    item = ticket(counter)
    h = item % H
    segment = tl.load(order + tl.num_programs(0) // H - 1 - item // H)
    begin, end, within, sequence = segment_at(segments, segment)
    if begin >= end:
        return
    flag, chunk_flags = flags + (segment * H + h) * (1 + CASE.TILES), H * (1 + CASE.TILES)
    carrier = (begin - within * CASE.C) // (2 * CASE.C + 1) if CASE.BY_ROW else sequence
    carried += (carrier.to(tl.int64) * H + h) * CASE.SLOTS * CASE.V
    r, s, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.TILE), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows, rows_n = begin + r, begin + CASE.C + r
    there, there_n = (rows < end)[:, None], (rows_n < end)[:, None]
    row, row_n = rows.to(tl.int64) * H + h, rows_n.to(tl.int64) * H + h
    k_c = load_tokens(k, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    q_c = load_tokens(q, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    q_n = load_tokens(q, begin + CASE.C, r, h, H, kk, there_n, CASE.K, CASE.K2)
    top = tl.load(normaliser + row, mask=rows < end, other=0.0)
    top_n = tl.load(normaliser + row_n, mask=rows_n < end, other=0.0)
    last_c = tl.load(last + rows, mask=rows < end, other=-1)

    p = weights_transposed(q_n, k_c, top_n, (rows_n[None, :] <= last_c[:, None]) & (rows_n < end)[None, :], scale)
    reach_n = p.to(CASE.WORK)
    reads = (r[:, None] < r[None, :]) & (rows[None, :] <= last_c[:, None])
    inverse = weights_transposed(q_c, k_c, top, reads, scale)
    inverse = inverse_less_identity(inverse, CASE.WORK, CASE.PRECISION).to(CASE.WORK)
    reach_n = tl.dot(inverse, reach_n, acc=p, input_precision=CASE.PRECISION).to(CASE.WORK)
    p_s = tl.zeros((CASE.TILE, CASE.C), CASE.WORK)
    if CASE.TILES > 0:
        # Most rows that the next chunks need their sums of stand in the first tile: its weights are taken in advance.
        held, reader, any_held = older_slots(occupant, occupant_last, segment, s, begin - CASE.C, CASE)
        k_s = older_keys(k, state_k, held, sequence, h, H, s, kk, CASE)
        p_s = weights_transposed(q_c, k_s, top, rows[None, :] <= reader[:, None], scale).to(CASE.WORK)
    received = load_tokens(grad, begin, r, h, H, vv, there, CASE.V, CASE.V2).to(tl.float32)
    if CASE.TILES > 0:  # noqa: SIM102 - decided by the compiler; the one inside on the device
        if begin + 2 * CASE.C < end:
            slot = slots_of(rows, occupant, segment + 2, CASE)
            if tl.max(slot, 0) >= 0:
                wait(flag + 2 * chunk_flags + 1 + tl.max(slot, 0) // CASE.TILE)
            kept = lanes((slot >= 0)[:, None], vv, CASE.V, CASE.V2)
            received += tl.load(carried + slot[:, None] * CASE.V + vv[None, :], mask=kept, other=0.0)
    units, unit = in_units(received, HEADROOM, CASE.WORK)
    z_c = received + tl.dot(inverse, units, input_precision=CASE.PRECISION) * unit
    if begin + CASE.C < end:
        wait(flag + chunk_flags)
        unit_n = tl.load(z_unit + (segment + 1) * H + h)
        z_n = load_tokens(z, begin + CASE.C, r, h, H, vv, there_n, CASE.V, CASE.V2)
        z_c += tl.dot(reach_n, z_n, input_precision=CASE.PRECISION) * unit_n
    units, unit = in_units(z_c, HEADROOM, CASE.WORK)
    store_tokens(z, begin, r, h, H, vv, there, units, CASE.V, CASE.V2)
    tl.store(z_unit + segment * H + h, unit)
    release(flag)

    for tile in tl.range(0, CASE.TILES, num_stages=1):
        slot = tile * CASE.TILE + s
        held, reader, any_held = older_slots(occupant, occupant_last, segment, slot, begin - CASE.C, CASE)
        given = tl.zeros((CASE.TILE, CASE.V2), tl.float32)
        if any_held:
            if tile > 0:
                k_s = older_keys(k, state_k, held, sequence, h, H, slot, kk, CASE)
                p_s = weights_transposed(q_c, k_s, top, rows[None, :] <= reader[:, None], scale).to(CASE.WORK)
            given = tl.dot(p_s, units, input_precision=CASE.PRECISION) * unit
        pass_on(
            given, carried, dstate_y, held, segment, slot, vv, within, sequence, h, H, begin + CASE.C < end,
            flag + chunk_flags + 1 + tile, occupant, CASE,
        )  # fmt: skip
        release(flag + 1 + tile)

    # From the rounded z: then rounding it moves both terms of z·y_j − z·y_i alike.
    z_c = load_tokens(z, begin, r, h, H, vv, there, CASE.V, CASE.V2).to(tl.float32) * unit
    at_y, at_residual = places(y, begin, r, h, H, vv, CASE.V), places(residual, begin, r, h, H, vv, CASE.V)
    y_c = fine(at_y, at_residual, lanes(there, vv, CASE.V, CASE.V2))
    zy = tl.sum(z_c * y_c, 1)
    v_c = load_tokens(v, begin, r, h, H, vv, there, CASE.V, CASE.V2).to(tl.float32)
    zv = tl.sum(z_c * v_c, 1)
    alpha = tl.exp2(less(tl.load(d + row, mask=rows < end, other=0.0).to(tl.float32) * LOG2_E, top))
    tl.store(row_term + row, zy, mask=rows < end)
    tl.store(dd + row, (alpha * (zv - zy)).to(dd.dtype.element_ty), mask=rows < end)


@triton.jit
def pass_on(
    given, carried, start, held, segment, slot, vv, within, sequence, h, H, follows, flag, occupant, CASE: tl.constexpr
):
    """Adds to a tile of `carried` what this chunk gives to older rows, once the next chunk has done so; its `flag`.

    At the start of a sequence what was carried for rows of the initial state is theirs: it goes into `start`.
    """
    at = slot[:, None] * CASE.V + vv[None, :]
    if follows:
        wait(flag)
        following = tl.load(occupant + (segment + 1).to(tl.int64) * CASE.SLOTS + slot)
        stays = ((following == held) & (held != -1))[:, None]
        given += tl.load(carried + at, mask=lanes(stays, vv, CASE.V, CASE.V2), other=0.0)
    tl.store(carried + at, given, mask=lanes((held != -1)[:, None], vv, CASE.V, CASE.V2))
    if CASE.STATE_SLOTS > 0 and within == 0:
        at_start = ((sequence.to(tl.int64) * H + h) * CASE.STATE_SLOTS + slot)[:, None] * CASE.V + vv[None, :]
        tl.store(start + at_start, given, mask=lanes((held == -2)[:, None], vv, CASE.V, CASE.V2))
