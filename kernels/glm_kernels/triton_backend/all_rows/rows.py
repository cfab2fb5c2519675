"""Rows of a dense or offset recurrence as its kernels know them: without states, in batch rows of documents.

An initial state is rows like others: its k and y stand before the call's rows as keys and inputs of one-row documents,
whose output is their input. So kernels know nothing of it, and its gradients are those of the rows. Every document of
cu_seqlens then gets a region of its own, of whole chunks, so that a chunk's first row is the first to be read by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from glm_kernels.kernel_interface import RecurrenceCall
from glm_kernels.state import RecurrenceState


@dataclass(frozen=True)
class PackedRows:
    """int32 `[B, L]`, where each row's document starts, and `[B, chunks]`, the row after a chunk's last reader."""

    starts: Tensor
    ends: Tensor


def shape_of(call: RecurrenceCall, chunk: int) -> tuple[int, int]:
    """(B, L) of the kernels' rows; follows from shapes alone."""
    batch, length = call.q.shape[:2]
    before = _before(call.state, chunk)
    if call.cu_seqlens is None or call.state is None:
        return batch, before + length
    documents = len(call.state.position)
    return 1, documents * before + (length + documents * (chunk - 1)) // chunk * chunk


def rows_of(call: RecurrenceCall, chunk: int) -> Rows:
    """Never waits for the device."""
    starts = call.document_starts
    if call.state is not None:
        return _in_regions(call, call.state, chunk) if call.cu_seqlens is not None else _behind(call, call.state, chunk)
    if call.cu_seqlens is not None:
        rows = torch.arange(call.q.shape[1], device=call.q.device)
        starts = call.cu_seqlens[torch.searchsorted(call.cu_seqlens[1:], rows, right=True)].unsqueeze(0)
    return Rows(call, None if starts is None else PackedRows(starts.int().contiguous(), _ends(starts, chunk, 0)), None)


@dataclass(frozen=True)
class Placement:
    """Where the rows of a call, and those of its state, stand among the kernels' rows.

    Places of all their B rows are numbered through. Every tensor is int64; −1 stands for none.
    """

    row: Tensor
    """`[B, L]`: the call's row at each place, numbered through its batch."""
    slot: Tensor
    """`[B, L]`: the state's slot at each place, numbered through its documents."""
    place: Tensor
    """`[B · T]` of the call: the place of each row."""
    slot_place: Tensor
    """`[N, S]`: the place of each slot of the state."""


