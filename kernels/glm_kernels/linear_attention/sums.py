"""Running sums of log decays by triangular matrices, since `torch.cumsum` has no deterministic kernel on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_PART = 64


def running_sums(x: Tensor) -> Tensor:
    """float64 sums of x `[…, T]` along the last axis, each with its own number."""
    length = x.shape[-1]
    parts = pad(x.double(), (0, -length % _PART)).unflatten(-1, (-1, _PART))
    within = parts @ _upper(_PART, x.device)
    if parts.shape[-2] == 1:
        return within[..., 0, :length]
    whole = within[..., -1]
    before = whole @ _upper(whole.shape[-1], x.device, 1)
    return (within + before.unsqueeze(-1)).flatten(-2)[..., :length]


def _upper(size: int, device: torch.device, diagonal: int = 0) -> Tensor:
    return torch.ones(size, size, dtype=torch.float64, device=device).triu(diagonal)
