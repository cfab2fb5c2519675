"""What the lifetime kernels know of patterns and documents: int32 tables, built on the device without a host sync.

Rows of all batch rows are numbered through: row b·T + t. A *sequence* is what the kernels walk through from start to
end: a batch row (which may hold several documents), or one document of `cu_seqlens`. It is cut into *segments* of
`chunks` chunks of `chunk` rows, worked on in parallel; a sequence's segments are numbered one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from glm_kernels.patterns import Lifetime

FREE = -1
"""The occupant of a slot that holds no row."""
FROM_STATE = -2
"""The occupant of a slot whose row came with the initial state; it stands in the same slot there."""


@dataclass(frozen=True)
class Grid:
    """How a sequence is cut: `chunk` rows a chunk, `chunks` chunks a segment; S `slots` (a power of two ≥ 16)."""

    chunk: int
    chunks: int
    slots: int

    @property
    def segment(self) -> int:
        """Rows of a segment."""
        return self.chunk * self.chunks


@dataclass(frozen=True)
class Tables:
    """Every tensor is int32. One spare line stands behind the last chunk."""

    last: Tensor
    """`[B·T]`: the last row that reads each row."""
    occupant: Tensor
    """`[segments·chunks + 1, S]`: the row in each slot when a chunk begins, FREE or FROM_STATE."""
    occupant_last: Tensor
    """`[segments·chunks + 1, S]`: that row's last reader, −1 for a free slot."""
    segments: Tensor
    """`[segments, 4]`: first row, row after the sequence's last, number within the sequence, sequence.

    A segment without rows (first row ≥ end) is there because the host knows only a bound of their number.
    """
    sequences: Tensor
    """`[sequences, 2]`: number of the first segment, how many."""


@dataclass(frozen=True)
class _PatternTables:
    life: Tensor
    """int64 `[horizon]`: how many rows later a position is read for the last time."""
    by_slot: Tensor
    """int64 `[horizon]`, ascending: slot · horizon + position."""


@lru_cache(maxsize=64)
def _pattern_tables(pattern: Lifetime, horizon: int, device: torch.device) -> _PatternTables:
    positions = torch.arange(horizon, device="cpu")
    life = (pattern.last_readers(horizon) - positions).clamp(max=2 * horizon)
    by_slot = (pattern.slots(horizon) * horizon + positions).sort().values
    return _PatternTables(life.to(device), by_slot.to(device))


@lru_cache(maxsize=32)
def tables_of_rows(pattern: Lifetime, batch: int, length: int, grid: Grid, device: torch.device) -> Tables:
    """Tables of batch rows that are one document each. They depend on shapes alone, so they are made once."""
    starts = torch.zeros(batch, length, dtype=torch.int64, device=device)
    return tables_of_documents(pattern, starts, None, grid)


def tables_of_documents(pattern: Lifetime, starts: Tensor, initial: Tensor | None, grid: Grid) -> Tables:
    """Tables of batch rows packed as `starts` int64 `[B, T]` says; each row is a sequence.

    `initial` int64 `[B]`: the position at which the first document of each row goes on.
    """
    batch, length = starts.shape
    rows = torch.arange(batch * length, device=starts.device).view(batch, length)
    begins = rows[:, :1] + starts
    carried = torch.zeros_like(starts) if initial is None else initial.unsqueeze(1).where(starts == 0, 0)
    closes = torch.ones_like(starts, dtype=torch.bool)
    closes[:, :-1] = starts[:, 1:] != starts[:, :-1]
    ends = rows.where(closes, batch * length).flip(1).cummin(1).values.flip(1)
    per_row = -(-length // grid.segment)
    number = torch.arange(batch * per_row, device=starts.device)
    sequence, within = number // per_row, number % per_row
    segments = torch.stack([sequence * length + within * grid.segment, (sequence + 1) * length, within, sequence], 1)
    first = torch.arange(batch, device=starts.device) * per_row
    sequences = torch.stack([first, torch.full_like(first, per_row)], 1)
    begins, ends, carried = begins.flatten(), ends.flatten(), carried.flatten()
    return _tables(pattern, begins, ends, carried, segments, sequences, length, grid, initial)


def tables_of_bounds(pattern: Lifetime, bounds: Tensor, length: int, initial: Tensor | None, grid: Grid) -> Tables:
    """Tables of documents packed in one batch row at `bounds` int64 `[N + 1]`; each document is a sequence."""
    count = len(bounds) - 1
    rows = torch.arange(length, device=bounds.device)
    document = torch.searchsorted(bounds[1:], rows, right=True)
    needed = -(-bounds.diff() // grid.segment)
    first = needed.cumsum(0) - needed
    number = torch.arange(length // grid.segment + count, device=bounds.device)
    sequence = (torch.searchsorted(first + needed, number, right=True)).clamp(max=count - 1)
    within = number - first[sequence]
    segments = torch.stack([bounds[sequence] + within * grid.segment, bounds[sequence + 1], within, sequence], 1)
    carried = torch.zeros_like(rows) if initial is None else initial[document]
    sequences = torch.stack([first, needed], 1)
    ends = bounds[document + 1] - 1
    return _tables(pattern, bounds[document], ends, carried, segments, sequences, length, grid, initial)


def _tables(
    pattern: Lifetime,
    begins: Tensor,
    ends: Tensor,
    carried: Tensor,
    segments: Tensor,
    sequences: Tensor,
    length: int,
    grid: Grid,
    initial: Tensor | None,
) -> Tables:
    """From each row's document (first and last row, position at which it goes on) to the tables."""
    # A state makes documents longer than the rows of this call; how much longer, only the device knows.
    horizon = 1 << (length + (int(initial.max()) if initial is not None else 0)).bit_length()
    known = _pattern_tables(pattern, horizon, begins.device)
    rows = torch.arange(len(begins), device=begins.device)
    last = torch.minimum(rows + known.life[rows - begins + carried], ends)

    chunk = torch.arange(grid.chunks, device=rows.device) * grid.chunk
    heads = (segments[:, :1] + chunk).flatten()
    inside = heads < segments[:, 1:2].expand(-1, grid.chunks).flatten()
    head = heads.clamp(max=len(rows) - 1)
    position = (head - begins[head] + carried[head]).unsqueeze(1)
    slot = torch.arange(grid.slots, device=rows.device) * horizon
    found = torch.searchsorted(known.by_slot, slot + position) - 1
    entry = known.by_slot[found.clamp(min=0)]
    held = entry - slot
    reader = held + known.life[held.clamp(0, horizon - 1)]
    live = (found >= 0) & (held >= 0) & (reader >= position) & inside.unsqueeze(1)
    row = head.unsqueeze(1) - position + held
    occupant = row.where(held >= carried[head].unsqueeze(1), FROM_STATE).where(live, FREE)
    reader = torch.minimum(row - held + reader, ends[head].unsqueeze(1)).where(live, -1)

    def spare(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, 1), value=FREE).int()

    return Tables(last.int(), spare(occupant), spare(reader), segments.int(), sequences.int())
