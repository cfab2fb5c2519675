"""Which row stands in which cache slot, and who reads it: tables of a pattern on a device, made once and cached.

A table covers the positions of a document below its *horizon*. Patterns whose slots repeat (windows) need a table of
two periods only, whatever the length of the documents: their positions are folded into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.device_cache import kept_on_device
from glm_kernels.patterns.pattern import Dense, Lifetime, Offsets, Pattern, Window


@dataclass(frozen=True)
class SlotTables:
    """Every tensor is int32."""

    life: Tensor
    """`[horizon]`: how many rows after itself the row at a position is read for the last time."""
    slot: Tensor
    """`[horizon]`: the slot that the row at a position is put in."""
    by_slot: Tensor
    """`[horizon]`: all positions, those of slot 0 first, ascending within a slot."""
    first: Tensor
    """`[slots + 1]`: where in `by_slot` the positions of each slot begin."""
    search_steps: int
    """Halvings in which a search among the positions of any one slot ends."""


def period(pattern: Pattern) -> int:
    """Rows after which what a row reads, and from which slots, repeats; from position `period` on. 0 if it never does.

    A position p ≥ 2·period means the same as period + p mod period.
    """
    return pattern.width if isinstance(pattern, Window) else 0


def horizon(pattern: Pattern, reach: int) -> int:
    """The horizon of tables for positions below `reach`: one of few sizes, so that few tables are made."""
    powers = 1 << max(reach - 1, 0).bit_length()
    return min(powers, 2 * period(pattern)) if period(pattern) else powers


@kept_on_device(64)
def slot_tables(pattern: Lifetime, horizon: int, device: torch.device) -> SlotTables:
    """The tables of a pattern for positions below `horizon`."""
    positions = torch.arange(horizon, device="cpu")
    life = (pattern.last_readers(horizon) - positions).clamp(max=2 * horizon)
    slot = pattern.slots(horizon)
    held = torch.bincount(slot, minlength=pattern.slot_count(horizon))
    by_slot = (slot * horizon + positions).sort().values % horizon
    first = torch.cat([held.new_zeros(1), held.cumsum(0)])
    life, slot, by_slot, first = (x.to(device, torch.int32) for x in (life, slot, by_slot, first))
    return SlotTables(life, slot, by_slot, first, search_steps=int(held.max()).bit_length())


@kept_on_device(32)
def read_masks(pattern: Lifetime, horizon: int, device: torch.device) -> Tensor:
    """int32 `[horizon, words]`: bit s mod 32 of word s div 32 says whether the row at a position reads slot s."""
    last, slot = pattern.last_readers(horizon), pattern.slots(horizon)
    words = -(-pattern.slot_count(horizon) // 32)
    masks = torch.empty(horizon, words, dtype=torch.int32, device="cpu")
    for word in range(words):
        # A row's bit is set from the row after it to its last reader; a slot never holds two rows at a time.
        rows = (slot // 32 == word).nonzero().squeeze(1)
        bit = torch.ones_like(rows) << slot[rows] % 32
        changes = torch.zeros(horizon + 1, dtype=torch.int64, device="cpu")
        changes.index_add_(0, rows + 1, bit)
        changes.index_add_(0, (last[rows] + 1).clamp(max=horizon), -bit)
        masks[:, word] = changes.cumsum(0)[:horizon].int()  # bit 31 becomes the sign
    return masks.to(device)


@kept_on_device(32)
def distances(pattern: Offsets, horizon: int, device: torch.device) -> Tensor:
    """int32 `[offsets]`, ascending: how far back the rows at positions below `horizon` read."""
    return pattern.offsets(horizon).to(device, torch.int32)


def rows_in_slots(pattern: Pattern, positions: Tensor, slots: int, reach: int) -> Tensor:
    """int64 `[N, slots]`: the live row each slot holds when `positions [N]` < `reach` tokens are seen, −1 if none.

    `Pattern.rows_in_slots` for many documents, on their device and without waiting for it.
    """
    position = positions.unsqueeze(1)
    if isinstance(pattern, Dense | Offsets):
        slot = torch.arange(slots, device=positions.device)
        return slot.where(slot < position, -1)
    assert isinstance(pattern, Lifetime)
    fold = period(pattern)
    folded = torch.where(position >= 2 * fold, fold + position % fold, position) if fold else position
    size = horizon(pattern, reach)
    tables = slot_tables(pattern, size, positions.device)
    base = torch.arange(len(tables.first) - 1, device=positions.device) * size
    by_slot = tables.by_slot.long() + base.repeat_interleave(tables.first.diff().long(), output_size=size)
    found = torch.searchsorted(by_slot, base + folded) - 1
    held = by_slot[found.clamp(min=0)] - base
    live = (held >= 0) & (found >= 0) & (held + tables.life[held.clamp(min=0)] >= folded)
    rows = (position - folded + held).where(live, -1)
    return torch.nn.functional.pad(rows, (0, slots - rows.shape[1]), value=-1)
