"""Queries and keys that a softmax compares, with norms if the model has them."""

from __future__ import annotations

from torch import Tensor, nn

from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import split_heads
from glm_scale.mixers.contract import MixerDims
from glm_scale.parallel.tensor.splitting import mark_split


def head_norm(dims: MixerDims, heads: int) -> RMSNorm | None:
    """Of each of `heads` heads by itself, with weights of its own; None without `dims.qk_norm`."""
    if not dims.qk_norm:
        return None
    norm = RMSNorm(heads * dims.head_dim, dims.norm_eps, groups=heads)
    mark_split(norm.weight, dims.tensor)
    return norm


def head_rows(projected: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
    """Queries or keys `[B, T, heads, head_dim]` of their projection `[B, T, heads · head_dim]`."""
    return split_heads(projected if norm is None else norm(projected), heads)
