"""The structured recurrence in torch: from the public layout to lines of sources and back, and its state."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.documents import Documents
from glm_kernels.patterns import Pattern
from glm_kernels.state import RecurrenceState, state_after
from glm_kernels.torch_backend.chunkwise import ChunkwiseRecurrence
from glm_kernels.torch_backend.sources import sources_of

CHUNK = 64


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    d: Tensor,
    pattern: Pattern,
    scale: float,
    documents: Documents,
    initial_state: RecurrenceState | None,
    output_final_state: bool,
) -> tuple[Tensor, RecurrenceState | None]:
    """The recurrence of checked arguments; shapes as in `glm_kernels.recurrence`. Accumulates in float32 or float64."""
    batch, length, heads, _ = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    carried = len(documents.entry)
    initial = documents.entry.new_zeros(carried) if initial_state is None else initial_state.position
    slots = 0 if initial_state is None else initial_state.k.shape[2]
    prefix = slots * (carried // batch)

    chunk = min(CHUNK, 1 << max(length - 1, 0).bit_length())
    short = -length % chunk
    sources = sources_of(pattern, documents, documents.positions(initial), initial, prefix, chunk)
    lines_q, lines_k, lines_v, lines_d = (_lines(x.to(dtype)) for x in (q, k, v, d.unsqueeze(3)))
    if initial_state is None:
        y_prefix = lines_v.new_zeros(batch * heads, 0, v.shape[3])
    else:
        y_prefix = _state_lines(initial_state.y.to(dtype), batch)
        lines_k = torch.cat([_state_lines(initial_state.k.to(dtype), batch), lines_k], 1)
    rows = (0, 0, 0, short)
    y = ChunkwiseRecurrence.apply(
        scale * pad(lines_q, rows), pad(lines_k, rows), pad(lines_v, rows), pad(lines_d, rows), y_prefix, sources
    )[:, :length]  # fmt: skip
    y = y.view(batch, heads, length, -1).transpose(1, 2)
    final = state_after(pattern, documents, k, y, initial_state) if output_final_state else None
    return y.to(v.dtype), final


def _lines(x: Tensor) -> Tensor:
    """`[B, T, H, D]` → `[B·H, T, D]`."""
    return x.transpose(1, 2).flatten(0, 1)


def _state_lines(x: Tensor, batch: int) -> Tensor:
    """`[N, H, S, D]` → `[B·H, (N/B)·S, D]`: the slots of a batch row's documents one behind the other."""
    carried, heads, slots, width = x.shape
    return x.view(batch, carried // batch, heads, slots, width).transpose(1, 2).reshape(batch * heads, -1, width)


def step(
    q: Tensor, k: Tensor, v: Tensor, d: Tensor, pattern: Pattern, scale: float, state: RecurrenceState
) -> tuple[Tensor, RecurrenceState]:
    """One row that continues the state, of checked arguments; shapes as in `glm_kernels.recurrence_step`."""
    positions = state.position.tolist()
    state = _widened(state, max(pattern.slot_count(p + 1) for p in positions))
    dtype = state.y.dtype
    reads, slot = _reads_of_step(pattern, positions, state.k.shape[2], q.device)
    scores = scale * torch.einsum("nhk,nhsk->nhs", q[:, 0].to(dtype), state.k)
    scores = scores.masked_fill_(~reads.unsqueeze(1), -torch.inf)
    weights = torch.cat([d[:, 0].to(dtype).unsqueeze(2), scores], 2).softmax(2)
    # A free slot may hold anything, NaN included, so it is not enough that its weight is zero.
    rows = state.y.masked_fill(~reads[:, None, :, None], 0)
    y = weights[..., :1] * v[:, 0].to(dtype) + torch.einsum("nhs,nhsv->nhv", weights[..., 1:], rows)
    n = torch.arange(len(positions), device=q.device)
    state.k[n, :, slot] = k[:, 0].to(dtype)
    state.y[n, :, slot] = y
    return y.unsqueeze(1).to(v.dtype), state._replace(position=state.position + 1)


def _reads_of_step(pattern: Pattern, positions: list[int], slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool `[N, S]`, the slots that the next row of each document reads, and int64 `[N]`, the slot it is put in."""
    reads = torch.zeros(len(positions), slots, dtype=torch.bool)
    for n, position in enumerate(positions):
        reads[n, pattern.slots(position)[pattern.reads(position)]] = True
    slot = torch.stack([pattern.slots(position + 1)[position] for position in positions])
    return reads.to(device), slot.to(device)


def _widened(state: RecurrenceState, slots: int) -> RecurrenceState:
    """The state with room for `slots` rows and some to spare, so that a growing cache is rarely copied."""
    held = state.k.shape[2]
    if held >= slots:
        return state
    more = (0, 0, 0, max(slots, held + held // 8) - held)
    return state._replace(k=pad(state.k, more), y=pad(state.y, more))
