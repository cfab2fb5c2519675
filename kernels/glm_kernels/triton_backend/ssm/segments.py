"""How the SSM's sequences are cut into segments, worked on in parallel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from glm_kernels.device_cache import kept_on_device

_PROGRAMS = 512
"""Enough to fill a GPU: with more sequences and heads, segments become longer."""


@dataclass(frozen=True)
class Segments:
    """How sequences are cut: segments of `rows` rows, worked on in parallel.

    table int32 `[segments, 4]`: first row, sequence (−1: no rows, the segment is not needed), and the sequence's first
    row and the row after its last. Rows of all batch rows are numbered through. first int32 `[sequences + 1]`: the
    number of each sequence's first segment.
    """

    rows: int
    table: Tensor
    first: Tensor

    @property
    def count(self) -> int:
        """How many segments, those without tokens included."""
        return len(self.table)

    @property
    def sequences(self) -> int:
        """How many sequences."""
        return len(self.first) - 1

    @property
    def many(self) -> bool:
        """Whether a sequence may have several."""
        return self.count > self.sequences


def segment_rows(total_rows: int, programs: int) -> int:
    """Rows of a segment, a power of two: as many as leave enough programs where every segment needs `programs`."""
    return min(2048, max(256, triton.next_power_of_2(total_rows * programs // _PROGRAMS)))


@kept_on_device(32)
def segments_of_rows(batch: int, length: int, rows: int, device: torch.device) -> Segments:
    """Every batch row is a sequence. Segments follow from shapes alone and are kept."""
    each = max(1, triton.cdiv(length, rows))
    sequence = torch.arange(batch).repeat_interleave(each)
    origin = sequence * length
    begin = origin + torch.arange(each).repeat(batch) * rows
    table = torch.stack([begin, sequence, origin, origin + length], 1)
    return Segments(rows, *(x.to(device, torch.int32) for x in (table, torch.arange(batch + 1) * each)))


def segments_of_documents(bounds: Tensor, length: int, rows: int) -> Segments:
    """Every document of cu_seqlens is a sequence. The host knows only a bound of the number of segments."""
    bounds = bounds.long()
    each = ((bounds.diff() + rows - 1) // rows).clamp(min=1)  # one even without rows: states pass through it
    first = torch.nn.functional.pad(each.cumsum(0), (1, 0))
    segment = torch.arange(len(each) + length // rows, device=bounds.device)
    found = torch.searchsorted(first, segment, right=True) - 1
    there = found < len(each)
    sequence = found.clamp(max=len(each) - 1)
    begin = bounds[sequence] + (segment - first[sequence]) * rows
    table = torch.stack([begin, sequence, bounds[sequence], bounds[sequence + 1]], 1)
    table = torch.where(there.unsqueeze(1), table, table.new_tensor([0, -1, 0, 0]))
    return Segments(rows, table.int(), first.int())