@dataclass(frozen=True)
class Rows:
    """A call's rows as the kernels take them."""

    call: RecurrenceCall
    packed: PackedRows | None
    placement: Placement | None

    @cached_property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v and d `[B, L, H, ·]`. A state's keys are rounded to k's dtype; for its outputs v is in float32."""
        call = self.call
        if call.state is None:
            return call.q, call.k, call.v, call.d
        v = self._placed(call.v.float(), call.state.y)
        return self._placed(call.q), self._placed(call.k, call.state.k), v, self._placed(call.d)

    def gradient(self, grad: Tensor) -> Tensor:
        """The gradient of y as one of all rows: none of the state's."""
        return grad if self.placement is None else self._placed(grad)

    def own(self, x: Tensor) -> Tensor:
        """The call's rows `[B, T, H, ·]` of a tensor of all."""
        if self.placement is None:
            return x
        return x.flatten(0, 1)[self.placement.place].unflatten(0, self.call.q.shape[:2])

    def slots(self, x: Tensor) -> Tensor:
        """The state's rows `[N, H, S, ·]` of a tensor of all, in float32; zeros in slots that hold none."""
        assert self.placement is not None
        place = self.placement.slot_place
        found = x.flatten(0, 1)[place.clamp(min=0)].float()
        return found.masked_fill((place < 0)[:, :, None, None], 0).transpose(1, 2).contiguous()

    def _placed(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """x `[B, T, H, ·]` of the call, and `kept [N, H, S, ·]` of its state, at their places; zeros elsewhere."""
        assert self.placement is not None
        row, slot = self.placement.row, self.placement.slot
        wide = (..., *[None] * (x.ndim - 2))
        placed = x.flatten(0, 1)[row.clamp(min=0)].masked_fill((row < 0)[wide], 0)
        if kept is not None and kept.shape[2] > 0:
            of_state = kept.transpose(1, 2).flatten(0, 1)[slot.clamp(min=0)].to(x.dtype)
            placed = torch.where((slot >= 0)[wide], of_state, placed)
        return placed


def _before(state: RecurrenceState | None, chunk: int) -> int:
    """Places for a state's slots: whole chunks."""
    return 0 if state is None else -(-state.k.shape[2] // chunk) * chunk


def _ends(starts: Tensor, chunk: int, before: int) -> Tensor:
    """int32 `[B, chunks]`: the place after the last reader of each chunk's last place, from ascending starts.

    The first `before` places, whose starts do not ascend, read nothing.
    """
    batch, length = starts.shape
    last = torch.arange(chunk, length + chunk, chunk, device=starts.device, dtype=starts.dtype).clamp(max=length) - 1
    ends = torch.searchsorted(starts[:, before:].contiguous(), last.expand(batch, -1).contiguous(), right=True)
    return (ends + before).int()


def _behind(call: RecurrenceCall, state: RecurrenceState, chunk: int) -> Rows:
    """Each batch row behind the slots of its state, which the first document reads: they stand last before it."""
    (batch, length), before, slots = call.q.shape[:2], _before(state, chunk), state.k.shape[2]
    place = torch.arange(before + length, device=call.q.device).expand(batch, -1)
    document, position = torch.arange(batch, device=call.q.device).unsqueeze(1), state.position.unsqueeze(1)
    begin = before - position
    own = torch.zeros(batch, length, device=call.q.device) if call.document_starts is None else call.document_starts
    starts = torch.cat([place[:, :before], torch.where(own == 0, begin, own.long() + before)], 1)
    row = (place - before + document * length).where(place >= before, -1)
    slot = (place - begin + document * slots).where((place < before) & (place >= begin), -1)
    return _placed(call, state, starts, _ends(starts, chunk, before), row, slot, document * place.shape[1] + begin)


def _in_regions(call: RecurrenceCall, state: RecurrenceState, chunk: int) -> Rows:
    """The documents of cu_seqlens one behind the other, each behind the slots of its state, in whole chunks."""
    assert call.cu_seqlens is not None
    before, slots, (_, total) = _before(state, chunk), state.k.shape[2], shape_of(call, chunk)
    bounds = call.cu_seqlens.long()
    lengths = bounds.diff()
    region = torch.nn.functional.pad((before + (lengths + chunk - 1) // chunk * chunk).cumsum(0), (1, 0))
    place = torch.arange(total, device=bounds.device).unsqueeze(0)
    # Behind the last region there may be places for nothing, which are counted to the last document.
    document = torch.searchsorted(region[1:-1], place, right=True)
    within, position = place - region[document], state.position[document]
    is_row = (within >= before) & (within < before + lengths[document])
    starts = torch.where(is_row, region[document] + before - position, place)
    row = (bounds[document] + within - before).where(is_row, -1)
    slot = within - before + position
    slot = (slot + document * slots).where((within < before) & (slot >= 0), -1)
    ends = torch.where(document == len(lengths) - 1, total, region[document + 1])[:, chunk - 1 :: chunk].int()
    begin = (region[:-1] + before - state.position).unsqueeze(1)
    return _placed(call, state, starts, ends, row, slot, begin)


def _placed(
    call: RecurrenceCall, state: RecurrenceState, starts: Tensor, ends: Tensor, row: Tensor, slot: Tensor, begin: Tensor
) -> Rows:
    """begin `[N, 1]`: the place of each document's slot 0."""
    count = call.q.shape[0] * call.q.shape[1]
    # Places without a row are told to write behind the end.
    flat = row.flatten()
    place = flat.new_zeros(count + 1)
    place[flat.where(flat >= 0, count)] = torch.arange(len(flat), device=flat.device)
    number = torch.arange(state.k.shape[2], device=flat.device)
    slot_place = (begin + number).where(number < state.position.unsqueeze(1), -1)
    packed = PackedRows(starts.int().contiguous(), ends.contiguous())
    return Rows(call, packed, Placement(row, slot, place[:count], slot_place))
