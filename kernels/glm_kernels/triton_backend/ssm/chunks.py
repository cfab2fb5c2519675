"""Device functions of all passes of the SSM: segments, documents, and the decays within a chunk.

A *sequence* is a batch row, whose documents begin at `starts` (PACKED), or a document of `cu_seqlens`. A token's
*position* is its number within the sequence. Decays are base-2 logarithms in float32, summed up within a chunk only;
no exponential is taken of a positive difference as long as no log decay is positive.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.softmax import LOG2_E


@triton.jit
def segment_of(segments, p, SEGMENT: tl.constexpr):
    """First row and row after the last of segment p, its sequence (−1: none), and the sequence's first and end row."""
    begin, sequence = tl.load(segments + p * 4), tl.load(segments + p * 4 + 1)
    origin, stop = tl.load(segments + p * 4 + 2), tl.load(segments + p * 4 + 3)
    return begin, tl.minimum(begin + SEGMENT, stop), sequence, origin, stop


@triton.jit
def start_of(starts, rows, there):
    """Where documents of rows start; the first one of a sequence before it, since it goes on from the initial state."""
    start = tl.load(starts + rows, mask=there, other=0)
    return tl.where(start <= 0, -1, start)


@triton.jit
def chunk_decays(log_decay, starts, first, end, origin, h, H, CASE: tl.constexpr):
    """Of the chunk that begins at row `first`: running sums of its log decays and the starts of its rows, `[C]`.

    Then the weights `[C]` with which the state before the chunk enters each row (before's), and each row is left in
    the state after the chunk (after's), and the weight of the state before in the state after.
    """
    rows = first + tl.arange(0, CASE.C)
    there = rows < end
    a = tl.load(log_decay + rows.to(tl.int64) * H + h, mask=there, other=0.0).to(tl.float32) * LOG2_E
    sums = tl.cumsum(a, 0)
    total = tl.sum(a, 0)
    before, after, kept = tl.exp2(sums), tl.exp2(total - sums), tl.exp2(total)
    start = rows
    if CASE.PACKED:
        start = start_of(starts, rows, there)
        last_start = start_of(starts, tl.minimum(first + CASE.C, end) - 1, True)
        before = tl.where(start < first - origin, before, 0.0)
        after = tl.where(last_start <= rows - origin, after, 0.0)
        kept = tl.where(last_start < first - origin, kept, 0.0)
    return sums, start, before, after, kept


@triton.jit
def pair_decays(sums, start, rows, origin, CASE: tl.constexpr):
    """Γ `[C, C]` of a chunk: lower triangular, or in REVERSE its transpose."""
    if CASE.REVERSE:
        reads = rows[:, None] <= rows[None, :]
        between = sums[None, :] - sums[:, None]
        if CASE.PACKED:
            reads = reads & (start[None, :] <= (rows - origin)[:, None])
    else:
        reads = rows[:, None] >= rows[None, :]
        between = sums[:, None] - sums[None, :]
        if CASE.PACKED:
            reads = reads & (start[:, None] <= (rows - origin)[None, :])
    return tl.exp2(tl.where(reads, between, float("-inf")))
