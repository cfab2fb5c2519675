"""Dense and offset recurrences in Triton: what the kernels serve, and how calls become rows for them.

An initial state is rows like others: its k and y stand before the call's rows as keys and inputs of one-row documents,
whose output is their input. So kernels know nothing of it, and its gradients are those of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.calls import RecurrenceCall
from glm_kernels.patterns import Dense, Offsets
from glm_kernels.state import RecurrenceState
from glm_kernels.triton_backend import chained_sources_launches as launches
from glm_kernels.triton_backend.storage import norm_dtype


def why_not(call: RecurrenceCall) -> str | None:
    """Why these kernels cannot serve a call that Triton could serve; None if they can."""
    if not isinstance(call.pattern, Dense | Offsets):
        return f"{call.pattern} is neither dense nor an offset pattern"
    if call.cu_seqlens is not None and call.state is not None:
        return f"{call.pattern} cannot continue the documents of cu_seqlens from an initial state"
    return None


def outputs(call: RecurrenceCall) -> tuple[Tensor, Tensor]:
    """y `[B, T, H, V]`, and what `gradients` needs to have kept: float32 `[kept_size(call)]`."""
    rows = _rows_of(call)
    kept = call.q.new_empty(kept_size(call), dtype=torch.float32)
    y = torch.empty_like(rows.v, dtype=call.v.dtype)
    launches.forward(*rows.operands, y, *_parts(call, rows.before, kept), rows.launch)
    return y[:, rows.before :].contiguous(), kept


def gradients(call: RecurrenceCall, y: Tensor, grad: Tensor, kept: Tensor, *none: Tensor) -> list[Tensor]:
    """Gradients of q, k, v, d and, with a state, of its k and y."""
    rows = _rows_of(call)
    if rows.before:
        grad = torch.cat([grad.new_zeros(grad.shape[0], rows.before, *grad.shape[2:]), grad], 1)
    found = launches.backward(*rows.operands, *_parts(call, rows.before, kept), grad.contiguous(), rows.launch)
    own = [x[:, rows.before :].to(call.q.dtype).contiguous() for x in found[:3]]
    own.append(found[3][:, rows.before :].contiguous())
    if call.state is None:
        return own
    _, dk, dv, _ = found
    return [*own, _slots(dk, call.state, rows.before), _slots(dv, call.state, rows.before)]


def kept_size(call: RecurrenceCall) -> int:
    """How many float32 numbers are kept for the backward pass; follows from shapes and dtypes alone."""
    return sum(_part_sizes(call, _rows_before(call)))


def _part_sizes(call: RecurrenceCall, before: int) -> list[int]:
    """Of log_norm, of each head's largest input, of y as it is worked with: in float32 numbers, whole 16 bytes each."""
    batch, length, heads, width = call.v.shape
    of_norm, of_y = norm_dtype(call.q.dtype).itemsize, launches.work_dtype(call.q.dtype).itemsize
    lanes, rows = batch * heads, batch * heads * (before + length)
    return [-(-size // 16) * 4 for size in (of_norm * rows, 4 * lanes, of_y * rows * width)]


def _parts(call: RecurrenceCall, before: int, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y_work `[B, L, H, V]`, log_norm `[B, H, L]` and largest `[B · H]` in `kept`."""
    batch, length, heads, width = call.v.shape
    length += before
    norms, largest, y_work = kept.split(_part_sizes(call, before))
    y_work = y_work.view(launches.work_dtype(call.q.dtype))[: batch * length * heads * width]
    norms = norms.view(norm_dtype(call.q.dtype))[: batch * heads * length]
    return y_work.view(batch, length, heads, width), norms.view(batch, heads, length), largest[: batch * heads]


@dataclass(frozen=True)
class _Rows:
    """A call's operands `[B, L, H, ·]` with `before` rows of its state in front, L = before + T."""

    operands: tuple[Tensor, Tensor, Tensor, Tensor]
    before: int
    launch: launches.Launch

    @property
    def v(self) -> Tensor:
        return self.operands[2]


def _configuration(call: RecurrenceCall) -> launches.Configuration:
    width = max(call.q.shape[3], call.v.shape[3])
    return launches.configuration(call.q.dtype, width, isinstance(call.pattern, Dense))


def _rows_before(call: RecurrenceCall) -> int:
    """The state's slots, rounded up to whole chunks."""
    chunk = _configuration(call).source.chunk
    return 0 if call.state is None else -(-call.state.k.shape[2] // chunk) * chunk


def _rows_of(call: RecurrenceCall) -> _Rows:
    """Never waits for the device."""
    shape, before = _configuration(call), _rows_before(call)
    starts = call.document_starts
    if call.cu_seqlens is not None:
        rows = torch.arange(call.q.shape[1], device=call.q.device)
        starts = call.cu_seqlens[torch.searchsorted(call.cu_seqlens[1:], rows, right=True)].unsqueeze(0)
    operands = (call.q, call.k, call.v, call.d)
    if call.state is not None:
        starts = _starts_with_state(starts, call.state.position, before, call.q.shape[1])
        operands = _rows_with_state(call, call.state, before)
    packed = None if starts is None else _packed(starts, before, shape.source.chunk)
    reach = launches.reach_of(call.pattern, before + call.q.shape[1], shape, call.q.device)
    return _Rows(operands, before, launches.Launch(shape, reach, packed, call.scale))


def _packed(starts: Tensor, before: int, chunk: int) -> launches.PackedRows:
    batch, length = starts.shape
    starts = starts.int()
    last = torch.arange(chunk, length + chunk, chunk, device=starts.device, dtype=torch.int32).clamp(max=length) - 1
    # The rows of a state come first and read nothing: only the rows after them have ascending starts.
    ends = torch.searchsorted(starts[:, before:].contiguous(), last.expand(batch, -1).contiguous(), right=True)
    return launches.PackedRows(starts.contiguous(), ends.int() + before)


def _starts_with_state(starts: Tensor | None, position: Tensor, before: int, length: int) -> Tensor:
    """`[B, before + T]`: the state's rows stand last before the call's, which read them from their first on."""
    batch = len(position)
    begin = (before - position).unsqueeze(1)
    own = begin.expand(batch, length) if starts is None else torch.where(starts == 0, begin, starts + before)
    alone = torch.arange(before, device=position.device).expand(batch, before)
    return torch.cat([alone, own.long()], 1)


def _rows_with_state(
    call: RecurrenceCall, state: RecurrenceState, before: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The operands with the state's rows in front: right-aligned, zeros where a document has fewer.

    Keys are rounded to the dtype of the others. Outputs are not: v then is in float32.
    """
    slot = torch.arange(before, device=call.q.device) - before + state.position.unsqueeze(1)
    batch = torch.arange(len(slot), device=call.q.device).unsqueeze(1)

    def with_rows(kept: Tensor, x: Tensor) -> Tensor:
        # Neither dense nor offset patterns ever free a slot: slot s holds row s.
        rows = kept[batch, :, slot.clamp(min=0)].masked_fill((slot < 0)[:, :, None, None], 0)
        return torch.cat([rows.to(x.dtype), x], 1)

    none = [x.new_zeros(x.shape[0], before, *x.shape[2:]) for x in (call.q, call.d)]
    return (
        torch.cat([none[0], call.q], 1), with_rows(state.k, call.k), with_rows(state.y, call.v.float()),
        torch.cat([none[1], call.d], 1),
    )  # fmt: skip


def _slots(grad: Tensor, state: RecurrenceState, before: int) -> Tensor:
    """The counterpart for gradients: from `[B, L, H, ·]` to the state's `[B, H, S, ·]`."""
    slot = torch.arange(state.k.shape[2], device=grad.device)
    row = before - state.position.unsqueeze(1) + slot
    batch = torch.arange(len(row), device=grad.device).unsqueeze(1)
    free = (slot >= state.position.unsqueeze(1))[:, :, None, None]
    return grad[batch, row.clamp(max=before - 1)].masked_fill(free, 0).transpose(1, 2).float().contiguous()
