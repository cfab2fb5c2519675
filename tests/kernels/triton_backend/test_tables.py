"""The tables of the lifetime kernels equal their definition in a few lines of torch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from glm_kernels import parse_pattern
from glm_kernels.patterns import Lifetime
from glm_kernels.triton_backend.common import tables
from glm_kernels.triton_backend.common.tables import (
    FREE,
    FROM_STATE,
    Grid,
    Tables,
    tables_of_bounds,
    tables_of_documents,
    tables_of_rows,
)
from tests.kernels.operands import DEVICE, packed_bounds, packed_starts

GRIDS = [Grid(16, 4, 16), Grid(64, 1, 48)]
PATTERNS = ["window:5", "lattice:2^k", "lattice:k^2+1"]
Span = tuple[int, int]
"""First row, row after the last."""
Document = tuple[int, int, int]
"""The same, and the position at which it goes on."""


def definition(
    pattern: Lifetime,
    documents: list[Document],
    sequences: list[tuple[int, int]],
    segments: int,
    grid: Grid,
) -> Tables:
    """Row by row and chunk by chunk, from the pattern's `last_readers` and `rows_in_slots`."""
    rows = max((end for _, end in sequences), default=0)
    last = torch.full((rows,), -1)
    for first, end, position in documents:
        for row in range(first, end):
            reader = int(pattern.last_readers(4096)[position + row - first])
            last[row] = min(reader - position + first, end - 1)

    occupant = torch.full((segments * grid.chunks + 1, grid.slots), FREE)
    occupant_last = torch.full_like(occupant, -1)
    found: list[tuple[int, int, int, int]] = []
    spans: list[Span] = []
    for sequence, (first, end) in enumerate(sequences):
        count = -(-(end - first) // grid.segment)
        spans.append((len(found), count))
        found += [(first + within * grid.segment, end, within, sequence) for within in range(count)]
    for number, (begin, end, _, _) in enumerate(found):
        for chunk, head in enumerate(range(begin, min(end, begin + grid.segment), grid.chunk)):
            first, behind, position = next(d for d in documents if d[0] <= head < d[1])
            seen = position + head - first
            for slot, held in enumerate(pattern.rows_in_slots(seen).tolist()):
                if held >= 0:
                    row = head - seen + held
                    reader = head - seen + int(pattern.last_readers(4096)[held])
                    occupant[number * grid.chunks + chunk, slot] = row if row >= first else FROM_STATE
                    occupant_last[number * grid.chunks + chunk, slot] = min(reader, behind - 1)
    order = sorted(range(len(found)), key=lambda number: found[number][2:])
    return Tables(last, occupant, occupant_last, torch.tensor(found), torch.tensor(spans), torch.tensor(order))


def check(found: Tables, expected: Tables) -> None:
    """Equal, but for segments without rows: the definition has none, the tables list them last."""
    real = len(expected.order)
    for name in ("last", "occupant", "occupant_last", "sequences"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name).int()), name
    assert torch.equal(found.segments[:real].cpu(), expected.segments.int())
    assert (found.segments[real:, 0] >= found.segments[real:, 1]).all()
    assert torch.equal(found.order[:real].cpu(), expected.order.int())
    assert found.order[real:].tolist() == list(range(real, len(found.order)))


def lifetime(spelling: str) -> Lifetime:
    pattern = parse_pattern(spelling)
    assert isinstance(pattern, Lifetime)
    return pattern


def documents_of_starts(starts: Tensor, initial: list[int]) -> list[Document]:
    batch, length = starts.shape
    documents = []
    for b in range(batch):
        cuts = [*sorted(set(starts[b].tolist())), length]
        documents += [(b * length + a, b * length + z, initial[b] if a == 0 else 0) for a, z in pairwise(cuts)]
    return documents


@pytest.mark.parametrize("spelling", PATTERNS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("positions", [None, [7, 90]])
def test_rows_packed_by_document_starts(spelling, grid, positions):
    pattern, length = lifetime(spelling), 137
    starts = packed_starts(2, length, 5)
    initial = None if positions is None else torch.tensor(positions).to(DEVICE)
    found = tables_of_documents(pattern, starts.to(DEVICE), initial, grid, reach=length + max(positions or [0]))
    documents = documents_of_starts(starts, positions or [0, 0])
    check(found, definition(pattern, documents, [(0, length), (length, 2 * length)], len(found.order), grid))


@pytest.mark.parametrize("spelling", PATTERNS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("continued", [False, True])
def test_rows_packed_by_cu_seqlens(spelling, grid, continued, monkeypatch):
    monkeypatch.setattr(tables, "DOCUMENTS_AT_ONCE", 4)
    pattern, length = lifetime(spelling), 151
    inner = packed_bounds(length, 5)
    bounds = torch.cat([inner[:3], inner[2:], inner[-1:]])  # documents without rows, in between and last
    positions = [(13 * n) % 50 if continued else 0 for n in range(len(bounds) - 1)]
    initial = torch.tensor(positions).to(DEVICE) if continued else None
    found = tables_of_bounds(pattern, bounds.to(DEVICE), length, initial, grid)
    sequences = list(pairwise(bounds.tolist()))
    documents = [(*span, position) for span, position in zip(sequences, positions, strict=True)]
    check(found, definition(pattern, documents, sequences, len(found.order), grid))


@pytest.mark.parametrize("length", [1, 16, 100])
def test_rows_of_one_document(length):
    pattern, grid = lifetime("lattice:2^k"), Grid(16, 2, 16)
    found = tables_of_rows(pattern, 2, length, grid, torch.device(DEVICE))
    sequences = [(0, length), (length, 2 * length)]
    check(found, definition(pattern, [(*span, 0) for span in sequences], sequences, len(found.order), grid))
    assert tables_of_rows(pattern, 2, length, grid, torch.device(DEVICE)) is found
