"""Linear projections, and the one distinction among them that weight initialisation needs."""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Linear):
    """y = W x, without a bias unless asked for."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)


class ResidualProjection(Projection):
    """A projection that writes into the residual stream: its initial weights shrink with the depth of the model."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, heads · size]` to `[B, T, heads, size]`: the rows of a weight lie head by head."""
    return x.unflatten(-1, (heads, -1))


def projection_flops(*projections: nn.Linear) -> int:
    """FLOPs of these projections for one token, forward: two per weight. Biases are not counted."""
    return sum(2 * projection.in_features * projection.out_features for projection in projections)
