"""The state of a recurrence: the live rows of each document, which are all that its future may read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
