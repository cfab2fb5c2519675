"""The state of a recurrence: the live rows of each document, which are all that its future may read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.documents import Documents
from glm_kernels.patterns import Pattern
from glm_kernels.patterns.slots import rows_in_slots


class RecurrenceState(NamedTuple):
    """Live keys and outputs of N documents after `position` tokens each.

    k `[N, H, S, K]`, y `[N, H, S, V]` (float32, or float64 in float64 work), position int64 `[N]`. Slot s of document
    n holds the row `pattern.rows_in_slots(position[n])[s]`; slots beyond it and free slots hold anything.

    room: how many tokens the documents may come to, the S slots being enough for them. With it no operator has to ask
    a GPU how far the documents are, and steps leave the state where it is. None: whoever continues the state looks.
    """

    k: Tensor
    y: Tensor
    position: Tensor
    room: int | None = None


def empty_state(
    pattern: Pattern,
    batch: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    *,
    length: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> RecurrenceState:
    """The state before the first token: no live rows.

    length: make room for documents of so many tokens. Else `recurrence_step` widens the state as the pattern needs.
    """
    state = RecurrenceState(
        torch.zeros(batch, heads, 0, key_dim, device=device, dtype=dtype),
        torch.zeros(batch, heads, 0, value_dim, device=device, dtype=dtype),
        torch.zeros(batch, dtype=torch.int64, device=device),
    )
    return state if length is None else with_room(state, pattern, length)


def with_room(state: RecurrenceState, pattern: Pattern, length: int) -> RecurrenceState:
    """The same state with room for documents of `length` tokens, those it has seen included."""
    return widened(state, pattern.slot_count(length))._replace(room=length)


def widened(state: RecurrenceState, slots: int) -> RecurrenceState:
    """The state with at least so many slots."""
    more = max(0, slots - state.k.shape[2])
    return state._replace(k=pad(state.k, (0, 0, 0, more)), y=pad(state.y, (0, 0, 0, more))) if more else state


def grown(state: RecurrenceState, slots: int) -> RecurrenceState:
    """The state with at least so many slots; some to spare if it grows, so that it is rarely copied."""
    held = state.k.shape[2]
    return state if held >= slots else widened(state, max(slots, held + held // 8))


def state_after(
    pattern: Pattern, documents: Documents, k: Tensor, y: Tensor, initial_state: RecurrenceState | None
) -> RecurrenceState:
    """The state that the rows k `[B, T, H, K]` with outputs y `[B, T, H, V]` leave; differentiable in all of them.

    It has the room of the initial state. Without room the host waits for the device, to know how many slots it needs.
    """
    if initial_state is None:
        initial, room = documents.entry.new_zeros(len(documents.entry)), None
    else:
        initial, room = initial_state.position, initial_state.room
    position = documents.final_positions(initial)
    if room is not None:
        _check_room(position, room)
    reach = int(position.max()) if room is None else room
    held = rows_in_slots(pattern, position, pattern.slot_count(reach), reach)
    # Rows of a document that the initial state began stand in the slots they have always had.
    before = torch.where(documents.exit_start == documents.entry, initial, 0).unsqueeze(1)
    carried = ((held >= 0) & (held < before))[:, None, :, None]
    ours = (held >= before)[:, None, :, None]
    rows = (documents.exit_start.unsqueeze(1) + held - before).where(held >= before, 0)
    b = torch.arange(len(rows), device=k.device) * len(k) // len(rows)
    kept = []
    for x, earlier in ((k, initial_state and initial_state.k), (y, initial_state and initial_state.y)):
        live = x[b.unsqueeze(1), rows].transpose(1, 2).to(torch.promote_types(x.dtype, torch.float32)).where(ours, 0)
        if earlier is not None:
            wide = pad(earlier, (0, 0, 0, held.shape[1] - earlier.shape[2]))
            live = torch.where(carried, wide.to(live.dtype), live)
        kept.append(live.contiguous())
    return RecurrenceState(kept[0], kept[1], position, room)


def _check_room(position: Tensor, room: int) -> None:
    rule = f"the initial state has room for {room} tokens"
    if position.is_cuda:
        torch._assert_async((position <= room).all(), rule)
    elif int(position.max()) > room:
        raise ValueError(f"{rule}, but its documents come to {position.tolist()}")
