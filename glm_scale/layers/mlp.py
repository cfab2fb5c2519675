"""Gated feed-forward layer: SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.projection import Projection, ResidualProjection, projection_flops


class GatedMLP(nn.Module):
    """down(silu(gate x) · up x): `[B, T, width]` to `[B, T, width]` through `hidden` units."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Projection(width, hidden)
        self.up = Projection(width, hidden)
        self.down = ResidualProjection(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def flops_per_token(self) -> int:
        """Forward FLOPs of the three matrix multiplications."""
        return projection_flops(self.gate, self.up, self.down)
