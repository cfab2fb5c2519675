"""One token of each document on its way through a block, as decoding takes it.

At one token the norms, biases and sums around a projection cost as much as the projection, if each is a launch of its
own. Here they are part of it, and projections of the same numbers are one (`glm_kernels.project`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from glm_kernels import project, project_gated, project_onto
from glm_scale.layers.mlp import GatedMLP
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import Projection
from glm_scale.layers.rotary import Rotation

Project = Callable[[nn.Linear], Tensor]
"""Gives what a projection makes of the tokens in question."""


def projecting(x: Tensor) -> Project:
    """Every projection of x, computed when it is asked for."""
    return lambda projection: cast(Tensor, projection(x))


@dataclass(frozen=True)
class Token:
    """x `[B, 1, D]`, to which `norm` is yet to be applied if there is one.

    `rotation`: of its positions, made once for all layers; None if every layer has to find them out.
    """

    x: Tensor
    norm: RMSNorm | None = None
    rotation: Rotation | None = None

    def normed(self) -> Tensor:
        """What a layer reads, `[B, 1, D]`."""
        return self.x if self.norm is None else self.norm(self.x)

    def projected(self, projections: Sequence[nn.Linear]) -> Project:
        """These projections of the normed x, computed at once."""
        if not _whole(*projections) or sum(p.bias is not None for p in projections) > 1 or not _whole_norm(self.norm):
            return projecting(self.normed())
        ordered = sorted(projections, key=lambda projection: projection.bias is not None)
        weights, bias = [projection.weight for projection in ordered], ordered[-1].bias
        scale, eps = _norm_of(self.norm)
        known = dict(zip(ordered, project(self.x, weights, bias=bias, norm=scale, eps=eps), strict=True))
        return lambda projection: known[projection] if projection in known else projection(self.normed())


def added(stream: Tensor, projection: nn.Linear, x: Tensor) -> Tensor:
    """stream + projection x."""
    if not _whole(projection) or projection.bias is not None:
        return cast(Tensor, stream + projection(x))
    return project_onto(stream, projection.weight, x)


def through_mlp(stream: Tensor, norm: RMSNorm, mlp: GatedMLP) -> Tensor:
    """stream + mlp(norm stream)."""
    if not _whole(mlp.gate, mlp.up, mlp.down) or not _whole_norm(norm):
        return cast(Tensor, stream + mlp(norm(stream)))
    scale, eps = _norm_of(norm)
    hidden = project_gated(stream, mlp.gate.weight, mlp.up.weight, norm=scale, eps=eps)
    return project_onto(stream, mlp.down.weight, hidden)


def as_projected(head: Projection, norm: RMSNorm, x: Tensor) -> Tensor:
    """head(norm x)."""
    return Token(x, norm).projected([head])(head)


@torch.no_grad()
def lay_together(projections: Sequence[nn.Linear]) -> None:
    """Move the weights of projections of the same numbers behind one another in memory, the biased last, so that
    `Token.projected` reads them as one; nothing else notices."""
    if not _whole(*projections) or len(projections) < 2:
        return
    ordered = sorted(projections, key=lambda projection: projection.bias is not None)
    together = torch.cat([projection.weight for projection in ordered])
    for projection, rows in zip(ordered, together.split([len(p.weight) for p in ordered]), strict=True):
        projection.weight.data = rows


def _whole(*projections: nn.Linear) -> bool:
    """Not split over tensor ranks, whose parts are not added up here."""
    return all(isinstance(projection, Projection) for projection in projections)


def _whole_norm(norm: RMSNorm | None) -> bool:
    return norm is None or (norm.tensor is None and norm.groups == 1)


def _norm_of(norm: RMSNorm | None) -> tuple[Tensor | None, float]:
    return (None, 0.0) if norm is None else (norm.weight, norm.eps)
