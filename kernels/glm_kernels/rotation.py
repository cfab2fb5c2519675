"""Rotations of pairs of numbers in queries and keys, by which their products know distances (arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, fp32, of the angles of each token and pair."""


def rotated(x: Tensor, angles: Angles) -> Tensor:
    """x `[B, T, H, D]` with numbers i and i + D / 2 of every row turned by angle i of `[B or 1, T, 1, D / 2]`.

    Computed in fp32, returned in the dtype of x.
    """
    cos, sin = angles
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
