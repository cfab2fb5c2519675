"""Chained lifetime recurrence, backward: the gradients, once `chained_adjoint` has found every z.

Formulas of `segmented.backward`. Nothing has to wait any more: the rows that gave to a key are known, and only sums
over rows that come much later than the key need care, since these read it by its slot. Sequences are cut into *runs* of
chunks, which programs walk through from the last chunk on; what older rows receive is summed up in slots of the run's
own, and what rows from before the run received is collected by `late_key_pass`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.chained.tiles import (
    HEADROOM,
    older_keys,
    older_outputs,
    older_slots,
    slots_of,
    weights_transposed,
)
from glm_kernels.triton_backend.common.late_keys import piece_of
from glm_kernels.triton_backend.common.numerics import fine_in_units, rounded_dot
from glm_kernels.triton_backend.common.softmax import LOG2_E, less
from glm_kernels.triton_backend.common.tiles import lanes, load_tokens, places, store_tokens


@triton.jit
def run_gradient(
    q, k, y, residual, normaliser, z, z_unit, row_term, dq, dk, late, state_k, state_y,
    last, occupant, occupant_last, segments, H, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H), of which those work that begin a run. late fp32 `[entries, H, SLOTS, K]`, as `late_key_pass`
    takes it."""
    DTYPE: tl.constexpr = q.dtype.element_ty
    p, h = tl.program_id(0), tl.program_id(1)
    run_begin, end, sequence, entry, is_first, exists = piece_of(segments, p, CASE.C, 1, CASE.RUN, CASE.BY_ROW)
    if exists == 0:
        return
    late += (entry.to(tl.int64) * H + h) * CASE.SLOTS * CASE.K
    r, s, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.TILE), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    chunks = tl.minimum(CASE.RUN, tl.cdiv(end - run_begin, CASE.C))
    for step in tl.range(0, chunks, num_stages=1):
        chunk = chunks - 1 - step
        segment, begin = p + chunk, run_begin + chunk * CASE.C
        rows, rows_n = begin + r, begin + CASE.C + r
        there, there_n = (rows < end)[:, None], (rows_n < end)[:, None]
        row, row_n = rows.to(tl.int64) * H + h, rows_n.to(tl.int64) * H + h
        last_c = tl.load(last + rows, mask=rows < end, other=-1)
        k_c = load_tokens(k, begin, r, h, H, kk, there, CASE.K, CASE.K2)
        at_y, at_residual = places(y, begin, r, h, H, vv, CASE.V), places(residual, begin, r, h, H, vv, CASE.V)
        y_c, low_c, unit_y = fine_in_units(at_y, at_residual, HEADROOM, lanes(there, vv, CASE.V, CASE.V2), CASE.WORK)

        dk_c = tl.zeros((CASE.C, CASE.K2), tl.float32)
        if begin + CASE.C < end:
            top_n = tl.load(normaliser + row_n, mask=rows_n < end, other=0.0)
            zy_n = tl.load(row_term + row_n, mask=rows_n < end, other=0.0)
            unit_n = tl.load(z_unit + (segment + 1) * H + h)
            q_n = load_tokens(q, begin + CASE.C, r, h, H, kk, there_n, CASE.K, CASE.K2)
            z_n = load_tokens(z, begin + CASE.C, r, h, H, vv, there_n, CASE.V, CASE.V2)
            reads = (rows_n[None, :] <= last_c[:, None]) & (rows_n < end)[None, :]
            ds = score_gradient(q_n, k_c, z_n, y_c, low_c, unit_n * unit_y, top_n, zy_n, reads, scale, CASE.PRECISION)
            dk_c = rounded_dot(ds, q_n, dk_c, CASE.PRECISION)

        top = tl.load(normaliser + row, mask=rows < end, other=0.0)
        zy = tl.load(row_term + row, mask=rows < end, other=0.0)
        unit = tl.load(z_unit + segment * H + h)
        q_c = load_tokens(q, begin, r, h, H, kk, there, CASE.K, CASE.K2)
        z_c = load_tokens(z, begin, r, h, H, vv, there, CASE.V, CASE.V2)
        reads = (r[:, None] < r[None, :]) & (rows[None, :] <= last_c[:, None])
        ds = score_gradient(q_c, k_c, z_c, y_c, low_c, unit * unit_y, top, zy, reads, scale, CASE.PRECISION)
        dk_c = rounded_dot(ds, q_c, dk_c, CASE.PRECISION)
        if CASE.TILES > 0:  # noqa: SIM102 - decided by the compiler; the one inside on the device
            if chunk + 2 < chunks:
                # Before this chunk changes slots: another row may have stood there.
                slot = slots_of(rows, occupant, segment + 2, CASE)
                kept = lanes((slot >= 0)[:, None], kk, CASE.K, CASE.K2)
                dk_c += tl.load(late + slot[:, None] * CASE.K + kk[None, :], mask=kept, other=0.0)
        store_tokens(dk, begin, r, h, H, kk, there, dk_c, CASE.K, CASE.K2)
        dq_t = rounded_dot(tl.trans(k_c), ds, tl.zeros((CASE.K2, CASE.C), tl.float32), CASE.PRECISION)

        if (begin > run_begin) | (is_first == 0):
            known = (r >= 0)[:, None]
            k_p = load_tokens(k, begin - CASE.C, r, h, H, kk, known, CASE.K, CASE.K2)
            last_p = tl.load(last + begin - CASE.C + r)
            before = begin - CASE.C
            at_y, at_residual = places(y, before, r, h, H, vv, CASE.V), places(residual, before, r, h, H, vv, CASE.V)
            mask = lanes(known, vv, CASE.V, CASE.V2)
            y_p, low_p, unit_y = fine_in_units(at_y, at_residual, HEADROOM, mask, CASE.WORK)
            reads = rows[None, :] <= last_p[:, None]
            ds = score_gradient(q_c, k_p, z_c, y_p, low_p, unit * unit_y, top, zy, reads, scale, CASE.PRECISION)
            dq_t = rounded_dot(tl.trans(k_p), ds, dq_t, CASE.PRECISION)

        if CASE.TILES > 0:
            # What was loaded above has been by every thread.
            tl.debug_barrier()
        for tile in tl.range(0, CASE.TILES, num_stages=1):
            slot = tile * CASE.TILE + s
            held, reader, any_held = older_slots(occupant, occupant_last, segment, slot, begin - CASE.C, CASE)
            if any_held:
                k_s = older_keys(k, state_k, held, sequence, h, H, slot, kk, CASE)
                y_s, low_s, unit_y = older_outputs(y, residual, state_y, held, sequence, h, H, slot, vv, CASE)
                reads = rows[None, :] <= reader[:, None]
                ds = score_gradient(q_c, k_s, z_c, y_s, low_s, unit * unit_y, top, zy, reads, scale, CASE.PRECISION)
                dq_t = rounded_dot(tl.trans(k_s), ds, dq_t, CASE.PRECISION)
                sums = late + slot[:, None] * CASE.K + kk[None, :]
                following = tl.load(occupant + (segment + 1).to(tl.int64) * CASE.SLOTS + slot)
                stays = ((following == held) & (held != -1) & (chunk + 1 < chunks))[:, None]
                given = tl.load(sums, mask=lanes(stays, kk, CASE.K, CASE.K2), other=0.0)
                given = rounded_dot(ds, q_c, given, CASE.PRECISION)
                tl.store(sums, given, mask=lanes((held != -1)[:, None], kk, CASE.K, CASE.K2))
        columns = dq + (begin.to(tl.int64) * H + h) * CASE.K + (r * (H * CASE.K))[None, :] + kk[:, None]
        tl.store(columns, dq_t.to(DTYPE), mask=(kk < CASE.K)[:, None] & (rows < end)[None, :])
        if CASE.TILES > 0:
            # What the slots hold is there for every thread.
            tl.debug_barrier()


