"""RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis, then scales by a learned weight.

    `forward(x [..., size]) -> [..., size]`, the statistics taken in fp32 whatever the dtype of x. With `groups` the
    axis is cut into that many equal parts, each normalised by itself: one group a head is what RetNet
    (arXiv 2307.08621) and Mamba-2 (arXiv 2405.21060) put behind a linear recurrence.
    """

    def __init__(self, size: int, eps: float, groups: int = 1) -> None:
        super().__init__()
        self.eps = eps
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        parts = x.unflatten(-1, (self.groups, -1))
        return F.rms_norm(parts, parts.shape[-1:], None, self.eps).flatten(-2) * self.weight
