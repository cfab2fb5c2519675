"""Which rows each chunk of rows reads: inside the chunk as a mask, outside it as lists of row numbers.

The rows that outputs are read from are numbered 0 … E−1: first the slots of the initial state (P of them in each
batch row), then the T rows of this call, so row t is source P + t. A *group* is a run of chunks worked on together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.documents import Documents
from glm_kernels.patterns import Lifetime, Offsets, Pattern


@dataclass(frozen=True)
class GroupSources:
    """What the G chunks of a group read. B' is B, or 1 where all batch rows read alike; C rows a chunk."""

    inside: Tensor
    """bool `[G, B', C, C]`: row i of the chunk reads row j of the chunk."""
    lists: Tensor
    """int64 `[G, B', L, S]`: sources outside the chunk; C/L successive rows share a list."""
    allowed: Tensor
    """bool `[G, B', C, S]`: row i of the chunk reads entry s of its list."""


class Sources(ABC):
    """The reads of all chunks of `chunk` rows; T is a multiple of it (padding rows are read by nothing)."""

    chunk: int
    """C, rows per chunk."""
    prefix: int
    """P, slots of initial state in front of each batch row."""
    lists_per_chunk: int
    """L, how many lists the rows of a chunk have between them."""
    entries: int
    """About how many entries a list has (for choosing how many chunks to work on together)."""

    @abstractmethod
    def group(self, first: int, chunks: int) -> GroupSources:
        """The reads of the chunks first … first + chunks − 1."""