@triton.jit
def score_gradient(q, k, z, y, y_low, unit, top, zy, reads, scale, PRECISION: tl.constexpr):
    """scale · ∂score `[keys, rows]`; `unit` is that of z·y, where y is given in two parts."""
    p = weights_transposed(q, k, top, reads, scale)
    z_y = tl.dot(y, tl.trans(z), input_precision=PRECISION)
    if z.dtype != tl.float32:
        # Where one old row takes almost all weight, outputs agree in many more digits than the first part has.
        z_y = tl.dot(y_low, tl.trans(z), acc=z_y)
    return p * (z_y * unit - zy[None, :]) * scale


@triton.jit
def value_gradient(
    z, z_unit, d, normaliser, dv, segments, H, C: tl.constexpr, V: tl.constexpr, V2: tl.constexpr
):  # fmt: skip
    """Grid (segments, H): ∂v = α z. May be in the memory of z, of which nothing else is needed any more."""
    segment, h = tl.program_id(0), tl.program_id(1)
    begin, end = tl.load(segments + segment * 4), tl.load(segments + segment * 4 + 1)
    if begin < end:
        r, vv = tl.arange(0, C), tl.arange(0, V2)
        rows = begin + r
        row, mask = rows.to(tl.int64) * H + h, lanes((rows < end)[:, None], vv, V, V2)
        own = tl.load(d + row, mask=rows < end, other=0.0).to(tl.float32) * LOG2_E
        alpha = tl.exp2(less(own, tl.load(normaliser + row, mask=rows < end, other=0.0)))
        z_c = tl.load(places(z, begin, r, h, H, vv, V), mask=mask, other=0.0).to(tl.float32)
        dv_c = z_c * (alpha * tl.load(z_unit + segment * H + h))[:, None]
        tl.debug_barrier()
        tl.store(places(dv, begin, r, h, H, vv, V), dv_c.to(dv.dtype.element_ty), mask=mask)
