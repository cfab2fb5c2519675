"""One row of each recurrence that continues a state, of checked arguments; sums in the state's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from glm_kernels.linear_attention.state import LevelState, carried


def gated(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y `[N, 1, H, V]` and the state `[N, H, K, V]` after the row; operands `[N, 1, H, …]`."""
    query, key, value, gate = (x[:, 0].to(state.dtype) for x in (q, k, v, log_decay))
    state = gate.exp().view(*gate.shape, *[1] * (4 - gate.ndim)) * state
    if beta is not None:
        value = beta[:, 0, :, None].to(state.dtype) * (value - torch.einsum("nhk,nhkv->nhv", key, state))
    state = state + key.unsqueeze(3) * value.unsqueeze(2)
    y = scale * torch.einsum("nhk,nhkv->nhv", query, state)
    return y.unsqueeze(1).to(v.dtype), state


def by_level(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, level: Tensor, scale: float, state: LevelState
) -> tuple[Tensor, LevelState]:
    """The same of log-linear attention, whose levels `[N, H, L, K, V]` all fade alike."""
    dtype = state.levels.dtype
    query, key, value, heard = (x[:, 0].to(dtype) for x in (q, k, v, level))
    levels = log_decay[:, 0].to(dtype).exp()[..., None, None, None] * carried(state)
    own = key.unsqueeze(3) * value.unsqueeze(2)
    levels = torch.cat([own.unsqueeze(2), levels[:, :, 1:]], 2)
    y = scale * torch.einsum("nhk,nhl,nhlkv->nhv", query, heard, levels)
    return y.unsqueeze(1).to(v.dtype), LevelState(levels, state.position + 1)
