"""The kernel that builds `Tables`: one launch for any packing, a program for every segment.

A program finds its segment among the documents, the last reader of each row, and which row stands in each slot when
each chunk begins: the last one, of all that the slot ever holds, before that position, if it still lives.
"""

from __future__ import annotations

import triton
import triton.language as tl

WHOLE_ROWS = tl.constexpr(0)
"""Every batch row is one document."""
STARTS = tl.constexpr(1)
"""`packing [B, T]` is document_starts."""
BOUNDS = tl.constexpr(2)
"""`packing [documents + 1]` is cu_seqlens; B = 1."""


@triton.jit
def table_pass(
    last, occupant, occupant_last, segments, sequences, order, packing, initial, life, by_slot, first,
    length, count, programs, known_slots, period, horizon,
    C: tl.constexpr, CHUNKS: tl.constexpr, S: tl.constexpr, S2: tl.constexpr, PACKING: tl.constexpr,
    CARRIED: tl.constexpr, ROW_STEPS: tl.constexpr, SLOT_STEPS: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Grid (segments + 1): the last program writes the spare line, and the sequences of documents.

    `length` is T, `count` sequences, `programs` segments. life `[horizon]`, by_slot `[horizon]` and first
    `[known_slots + 1]` are `SlotTables`, positions beyond 2·`period` folded. BLOCKS · N ≥ documents of BOUNDS.
    """
    segment = tl.program_id(0)
    s = tl.arange(0, S2)
    if segment == programs:
        spare = (segment * CHUNKS).to(tl.int64) * S + s
        tl.store(occupant + spare, tl.full((S2,), -1, tl.int32), mask=s < S)
        tl.store(occupant_last + spare, tl.full((S2,), -1, tl.int32), mask=s < S)
        _write_sequences(sequences, packing, length, count, programs, C * CHUNKS, PACKING, BLOCKS, N)
        return
    if PACKING == BOUNDS:
        begin, opens, end, within, sequence = _segment_of_bounds(segment, packing, count, C * CHUNKS, BLOCKS, N)
        place = _place_in_order(segment, begin < end, within, sequence, packing, count, C * CHUNKS, BLOCKS, N)
    else:
        per_row = programs // count
        sequence, within = segment // per_row, segment % per_row
        opens, end = sequence * length, (sequence + 1) * length
        begin = opens + within * (C * CHUNKS)
        place = within * count + sequence
    tl.store(order + place, segment)
    tl.store(segments + segment * 4, begin)
    tl.store(segments + segment * 4 + 1, end)
    tl.store(segments + segment * 4 + 2, within)
    tl.store(segments + segment * 4 + 3, sequence)
    entered = 0
    if CARRIED:
        entered = tl.load(initial + sequence).to(tl.int32)

    rows = begin + tl.arange(0, C * CHUNKS)
    document, document_end = _documents(rows, opens, end, packing, length, PACKING, ROW_STEPS, True)
    position = _position(rows, document, opens, entered, period)
    tl.device_assert((position < horizon) | (rows >= end), "a document is longer than its state's room")
    lives = tl.load(life + position, mask=rows < end, other=0)
    tl.store(last + rows, rows + tl.minimum(lives, document_end - 1 - rows), mask=rows < end)

    chunk = tl.arange(0, CHUNKS)
    heads = begin + chunk * C
    inside = heads < end
    document, document_end = _documents(heads, opens, end, packing, length, PACKING, ROW_STEPS, False)
    position = _position(heads, document, opens, entered, period)
    low = tl.load(first + s, mask=s < known_slots, other=0)[None, :] + tl.zeros((CHUNKS, 1), tl.int32)
    high = tl.load(first + s + 1, mask=s < known_slots, other=0)[None, :] + tl.zeros((CHUNKS, 1), tl.int32)
    bottom = low
    for _ in tl.static_range(SLOT_STEPS):
        middle = (low + high) // 2
        unsure = low < high
        before = tl.load(by_slot + middle, mask=unsure, other=0) < position[:, None]
        low, high = tl.where(unsure & before, middle + 1, low), tl.where(unsure & (before == 0), middle, high)
    found = (low > bottom) & inside[:, None]
    held = tl.load(by_slot + low - 1, mask=found, other=0)
    remains = held + tl.load(life + held, mask=found, other=0) - position[:, None]
    live = found & (remains >= 0)
    row = heads[:, None] - (position[:, None] - held)
    reader = tl.minimum(heads[:, None] + remains, document_end[:, None] - 1)
    at = (segment.to(tl.int64) * CHUNKS + chunk)[:, None] * S + s[None, :]
    stored = (s < S)[None, :] & (chunk >= 0)[:, None]
    tl.store(occupant + at, tl.where(live, tl.where(row >= document[:, None], row, -2), -1), mask=stored)
    tl.store(occupant_last + at, tl.where(live, reader, -1), mask=stored)


@triton.jit
def _documents(
    rows, opens, end, packing, length, PACKING: tl.constexpr, STEPS: tl.constexpr, CHECK: tl.constexpr
):  # fmt: skip
    """First row, and row after the last, of each row's document. `opens`, `end`: those of the sequence."""
    document = opens + rows * 0
    document_end = end + rows * 0
    if PACKING == STARTS:
        inside = rows < end
        start = tl.load(packing + rows, mask=inside, other=0).to(tl.int32)
        if CHECK:
            token = rows - opens
            before = tl.load(packing + rows - 1, mask=inside & (token > 0), other=0).to(tl.int32)
            tl.device_assert(
                (start == token) | (start == before) & (token > 0) | (rows >= end),
                "document_starts: a token either starts a document (its own row number) or has the start of the "
                "token before it",
            )
        document = opens + start
        # Starts do not decrease: the document ends before the first row whose start is greater.
        low, high = tl.minimum(rows + 1, end), document_end
        for _ in tl.static_range(STEPS):
            middle = (low + high) // 2
            unsure = low < high
            same = tl.load(packing + middle, mask=unsure, other=0).to(tl.int32) <= start
            low, high = tl.where(unsure & same, middle + 1, low), tl.where(unsure & (same == 0), middle, high)
        document_end = low
    return document, document_end


@triton.jit
def _position(rows, document, opens, entered, period):
    """The position of rows in their documents, of which the sequence's first one goes on from `entered`, folded."""
    position = rows - document + tl.where(document == opens, entered, 0)
    if period > 0:
        position = tl.where(position >= 2 * period, period + position % period, position)
    return position


@triton.jit
def _segments_needed(packing, block, count, SEGMENT: tl.constexpr, N: tl.constexpr):
    """How many segments each document of a block of N has."""
    n = block * N + tl.arange(0, N)
    opens = tl.load(packing + n, mask=n < count, other=0).to(tl.int32)
    end = tl.load(packing + n + 1, mask=n < count, other=0).to(tl.int32)
    tl.device_assert(opens <= end, "cu_seqlens must not decrease")
    return tl.cdiv(end - opens, SEGMENT)


@triton.jit
def _segment_of_bounds(segment, packing, count, SEGMENT: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr):
    """First row of a segment, its document's first row and the row after its last, number within it, document."""
    total, sequence, ahead = 0, 0, 0
    for block in range(BLOCKS):
        needed = _segments_needed(packing, block, count, SEGMENT, N)
        through = total + tl.cumsum(needed, 0)
        passed = (through <= segment) & (block * N + tl.arange(0, N) < count)
        sequence += tl.sum(passed.to(tl.int32), 0)
        ahead += tl.sum(tl.where(passed, needed, 0), 0)
        total += tl.sum(needed, 0)
    if sequence == count:
        # A segment too many: it stands behind the end of the last document.
        sequence = count - 1
        ahead -= tl.cdiv(tl.load(packing + count).to(tl.int32) - tl.load(packing + sequence).to(tl.int32), SEGMENT)
    opens = tl.load(packing + sequence).to(tl.int32)
    end = tl.load(packing + sequence + 1).to(tl.int32)
    within = segment - ahead
    return opens + within * SEGMENT, opens, end, within, sequence


@triton.jit
def _place_in_order(
    segment, exists, within, sequence, packing, count, SEGMENT: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """How many segments come before one by (number within its sequence, sequence); those too many come last."""
    place = 0
    for block in range(BLOCKS):
        needed = _segments_needed(packing, block, count, SEGMENT, N)
        also = (needed > within) & (block * N + tl.arange(0, N) < sequence)
        place += tl.sum(tl.minimum(needed, within) + also.to(tl.int32), 0)
    return tl.where(exists, place, segment)


@triton.jit
def _write_sequences(
    sequences, packing, length, count, programs, SEGMENT: tl.constexpr,
    PACKING: tl.constexpr, BLOCKS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The number of each sequence's first segment, and how many it has."""
    total = 0
    for block in range(BLOCKS):
        n = block * N + tl.arange(0, N)
        if PACKING == BOUNDS:
            needed = _segments_needed(packing, block, count, SEGMENT, N)
            ahead = total + tl.cumsum(needed, 0) - needed
            total += tl.sum(needed, 0)
        else:
            needed = programs // count + n * 0
            ahead = n * needed
        tl.store(sequences + n * 2, ahead, mask=n < count)
        tl.store(sequences + n * 2 + 1, needed, mask=n < count)
    if PACKING == BOUNDS:
        tl.device_assert(tl.load(packing).to(tl.int32) == 0, "cu_seqlens must start at 0")
        tl.device_assert(tl.load(packing + count).to(tl.int32) == length, "cu_seqlens must end at T")
