"""Chained lifetime recurrence, backward: a chain in reverse for z of (I − B)^T z = G.

Notation and formulas of `segmented.backward`. A row receives from its readers: those in its own chunk, those in the
next two chunks, and later ones, whose contributions are carried in its slot:

    z = (I − P^T)^-1 (G + carried)  +  (I − P^T)^-1 P_2^T Z_2  +  (I − P^T)^-1 P_1^T Z_1

As in the forward pass all but the last product is ready when the next chunk's z arrives. Having handed its own z on, a
program adds what its chunk gives to older rows to their slots, tile by tile in the order of the chain, so that sums are
the same in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.chained.tiles import HEADROOM, older_keys, older_slots, slots_of, weights_transposed
from glm_kernels.triton_backend.common.chain import arriving, arriving_number, release, ticket, wait
from glm_kernels.triton_backend.common.numerics import fine, in_units, inverse_less_identity
from glm_kernels.triton_backend.common.softmax import LOG2_E, less
from glm_kernels.triton_backend.common.tiles import lanes, load_tokens, places, segment_at, store_tokens


@triton.jit
def chained_adjoint(
    q, k, v, d, y, residual, grad, normaliser, dd, z, z_unit, row_term, carried, state_k, dstate_y,
    last, occupant, occupant_last, segments, order, counter, flags, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments · H). z `[rows, H, V]` in WORK and units of z_unit `[segments, H]`; both hold `nothing_yet`.

    row_term fp32 `[rows, H]`: z·y. carried fp32 `[carriers, H, SLOTS, V]`. flags `[segments, H, 1 + TILES]`: z is
    there, if its rows are PADDED; each tile of `carried` has what this chunk gives.
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
    rows = begin + r
    there, row = (rows < end)[:, None], rows.to(tl.int64) * H + h
    k_c = load_tokens(k, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    q_c = load_tokens(q, begin, r, h, H, kk, there, CASE.K, CASE.K2)
    top = tl.load(normaliser + row, mask=rows < end, other=0.0)
    last_c = tl.load(last + rows, mask=rows < end, other=-1)

    reads = (r[:, None] < r[None, :]) & (rows[None, :] <= last_c[:, None])
    inverse = weights_transposed(q_c, k_c, top, reads, scale)
    inverse = inverse_less_identity(inverse, CASE.WORK, CASE.PRECISION).to(CASE.WORK)
    reach_1 = reach_after(q, k_c, normaliser, last_c, inverse, begin, end, 1, r, h, H, kk, scale, CASE)
    reach_2 = reach_after(q, k_c, normaliser, last_c, inverse, begin, end, 2, r, h, H, kk, scale, CASE)
    p_s = tl.zeros((CASE.TILE, CASE.C), CASE.WORK)
    if CASE.TILES > 0:
        # Most rows that the next chunks need their sums of stand in the first tile: its weights are taken in advance.
        held, reader, any_held = older_slots(occupant, occupant_last, segment, s, begin - 2 * CASE.C, CASE)
        k_s = older_keys(k, state_k, held, sequence, h, H, s, kk, CASE)
        p_s = weights_transposed(q_c, k_s, top, rows[None, :] <= reader[:, None], scale).to(CASE.WORK)
    received = load_tokens(grad, begin, r, h, H, vv, there, CASE.V, CASE.V2).to(tl.float32)
    if CASE.TILES > 0:  # noqa: SIM102 - decided by the compiler; the one inside on the device
        if begin + 3 * CASE.C < end:
            slot = slots_of(rows, occupant, segment + 3, CASE)
            if tl.max(slot, 0) >= 0:
                wait(flag + 3 * chunk_flags + 1 + tl.max(slot, 0) // CASE.TILE)
            kept = lanes((slot >= 0)[:, None], vv, CASE.V, CASE.V2)
            received += tl.load(carried + slot[:, None] * CASE.V + vv[None, :], mask=kept, other=0.0)
    units, unit = in_units(received, HEADROOM, CASE.WORK)
    z_c = received + tl.dot(inverse, units, input_precision=CASE.PRECISION) * unit
    if begin + 2 * CASE.C < end:
        z_c += from_chunk_after(reach_2, z, z_unit, flag, segment, begin, end, 2, r, h, H, vv, CASE)
    if begin + CASE.C < end:
        z_c += from_chunk_after(reach_1, z, z_unit, flag, segment, begin, end, 1, r, h, H, vv, CASE)
    units, unit = in_units(z_c, HEADROOM, CASE.WORK)
    tl.store(z_unit + segment * H + h, unit)
    store_tokens(z, begin, r, h, H, vv, there, units, CASE.V, CASE.V2)
    if CASE.PADDED:
        release(flag)

    for tile in tl.range(0, CASE.TILES, num_stages=1):
        slot = tile * CASE.TILE + s
        held, reader, any_held = older_slots(occupant, occupant_last, segment, slot, begin - 2 * CASE.C, CASE)
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
def reach_after(
    q, k_c, normaliser, last_c, inverse, begin, end, ahead, r, h, H, kk, scale, CASE: tl.constexpr
):  # fmt: skip
    """(I − P^T)^-1 P^T for the weights P that the rows of the chunk so many after this one have on its rows."""
    first = begin + ahead * CASE.C
    rows = first + r
    q_a = load_tokens(q, first, r, h, H, kk, (rows < end)[:, None], CASE.K, CASE.K2)
    top = tl.load(normaliser + rows.to(tl.int64) * H + h, mask=rows < end, other=0.0)
    p = weights_transposed(q_a, k_c, top, (rows[None, :] <= last_c[:, None]) & (rows < end)[None, :], scale)
    return tl.dot(inverse, p.to(CASE.WORK), acc=p, input_precision=CASE.PRECISION).to(CASE.WORK)


@triton.jit
def from_chunk_after(reach, z, z_unit, flag, segment, begin, end, ahead, r, h, H, vv, CASE: tl.constexpr):
    """What z of the chunk so many after this one gives to z of this one, once it is there."""
    first, at_unit = begin + ahead * CASE.C, z_unit + (segment + ahead) * H + h
    if CASE.PADDED:
        wait(flag + ahead * H * (1 + CASE.TILES))
        z_a = load_tokens(z, first, r, h, H, vv, (first + r < end)[:, None], CASE.V, CASE.V2)
    else:
        # Of a chunk with fewer rows the last one stands for those that are none: nobody reads them.
        z_a = arriving(z + (first.to(tl.int64) * H + h) * CASE.V, H * CASE.V, end - first, CASE.C, CASE.V2, CASE.WARPS)
    # While the product is taken.
    unit = tl.load(at_unit, volatile=True)
    given = tl.dot(reach, z_a, input_precision=CASE.PRECISION)
    return given * arriving_number(at_unit, unit)


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
