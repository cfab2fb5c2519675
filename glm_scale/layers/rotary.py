"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of GPT-NeoX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosines and sines of the angles of a batch of positions: fp32 `[B or 1, T, 1, head_dim / 2]` each."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x `[B, T, H, head_dim]`; computed in fp32, returned in the dtype of x."""
        first, second = x.float().chunk(2, dim=-1)
        rotated = torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)
        return rotated.to(x.dtype)


@dataclass(frozen=True)
class Rotary:
    """Frequencies base^(−2i / head_dim).

    Neither a module nor a buffer: casting a model to bf16 would cast the frequencies with it, and a bf16 frequency
    puts positions beyond a few hundred at wrong angles.
    """

    head_dim: int
    base: float

    def __call__(self, positions: Tensor) -> Rotation:
        """The rotation of integer positions `[B or 1, T]`."""
        powers = torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        angles = positions.float()[..., None, None] * self.base**-powers
        return Rotation(angles.cos(), angles.sin())
