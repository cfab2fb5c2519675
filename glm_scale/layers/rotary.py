"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split layout of GPT-NeoX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from glm_kernels.rotation import rotated


class Rotation(NamedTuple):
    """Cosines and sines of the angles of a batch of positions: fp32 `[B or 1, T, 1, head_dim / 2]` each."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x `[B, T, H, head_dim]`; computed in fp32, returned in the dtype of x."""
        return rotated(x, self)


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
        return self.of(positions, self.frequencies(positions.device))

    def after(self, position: Tensor, tokens: int) -> Rotation:
        """The rotation of so many tokens behind the `position [B]` that each document has seen."""
        return self(position[:, None] + torch.arange(tokens, device=position.device))

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per position, fp32 `[head_dim / 2]`."""
        powers = torch.arange(0, self.head_dim, 2, device=device, dtype=torch.float32) / self.head_dim
        return self.base**-powers

    @staticmethod
    def of(positions: Tensor, frequencies: Tensor) -> Rotation:
        """The rotation of integer positions `[B or 1, T]` at frequencies that are there already."""
        angles = positions.float()[..., None, None] * frequencies
        return Rotation(angles.cos(), angles.sin())
