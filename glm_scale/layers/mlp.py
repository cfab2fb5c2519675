"""Gated feed-forward layer: SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.projection import projection, projection_flops, residual_projection
from glm_scale.parallel.axis import TensorAxis


class GatedMLP(nn.Module):
    """down(silu(gate x) · up x): `[B, T, width]` to `[B, T, width]` through `hidden` units.

    Over tensor ranks each has an equal part of the units; x has passed `parallel.tensor.splitting.entering`.
    """

    def __init__(self, width: int, hidden: int, tensor: TensorAxis | None = None) -> None:
        super().__init__()
        own = hidden if tensor is None else hidden // tensor.size
        self.gate = projection(width, own, tensor=tensor)
        self.up = projection(width, own, tensor=tensor)
        self.down = residual_projection(own, width, tensor=tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """What `down` reads: silu(gate x) · up x, `[B, T, hidden]` of this rank's units."""
        return F.silu(self.gate(x)) * self.up(x)

    def flops_per_token(self) -> int:
        """Forward FLOPs of the three matrix multiplications."""
        return projection_flops(self.gate, self.up, self.down)
