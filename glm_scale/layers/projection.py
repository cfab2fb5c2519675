"""Linear projections, and the one distinction among them that weight initialisation needs."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import copied


class Projection(nn.Linear):
    """y = W x, without a bias unless asked for."""

    residual = False
    hidden = True
    """Whether its inputs and outputs are both features, not tokens."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)


class SharedProjection(Projection):
    """A projection that serves all heads: every tensor rank has all of it, and its gradient is the sum of theirs.

    It projects tokens that have passed `parallel.tensor.splitting.entering`.
    """

    def __init__(self, inputs: int, outputs: int, tensor: TensorAxis | None) -> None:
        super().__init__(inputs, outputs)
        self._tensor = tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, copied(self.weight, self._tensor))


class ResidualProjection(Projection):
    """A projection that writes into the residual stream: its initial weights shrink with the depth of the model."""

    residual = True


def projection(inputs: int, outputs: int, *, bias: bool = False, tensor: TensorAxis | None = None) -> Projection:
    """A projection of tokens that have passed `parallel.tensor.splitting.entering`, to this rank's `outputs`
    outputs."""
    if tensor is None:
        return Projection(inputs, outputs, bias)
    from glm_scale.parallel.tensor.layers import ColumnProjection

    return cast(Projection, ColumnProjection(inputs, outputs, bias, tensor))


def residual_projection(inputs: int, outputs: int, *, tensor: TensorAxis | None = None) -> Projection:
    """A projection of this rank's `inputs` inputs into the residual stream, summed over ranks."""
    if tensor is None:
        return ResidualProjection(inputs, outputs)
    from glm_scale.parallel.tensor.layers import RowProjection

    return cast(Projection, RowProjection(inputs, outputs, tensor))


def is_projection(module: nn.Module, residual: bool | None = None) -> bool:
    """Whether a module is a projection, whole or split; with `residual` also, whether it is of that kind."""
    kind = getattr(module, "residual", None)
    return kind is not None and residual in (None, kind)


def is_hidden_projection(module: nn.Module) -> bool:
    """Whether a module is a projection inside the model, and not its output head."""
    return is_projection(module) and bool(getattr(module, "hidden", True))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, heads · size]` to `[B, T, heads, size]`: the rows of a weight lie head by head."""
    return x.unflatten(-1, (heads, -1))


def projection_flops(*projections: nn.Linear) -> int:
    """FLOPs of these projections for one token, forward: two per weight. Biases are not counted."""
    return sum(2 * projection.in_features * projection.out_features for projection in projections)
