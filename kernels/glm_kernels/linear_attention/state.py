"""What log-linear attention carries from token to token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LevelState(NamedTuple):
    """levels `[N, H, L, K, V]` in at least float32: the sums of `k vᵀ` of every level, seen from the last token.
    position int64 `[N]`: tokens seen."""

    levels: Tensor
    position: Tensor


def empty_levels(
    documents: int, heads: int, levels: int, key_dim: int, value_dim: int, device: torch.device | str = "cpu"
) -> LevelState:
    """Before the first token, float32."""
    shape = (documents, heads, levels, key_dim, value_dim)
    return LevelState(torch.zeros(shape, device=device), torch.zeros(documents, dtype=torch.int64, device=device))


def carried(state: LevelState) -> Tensor:
    """The levels as the next token sees them.

    Counting tokens in binary: where bit b of the position becomes one, all that lower levels hold moves to level b + 1.
    """
    levels, position = state
    size = 2 ** torch.arange(levels.shape[2], device=position.device)
    moves = (position[:, None] % size == 0)[:, None, :, None, None]  # levels 0 … b
    arrives = moves.roll(1, 2) & ~moves
    moved = (levels * moves).sum(2, keepdim=True)
    return levels.masked_fill(moves, 0) + moved * arrives


def bit_length(x: Tensor) -> Tensor:
    """int64: how many binary digits integers ≥ 0 have; none for 0."""
    return torch.frexp(x.double()).exponent.long()
