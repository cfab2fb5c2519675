"""Key gradients that rows receive from later pieces of their sequence.

The passes that take gradients cut sequences into *pieces* and work on these in parallel: the segments of
`segmented`, the runs of chunks of `chained`. What the rows of a piece give to the keys of rows before it is summed up
in the slots that these stand in when the piece begins, one tensor entry for every piece; here it is collected.
"""

from __future__ import annotations

import triton
import triton.language as tl

from glm_kernels.triton_backend.common.tiles import segment_at


@triton.jit
def piece_of(segments, p, C: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, BY_ROW: tl.constexpr):
    """Of the piece that begins with segment p: first row, the sequence's end, sequence, its entry in `late`, whether it
    is the sequence's first, and whether there is such a piece.

    A segment is LINES chunks of C rows, a piece RUN segments; segments that begin no piece are passed over. Entries of
    a sequence's pieces follow one another. Those of runs are numbered by the row at which a run begins and by a number
    that grows from sequence to sequence; with BY_ROW this number is that of the row at which the sequence begins, which
    serves if only sequences longer than two segments need entries.
    """
    begin, end, within, sequence = segment_at(segments, p)
    entry = p
    if RUN > 1:
        rows: tl.constexpr = C * LINES
        entry = begin // (rows * RUN) + ((begin - within * rows) // (2 * rows + 1) if BY_ROW else sequence)
    return begin, end, sequence, entry, within == 0, (begin < end) & (within % RUN == 0)


@triton.jit
def late_key_pass(
    dk, dstate_k, late, occupant, segments, H,
    C: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, BY_ROW: tl.constexpr, RECENT: tl.constexpr,
    TILE: tl.constexpr, SLOTS: tl.constexpr, STATE_SLOTS: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    """Grid (segments, H, SLOTS / TILE): adds to dk `[rows, H, K]` of a piece's rows what later pieces gave; in a fixed
    order. late fp32 `[entries, H, SLOTS, K]`.

    RECENT: how many rows before a piece are given to by its first chunk in another way; for these an entry counts only
    if they are still live in the second chunk. The first piece of a sequence also collects the key gradients
    `[sequences, H, STATE_SLOTS, K]` of the state.
    """
    p, h, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2) * TILE + tl.arange(0, TILE)
    begin, end, sequence, entry, is_first, exists = piece_of(segments, p, C, LINES, RUN, BY_ROW)
    if exists:
        kk = tl.arange(0, K2)
        in_k = (kk < K)[None, :]
        line = occupant + (p * LINES).to(tl.int64) * SLOTS + slot
        entries = late + (entry.to(tl.int64) * H + h) * SLOTS * K + slot[:, None] * K + kk[None, :]
        behind = begin + C * LINES * RUN
        if behind < end:
            later = line + RUN * LINES * SLOTS
            held = tl.load(later)
            mine = (held >= begin) & (held < behind)
            if tl.max(mine.to(tl.int32), 0) > 0:
                total = _given(
                    held, mine, entries + H * SLOTS * K, later, behind, end, H,
                    C, LINES, RUN, RECENT, TILE, SLOTS, K, K2,
                )  # fmt: skip
                at = (held.to(tl.int64) * H + h)[:, None] * K + kk[None, :]
                own = tl.load(dk + at, mask=mine[:, None] & in_k, other=0.0).to(tl.float32)
                tl.store(dk + at, (own + total).to(dk.dtype.element_ty), mask=mine[:, None] & in_k)
        if STATE_SLOTS > 0:  # noqa: SIM102 - decided by the compiler; the one inside on the device
            if is_first:
                held = tl.load(line)
                total = _given(held, held == -2, entries, line, begin, end, H, C, LINES, RUN, 0, TILE, SLOTS, K, K2)
                at = ((sequence.to(tl.int64) * H + h) * STATE_SLOTS + slot)[:, None] * K + kk[None, :]
                tl.store(dstate_k + at, total, mask=(slot < STATE_SLOTS)[:, None] & in_k)


@triton.jit
def _given(
    held, wanted, entries, line, begin, end, H,
    C: tl.constexpr, LINES: tl.constexpr, RUN: tl.constexpr, RECENT: tl.constexpr,
    TILE: tl.constexpr, SLOTS: tl.constexpr, K: tl.constexpr, K2: tl.constexpr,
):  # fmt: skip
    """What pieces from row `begin` on gave to the `wanted` slots, while these hold `held`."""
    in_k = (tl.arange(0, K2) < K)[None, :]
    total = tl.zeros((TILE, K2), tl.float32)
    given = wanted
    if RECENT > 0:
        given = given & ((held < begin - RECENT) | (tl.load(line + SLOTS) == held))
    while (begin < end) & (tl.max(wanted.to(tl.int32), 0) > 0):
        total += tl.load(entries, mask=given[:, None] & in_k, other=0.0)
        begin += C * LINES * RUN
        line += RUN * LINES * SLOTS
        entries += H * SLOTS * K
        wanted = wanted & (tl.load(line, mask=(held != -1) & (begin < end), other=-1) == held)
        given = wanted
    return total