class LifetimeSources(Sources):
    """Each source is read from row `first` to row `last`; the rows of a chunk share the list of live sources."""

    def __init__(
        self, pattern: Lifetime, documents: Documents, positions: Tensor, initial: Tensor, prefix: int, chunk: int
    ) -> None:
        batch, length = positions.shape
        self.chunk, self.prefix = chunk, prefix
        horizon = 1 << (length + int(initial.max())).bit_length()
        last_readers = pattern.last_readers(horizon).to(positions.device)
        rows = torch.arange(length, device=positions.device)
        last = torch.minimum(rows + last_readers[positions] - positions, documents.ends)
        first = (rows + 1).expand(batch, length)
        if prefix:
            prefix_first, prefix_last = _state_rows(pattern, documents, initial, prefix // (len(initial) // batch))
            first = torch.cat([prefix_first.reshape(batch, prefix), first], 1)
            last = torch.cat([prefix_last.reshape(batch, prefix), last], 1)
        elif bool((last == last[:1]).all()):
            first, last = first[:1], last[:1]
        short = -length % chunk
        self.first, self.last = pad(first, (0, short)), pad(last, (0, short), value=-1)
        self.lists_per_chunk, self.entries = 1, prefix + min(int(pattern.read_counts(length).max()), length)

    def group(self, first: int, chunks: int) -> GroupSources:
        rows = torch.arange(first * self.chunk, (first + chunks) * self.chunk, device=self.first.device)
        rows = rows.view(chunks, 1, self.chunk, 1)
        lists, listed = self._live_before(first, chunks)
        batch = torch.arange(len(self.first), device=rows.device).view(1, -1, 1)
        begins, ends = self.first[batch, lists], self.last[batch, lists]
        allowed = listed.unsqueeze(2) & (begins.unsqueeze(2) <= rows) & (rows <= ends.unsqueeze(2))

        own = slice(self.prefix + first * self.chunk, self.prefix + (first + chunks) * self.chunk)
        ends = self.last[:, own].view(-1, chunks, 1, self.chunk).transpose(0, 1)
        inside = (rows <= ends).tril(-1)
        return GroupSources(inside, lists.unsqueeze(2), allowed)

    def _live_before(self, first: int, chunks: int) -> tuple[Tensor, Tensor]:
        """Sources `[G, B', S]` before each chunk that one of its rows reads, ascending, and which entries are real."""
        batch, sources = self.first.shape
        source = torch.arange(sources, device=self.first.device)
        own_chunk = (source - self.prefix).div(self.chunk, rounding_mode="floor").clamp_(min=-1)
        # A source is listed by the chunks from `begin` to `end`, those after its own that its readers fall in.
        begin = torch.maximum(own_chunk + 1, self.first // self.chunk).clamp(min=first)
        end = self.last.div(self.chunk, rounding_mode="floor").clamp(max=first + chunks - 1)
        b, s = (begin <= end).nonzero(as_tuple=True)
        begin, times = begin[b, s], (end - begin + 1)[b, s]
        entry = torch.arange(len(b), device=b.device).repeat_interleave(times)
        step = torch.arange(len(entry), device=b.device) - (times.cumsum(0) - times)[entry]
        list_id = (begin[entry] + step - first) * batch + b[entry]
        list_id, order = list_id.sort(stable=True)
        counts = torch.bincount(list_id, minlength=chunks * batch)
        place = torch.arange(len(list_id), device=b.device) - (counts.cumsum(0) - counts)[list_id]
        longest = int(counts.max()) if len(list_id) else 0
        lists = torch.zeros(chunks * batch, longest, dtype=torch.int64, device=b.device)
        listed = torch.zeros(chunks * batch, longest, dtype=torch.bool, device=b.device)
        lists[list_id, place] = s[entry[order]]
        listed[list_id, place] = True
        return lists.view(chunks, batch, longest), listed.view(chunks, batch, longest)


class OffsetSources(Sources):
    """Every row has a list of its own: i − f(k) for the distances that leave the chunk."""

    def __init__(
        self, pattern: Offsets, documents: Documents, positions: Tensor, initial: Tensor, prefix: int, chunk: int
    ) -> None:
        batch, length = positions.shape
        self.chunk, self.prefix = chunk, prefix
        self.offsets = pattern.offsets(int(positions.max()) + 1 if length else 1).to(positions.device)
        self.lists_per_chunk, self.entries = chunk, len(self.offsets)
        starts = documents.starts
        # The slots of a carried document stand in order of position, from `slot_base` on.
        per_row = len(initial) // batch
        slot_base = documents.carried.clamp(min=0) % per_row * (prefix // per_row)
        if not prefix and bool((starts == starts[:1]).all()):
            starts, positions, slot_base = starts[:1], positions[:1], slot_base[:1]
        short = -length % chunk
        self.starts, self.slot_base = pad(starts, (0, short)), pad(slot_base, (0, short))
        self.positions = pad(positions, (0, short), value=-1)

    def group(self, first: int, chunks: int) -> GroupSources:
        span = slice(first * self.chunk, (first + chunks) * self.chunk)
        rows = torch.arange(span.start, span.stop, device=self.starts.device).view(1, -1, 1)
        starts, positions, slot_base = (x[:, span].unsqueeze(2) for x in (self.starts, self.positions, self.slot_base))
        target = rows - self.offsets
        reads = positions >= self.offsets
        in_chunk = target >= rows - rows % self.chunk
        carried = target < starts
        lists = torch.where(carried, slot_base + positions - self.offsets, self.prefix + target)
        outside = reads & (carried | ~in_chunk)

        inside = torch.zeros(*reads.shape[:2], self.chunk, dtype=torch.bool, device=reads.device)
        b, row, offset = (reads & ~carried & in_chunk).nonzero(as_tuple=True)
        inside[b, row, row % self.chunk - self.offsets[offset]] = True

        def by_chunk(x: Tensor) -> Tensor:
            return x.view(len(x), chunks, self.chunk, -1).transpose(0, 1)

        return GroupSources(by_chunk(inside), by_chunk(lists.where(outside, 0)), by_chunk(outside))


def _state_rows(pattern: Lifetime, documents: Documents, initial: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """First and last reader `[N, slots]`, as rows of this call, of the initial state's slots; −1 for free ones."""
    last = initial.new_full((len(initial), slots), -1)
    for n, position in enumerate(initial.tolist()):
        held = pattern.rows_in_slots(position).to(initial.device)
        horizon = 1 << (position + int(documents.exit[n] - documents.entry[n])).bit_length()
        last_readers = pattern.last_readers(horizon).to(initial.device)
        reader = last_readers[held] - position + documents.entry[n]
        last[n, : len(held)] = reader.where(held >= 0, -1)
    document_end = _first_document_ends(documents)
    return documents.entry.unsqueeze(1).expand_as(last), torch.minimum(last, document_end.unsqueeze(1))


def _first_document_ends(documents: Documents) -> Tensor:
    """int64 `[N]`: the last row of each carried document that continues an initial state, entry − 1 if it is empty."""
    ends = documents.entry - 1
    b, t = (documents.carried >= 0).nonzero(as_tuple=True)
    return ends.scatter_reduce(0, documents.carried[b, t], t, "amax")


def sources_of(
    pattern: Pattern, documents: Documents, positions: Tensor, initial: Tensor, prefix: int, chunk: int
) -> Sources:
    """The reads of `pattern` in `documents`; `positions [B, T]` in the document, `initial [N]` on entry, P slots."""
    if isinstance(pattern, Lifetime):
        return LifetimeSources(pattern, documents, positions, initial, prefix, chunk)
    assert isinstance(pattern, Offsets)
    return OffsetSources(pattern, documents, positions, initial, prefix, chunk)
