"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.splitting import mark_split, of_all_tokens, summed_among_heads


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis, then scales by a learned weight.

    `forward(x [..., size]) -> [..., size]`, the statistics taken in fp32 whatever the dtype of x. With `groups` the
    axis is cut into that many equal parts, each normalised by itself: one group a head is what RetNet
    (arXiv 2307.08621) and Mamba-2 (arXiv 2405.21060) put behind a linear recurrence. `tensor`: ranks that all have this
    norm, and the tokens between them if they shard tokens.
    """

    def __init__(self, size: int, eps: float, groups: int = 1, tensor: TensorAxis | None = None) -> None:
        super().__init__()
        self.tensor = tensor
        self.eps = eps
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, of_all_tokens(self.weight, self.tensor), self.eps, self.groups)


class AllHeadsNorm(RMSNorm):
    """One norm over all heads, inside a split layer: over the parts of `size` numbers and weights that ranks have."""

    def __init__(self, size: int, eps: float, across: TensorAxis | None) -> None:
        super().__init__(size, eps)
        self._across = across
        mark_split(self.weight, across)

    def forward(self, x: Tensor) -> Tensor:
        if self._across is None:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = summed_among_heads(wide.square().sum(-1, keepdim=True), self._across)
        scale = torch.rsqrt(squares / (x.shape[-1] * self._across.size) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


def rms_norm(x: Tensor, weight: Tensor, eps: float, groups: int = 1) -> Tensor:
    """What `RMSNorm` computes, of its parameters."""
    if groups == 1:
        return F.rms_norm(x, weight.shape, weight, eps)
    parts = x.unflatten(-1, (groups, -1))
    return F.rms_norm(parts, parts.shape[-1:], None, eps).flatten(-2) * weight
