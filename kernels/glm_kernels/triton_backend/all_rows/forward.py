"""Dense and offset recurrences, forward: one launch, in which every chunk of rows waits for the chunks before it.

A chunk's rows read earlier rows as attention does, with keys k and values y, in one pass with a running maximum:

* *near* sources, tiles of rows within reach of the near offsets (dense: all earlier rows), by matrix products;
* *far* sources, for each far offset f the rows i − f, of which row i needs one: products row by row.

Then, with the chunk's own weights P (strictly lower triangular), y = (I − P)^-1 (α v + what was read). Everything that
the chunk before is not needed for is done before waiting for it, the inverse too. No score is stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.all_rows.tiles import chunk_of, put_tile, readable, tile
from glm_kernels.triton_backend.common.chain import publish, ticket, wait_for, wait_until
from glm_kernels.triton_backend.common.numerics import inverse_less_identity, unit_of
from glm_kernels.triton_backend.common.softmax import LOG2_E
from glm_kernels.triton_backend.common.softmax import log_norm as log_norm_of


@triton.jit(do_not_specialize=["L", "H", "all_lanes", "together", "near"])
def source_pass(
    q, k, v, d, y, y_work, log_norm, largest, starts, near_bits, far, far_before, counter, progress,
    L, H, all_lanes, together, near, scale, CASE: tl.constexpr,
):  # fmt: skip
    """Grid (chunks · B · H). y, y_work `[B, L, H, V]`; log_norm `[B, H, L]`: log2 of the softmax's denominator.

    y_work: y in units of `unit_of(largest)`. near: all offsets below it are in `near_bits`.
    far: the other offsets, ascending; each at least 3C. far_before[x]: how many of them are below x · C.
    """
    WORK: tl.constexpr = y_work.dtype.element_ty
    chunks = (L + CASE.C - 1) // CASE.C
    lane, c = chunk_of(ticket(counter), all_lanes, chunks, together)
    b, h = lane // H, lane % H
    of_head = b.to(tl.int64) * L * H + h
    k_rows, y_rows = k + of_head * CASE.K, y_work + of_head * CASE.V
    first = c * CASE.C
    r, n, kk, vv = tl.arange(0, CASE.C), tl.arange(0, CASE.BLOCK), tl.arange(0, CASE.K2), tl.arange(0, CASE.V2)
    rows = first + r
    there = rows < L
    at = of_head + rows.to(tl.int64) * H
    start, oldest = tl.zeros((CASE.C,), tl.int32), first * 0
    if CASE.DOCUMENTS:
        start = tl.load(starts + b * L + rows, mask=there, other=0)
        oldest = tl.load(starts + b * L + first)
    logits = scale * LOG2_E
    _, size = unit_of(tl.load(largest + lane), 0)
    top = tl.load(d + at, mask=there, other=0.0).to(tl.float32) * LOG2_E
    total = tl.full((CASE.C,), 1.0, tl.float32)
    acc = tile(v + of_head * CASE.V, first, r, H, vv, there, CASE.V, CASE.V2, False).to(tl.float32) * size

    if CASE.FAR:
        q_far = tile(q + of_head * CASE.K, first, r, H, kk, there, CASE.K, CASE.K2, False).to(tl.float32)
        far_top, far_total, far_acc = read_far(
            q_far, k_rows, y_rows, far, far_before, progress + lane, top, start, oldest, c, there,
            r, H, kk, vv, logits, CASE,
        )  # fmt: skip
        own = tl.exp2(top - far_top)
        acc = acc * own[:, None] + far_acc
        total = own + far_total
        top = far_top

    q_own = tile(q + of_head * CASE.K, first, r, H, kk, there, CASE.K, CASE.K2, False)
    done = oldest
    if not CASE.DENSE:
        done = tl.maximum(done, first - near + 1)
    done = done // CASE.BLOCK * CASE.BLOCK
    while done < first - 2 * CASE.C:
        finished = wait_until(progress + lane, done // CASE.C + 1)
        until = tl.minimum(finished * CASE.C, first - 2 * CASE.C)
        for j in tl.range(done, until, CASE.BLOCK, num_stages=CASE.STAGES):
            k_t = tile(k_rows, j, n, H, kk, n >= 0, CASE.K, CASE.K2, True)
            s = tl.dot(q_own, tl.trans(k_t), input_precision=CASE.PRECISION) * logits
            if CASE.DOCUMENTS or not CASE.DENSE:
                allowed = readable(rows, j, n, start[:, None], near_bits, False, CASE.DENSE, CASE.DOCUMENTS)
                s = tl.where(allowed, s, float("-inf"))
            new, kept, p, total = weights_so_far(s, top, total, WORK)
            y_t = tile(y_rows, j, n, H, vv, n >= 0, CASE.V, CASE.V2, True)
            acc = tl.dot(p, y_t, acc=acc * kept[:, None], input_precision=CASE.PRECISION)
            top = new
        done = until

    # The two chunks before: their keys are known, their y may take a while yet.
    there_2, there_1 = first - 2 * CASE.C + r >= 0, first - CASE.C + r >= 0
    s = chunk_scores(q_own, k_rows, first - 2 * CASE.C, r, H, kk, there_2, rows, start, near_bits, CASE)
    top_2, kept, p_2, total = weights_so_far(s * logits, top, total, WORK)
    acc = acc * kept[:, None]
    s = chunk_scores(q_own, k_rows, first - CASE.C, r, H, kk, there_1, rows, start, near_bits, CASE)
    top_1, kept_2, p_1, outside = weights_so_far(s * logits, top_2, total, WORK)
    s = chunk_scores(q_own, k_rows, first, r, H, kk, there, rows, start, near_bits, CASE)
    top, kept_1, p, total = weights_so_far(s * logits, top_1, outside, tl.float32)
    inverse = inverse_less_identity(p / total[:, None], WORK, CASE.PRECISION).to(WORK)
    # The weights of a row on what comes from outside of the chunk sum to 1. Once rounded they do not: a chain of
    # averages would drift by it.
    outside *= kept_1 / total
    whole = outside + tl.sum(inverse.to(tl.float32) * outside[None, :], 1)
    norm = log_norm_of(top, total, q.dtype.element_ty, log_norm.dtype.element_ty)
    tl.store(log_norm + lane.to(tl.int64) * L + rows, norm, mask=there)

    if c > 1:
        wait_for(progress + lane, c - 1)
    y_t = tile(y_rows, first - 2 * CASE.C, r, H, vv, there_2, CASE.V, CASE.V2, False)
    acc = tl.dot(p_2, y_t, acc=acc, input_precision=CASE.PRECISION) * kept_2[:, None]
    if c > 0:
        wait_for(progress + lane, c)
    y_t = tile(y_rows, first - CASE.C, r, H, vv, there_1, CASE.V, CASE.V2, False)
    read = tl.dot(p_1, y_t, acc=acc, input_precision=CASE.PRECISION) * (kept_1 / total)[:, None]
    out = tl.dot(inverse, read.to(WORK), acc=read, input_precision=CASE.PRECISION) / whole[:, None]
    put_tile(y_rows, first, r, H, vv, there, out, CASE.V, CASE.V2)
    publish(progress + lane, c + 1)
    put_tile(y + of_head * CASE.V, first, r, H, vv, there, out / size, CASE.V, CASE.V2)


@triton.jit
def read_far(
    q_far, k_rows, y_rows, far, far_before, progress, top, start, oldest, c, there,
    r, H, kk, vv, logits, CASE: tl.constexpr,
):  # fmt: skip
    """What chunk c's tokens read at far offsets: the largest score, beginning with `top`, and relative to it the sum of
    the weights and the weighted sum of outputs. `progress`: the counter of finished chunks."""
    first = c * CASE.C
    rows = first + r
    far_top, far_total, far_acc = top, tl.zeros((CASE.C,), tl.float32), tl.zeros((CASE.C, CASE.V2), tl.float32)
    # From the farthest on: those rows are finished first.
    above = tl.load(far_before + (first + CASE.C - 1 - oldest) // CASE.C + 1)
    while above > 0:
        last_row = first + CASE.C - 1 - tl.load(far + above - 1)
        finished = wait_until(progress, last_row // CASE.C + 1)
        below = tl.load(far_before + tl.maximum(c + 1 - finished, 0))
        for step in tl.range(0, above - below, num_stages=2):
            f = tl.load(far + above - 1 - step)
            reach = there & (rows - f >= start)
            k_far = tile(k_rows, first - f, r, H, kk, reach, CASE.K, CASE.K2, False)
            y_far = tile(y_rows, first - f, r, H, vv, reach, CASE.V, CASE.V2, False)
            s = tl.where(reach, tl.sum(q_far * k_far.to(tl.float32), 1) * logits, float("-inf"))
            new = tl.maximum(far_top, s)
            kept, p = tl.exp2(far_top - new), tl.exp2(s - new)
            far_acc = far_acc * kept[:, None] + y_far.to(tl.float32) * p[:, None]
            far_total = far_total * kept + p
            far_top = new
        above = below
    return far_top, far_total, far_acc


@triton.jit
def chunk_scores(q_own, k_rows, at, r, H, kk, there, rows, start, near_bits, CASE: tl.constexpr):
    """q·k `[C, C]` of rows with the chunk whose first row is `at`, −inf where not read."""
    k_t = tile(k_rows, at, r, H, kk, there, CASE.K, CASE.K2, False)
    s = tl.dot(q_own, tl.trans(k_t), input_precision=CASE.PRECISION)
    allowed = readable(rows, at, r, start[:, None], near_bits, False, CASE.DENSE, CASE.DOCUMENTS)
    return tl.where(allowed & there[None, :], s, float("-inf"))


@triton.jit
def weights_so_far(s, top, total, DTYPE: tl.constexpr):
    """A step of the softmax over more and more scores, in powers of two: the new maximum, the factor by which sums over
    earlier scores shrink, the new scores' weights in DTYPE, the new sum of all, as rounded."""
    new = tl.maximum(top, tl.max(s, 1))
    kept, p = tl.exp2(top - new), tl.exp2(s - new[:, None]).to(DTYPE)
    return new, kept, p, total * kept + tl.sum(p.to(tl.float32), 1)
