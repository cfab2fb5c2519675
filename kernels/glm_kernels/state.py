"""The state of a recurrence: the live rows of each document, which are all that its future may read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels.documents import Documents
from glm_kernels.patterns import Pattern


class RecurrenceState(NamedTuple):
    """Live keys and outputs of N documents after `position` tokens each.

    k `[N, H, S, K]`, y `[N, H, S, V]` (float32, or float64 in float64 work), position int64 `[N]`. Slot s of document
    n holds the row `pattern.rows_in_slots(position[n])[s]`; slots beyond it and free slots hold anything.
    """

    k: Tensor
    y: Tensor
    position: Tensor


def empty_state(
    pattern: Pattern,
    batch: int,
    heads: int,
    key_dim: int,
    value_dim: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> RecurrenceState:
    """The state before the first token: no live rows. `recurrence_step` widens it as the pattern needs."""
    return RecurrenceState(
        torch.zeros(batch, heads, 0, key_dim, device=device, dtype=dtype),
        torch.zeros(batch, heads, 0, value_dim, device=device, dtype=dtype),
        torch.zeros(batch, dtype=torch.int64, device=device),
    )


def state_after(
    pattern: Pattern, documents: Documents, k: Tensor, y: Tensor, initial_state: RecurrenceState | None
) -> RecurrenceState:
    """The state that the rows k `[B, T, H, K]` with outputs y `[B, T, H, V]` leave; differentiable in all of them."""
    initial = documents.entry.new_zeros(len(documents.entry)) if initial_state is None else initial_state.position
    position = documents.final_positions(initial)
    rows, carried = _final_rows(pattern, documents, initial, position.tolist())
    b = torch.arange(len(rows), device=k.device) * len(k) // len(rows)
    kept = []
    for x, before in ((k, initial_state and initial_state.k), (y, initial_state and initial_state.y)):
        live = x[b.unsqueeze(1), rows.clamp(min=0)].transpose(1, 2)
        live = live.to(torch.promote_types(x.dtype, torch.float32)).masked_fill((rows < 0)[:, None, :, None], 0)
        if before is not None:
            wide = pad(before, (0, 0, 0, max(0, rows.shape[1] - before.shape[2])))[:, :, : rows.shape[1]]
            live = torch.where(carried[:, None, :, None], wide.to(live.dtype), live)
        kept.append(live)
    return RecurrenceState(kept[0], kept[1], position)


def _final_rows(pattern: Pattern, documents: Documents, initial: Tensor, positions: list[int]) -> tuple[Tensor, Tensor]:
    """int64 `[N, S]`, the row of this call in each slot of the final state (−1: none), and bool `[N, S]`: a row from
    the initial state, which stands in the slot it has always had."""
    before = torch.where(documents.exit_start == documents.entry, initial, 0).tolist()
    rows = torch.full((len(positions), max(map(pattern.slot_count, positions))), -1)
    carried = torch.zeros(rows.shape, dtype=torch.bool)
    for n, (position, start) in enumerate(zip(positions, documents.exit_start.tolist(), strict=True)):
        held = pattern.rows_in_slots(position)
        rows[n, : len(held)] = torch.where(held >= before[n], start + held - before[n], -1)
        carried[n, : len(held)] = (held >= 0) & (held < before[n])
    return rows.to(initial.device), carried.to(initial.device)
