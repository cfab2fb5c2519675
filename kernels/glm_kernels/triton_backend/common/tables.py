"""What the lifetime kernels know of patterns and documents: int32 tables, built on the device without a host sync.

Rows of all batch rows are numbered through: row b·T + t. A *sequence* is what the kernels walk through from start to
end: a batch row (which may hold several documents), or one document of `cu_seqlens`. It is cut into *segments* of
`chunks` chunks of `chunk` rows, worked on in parallel; a sequence's segments are numbered one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from glm_kernels.device_cache import kept_on_device
from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.patterns import Lifetime
from glm_kernels.patterns.slots import horizon, period, slot_tables
from glm_kernels.triton_backend.common.table_pass import BOUNDS, STARTS, WHOLE_ROWS, table_pass

FREE = -1
"""The occupant of a slot that holds no row."""
FROM_STATE = -2
"""The occupant of a slot whose row came with the initial state; it stands in the same slot there."""
DOCUMENTS_AT_ONCE = 1024
"""Documents of cu_seqlens that a program looks at together, to find its own among them."""


@dataclass(frozen=True)
class Grid:
    """How a sequence is cut: `chunk` rows a chunk, `chunks` chunks a segment (powers of two); S `slots`."""

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
    order: Tensor
    """`[segments]`: segments by their number within the sequence, then by sequence; those without rows last."""


def tables_of(call: RecurrenceCall, grid: Grid) -> Tables:
    """The tables of a call's tokens, whatever says where its documents lie. Never waits for the device."""
    assert isinstance(call.pattern, Lifetime)
    batch, length = call.q.shape[:2]
    initial = None if call.state is None else call.state.position
    if call.cu_seqlens is not None:
        return tables_of_bounds(call.pattern, call.cu_seqlens, length, initial, grid, call.reach)
    if call.document_starts is None and initial is None:
        return tables_of_rows(call.pattern, batch, length, grid, call.q.device)
    starts = call.document_starts
    starts = torch.zeros(batch, length, dtype=torch.int32, device=call.q.device) if starts is None else starts
    return tables_of_documents(call.pattern, starts, initial, grid, call.reach)


@kept_on_device(32)
def tables_of_rows(pattern: Lifetime, batch: int, length: int, grid: Grid, device: torch.device) -> Tables:
    """Tables of batch rows that are one document each. They depend on shapes alone, so they are made once."""
    return _tables(pattern, WHOLE_ROWS, None, (batch, length), batch, None, length, grid, device)


def tables_of_documents(
    pattern: Lifetime, starts: Tensor, initial: Tensor | None, grid: Grid, reach: int | None = None
) -> Tables:
    """Tables of batch rows packed as `starts [B, T]`, of any integer type, says; each row is a sequence.

    `initial [B]`: the position at which the first document of each row goes on. `reach`: a bound of the tokens of
    every document, what a state saw included; without it the host asks the device. What `starts` says is checked on
    the device: wrong starts end the program with an assertion. Nothing is remembered: a tensor that something else
    than torch has written to looks unchanged.
    """
    batch, length = starts.shape
    return _tables(pattern, STARTS, starts, (batch, length), batch, initial, reach, grid, starts.device)


def tables_of_bounds(
    pattern: Lifetime, bounds: Tensor, length: int, initial: Tensor | None, grid: Grid, reach: int | None = None
) -> Tables:  # fmt: skip
    """Tables of documents packed in one batch row at `bounds [N + 1]`, of any integer type; each is a sequence.

    `initial [N]`: the position at which each goes on. The rest is as in `tables_of_documents`.
    """
    return _tables(pattern, BOUNDS, bounds, (1, length), len(bounds) - 1, initial, reach, grid, bounds.device)


def _tables(
    pattern: Lifetime,
    packed_as: tl.constexpr,
    packing: Tensor | None,
    shape: tuple[int, int],
    sequences: int,
    initial: Tensor | None,
    reach: int | None,
    grid: Grid,
    device: torch.device,
) -> Tables:
    batch, length = shape
    if reach is None:
        reach = length + (int(initial.max()) if initial is not None else 0)
    # Of segments of documents the host knows only how many they are at most.
    by_rows = packed_as != BOUNDS
    segments = batch * triton.cdiv(length, grid.segment) if by_rows else length // grid.segment + sequences
    size = horizon(pattern, reach)
    known = slot_tables(pattern, size, device)

    padded = triton.next_power_of_2(grid.slots)
    lines = (segments * grid.chunks + 1, grid.slots)
    tables = Tables(*_allocated([(batch * length,), lines, lines, (segments, 4), (sequences, 2), (segments,)], device))
    documents = min(DOCUMENTS_AT_ONCE, triton.next_power_of_2(sequences))
    table_pass[(segments + 1,)](
        tables.last, tables.occupant, tables.occupant_last, tables.segments, tables.sequences, tables.order,
        tables.last if packing is None else packing.contiguous(), tables.last if initial is None else initial,
        known.life, known.by_slot, known.first,
        length, sequences, segments, len(known.first) - 1, period(pattern), size,
        C=grid.chunk, CHUNKS=grid.chunks, S=grid.slots, S2=padded,
        PACKING=packed_as.value, CARRIED=initial is not None, ROW_STEPS=length.bit_length(),
        SLOT_STEPS=known.search_steps, BLOCKS=triton.cdiv(sequences, documents), N=documents,
        # Assertions on the device are part of debugging only, and so are checks of every sum for overflow.
        num_warps=4 if grid.chunks * padded <= 1024 else 8, debug=True, sanitize_overflow=False,
    )  # fmt: skip
    return tables


def _allocated(shapes: list[tuple[int, ...]], device: torch.device) -> list[Tensor]:
    """int32 tensors, each at a multiple of 16 bytes, in one allocation: many take the host longer than a launch."""
    room = [-(-math.prod(shape) // 4) * 4 for shape in shapes]
    memory = torch.empty(sum(room), dtype=torch.int32, device=device)
    begins = accumulate(room, initial=0)
    return [memory.as_strided(shape, (*shape[1:], 1), at) for shape, at in zip(shapes, begins, strict=False)]
