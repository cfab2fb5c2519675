"""Device functions of the chained kernels: which chunk a program works on, its tiles, its masks, its unit of length.

All tensors have rows `[B, L, H, width]`; a *lane* is one head of one batch row, number b·H + h. Chunks of a lane are
worked on in order; the numbering below runs through all lanes of a group before it goes on to the next chunk, so that
programs that run together wait for one another as little as possible while their lanes' rows fit in the L2 cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.tiles import lanes as lane_mask


@triton.jit
def chunk_of(number, all_lanes, chunks, together):
    """(lane, chunk) of an item: groups of lanes, in them chunks, in them lanes."""
    group = number // (together * chunks)
    within = number - group * together * chunks
    width = tl.minimum(together, all_lanes - group * together)
    return group * together + within % width, within // width


@triton.jit
def tile(
    base, first, r, H, lane, there,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Rows first + r of a tensor `[…, H, WIDTH]` whose row 0 of this head is at `base`; zeros where not `there`.

    WHOLE: every row is there, which spares the mask.
    """
    # Only the first row's place needs 64 bits.
    at = base + tl.cast(first, tl.int64) * (H * WIDTH) + (r * (H * WIDTH))[:, None] + lane[None, :]
    if WHOLE and WIDTH == PADDED:
        rows = tl.load(at)
    elif WHOLE:
        rows = tl.load(at, mask=(lane < WIDTH)[None, :], other=0.0)
    else:
        rows = tl.load(at, mask=lane_mask(there[:, None], lane, WIDTH, PADDED), other=0.0)
    return rows


@triton.jit
def put_tile(base, first, r, H, lane, there, rows, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """The counterpart of `tile`."""
    at = base + tl.cast(first, tl.int64) * (H * WIDTH) + (r * (H * WIDTH))[:, None] + lane[None, :]
    tl.store(at, rows.to(base.dtype.element_ty), mask=lane_mask(there[:, None], lane, WIDTH, PADDED))


MARGIN = tl.constexpr(128)
"""Entries of tables of near distances before that of distance 0: the rows of the largest chunk."""
NEVER = tl.constexpr(1e30)
"""The logarithm of the softmax's denominator of rows that are not there: all their weights are zero."""


@triton.jit
def readable(rows, first, n, start, near_bits, READERS: tl.constexpr, DENSE: tl.constexpr, DOCUMENTS: tl.constexpr):
    """Which of a tile's rows first + n `[1, N]` each of `rows` `[C, 1]` reads, or by which it is read if READERS.

    start: where the reading row's document starts, `[C, 1]` or `[1, N]`. near_bits: int64 `[2, distances]`; bit n of
    entry MARGIN + x says whether x − n is a near offset, in the second line whether x + n is one. Unused if DENSE.
    """
    if DENSE:
        allowed = rows[:, None] < first + n[None, :] if READERS else rows[:, None] > first + n[None, :]
    else:
        words = tl.load(near_bits + (first - rows if READERS else rows - first) + MARGIN)
        # In halves: a bit of 32 is looked at in one instruction.
        low, high = words.to(tl.int32), (words >> 32).to(tl.int32)
        half = tl.where((n < 32)[None, :], low[:, None], high[:, None])
        allowed = ((half >> (n & 31)[None, :]) & 1) != 0
    if DOCUMENTS:
        allowed = allowed & ((rows[:, None] if READERS else first + n[None, :]) >= start)
    return allowed


@triton.jit(do_not_specialize=["L", "H"])
def largest_pass(x, largest, L, H, ROWS: tl.constexpr, STEPS: tl.constexpr, V: tl.constexpr, V2: tl.constexpr):
    """Grid (L / (ROWS · STEPS), B · H): raises `largest` `[B · H]` fp32, zero at first, to the lane's max |x|."""
    block, lane = tl.program_id(0), tl.program_id(1)
    r, vv = tl.arange(0, ROWS), tl.arange(0, V2)
    base = x + ((lane // H).to(tl.int64) * L * H + lane % H) * V
    found = tl.zeros((ROWS,), tl.float32)
    for step in tl.static_range(STEPS):
        first = (block * STEPS + step) * ROWS
        rows = tile(base, first, r, H, vv, first + r < L, V, V2, False)
        found = tl.maximum(found, tl.max(tl.abs(rows.to(tl.float32)), 1))
    tl.atomic_max(largest + lane, tl.max(found, 0), sem="relaxed")
