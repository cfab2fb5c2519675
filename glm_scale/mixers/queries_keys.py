"""Queries and keys that a softmax compares, with norms if the model has them."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


class RowWeights(NamedTuple):
    """Of rows that are averages: the weight of a row's own input, and the entropy of all its weights in nats, fp32
    `[B, T, H]`."""

    own: Tensor
    entropy: Tensor


def row_weights(q: Tensor, k: Tensor, d: Tensor | None, reads: Tensor) -> RowWeights:
    """Of queries and keys `[B, T, H, head_dim]`, the logit d `[B, T, H]` of the own input (None: as its query and key
    say) and which rows each row reads besides, bool `[B, T, T]`. All pairs are there at once: for few rows."""
    scores = q.shape[-1] ** -0.5 * torch.einsum("bihk,bjhk->bhij", q.float(), k.float())
    own = scores.diagonal(dim1=2, dim2=3) if d is None else d.float().transpose(1, 2)
    logits = torch.cat([own.unsqueeze(3), scores.masked_fill(~reads.unsqueeze(1), -torch.inf)], 3)
    weights = logits.softmax(3)
    entropy = torch.special.entr(weights).sum(3)
    return RowWeights(weights[..., 0].transpose(1, 2), entropy.transpose(1, 2))


def rows_before(positions: Tensor, read_matrix: Tensor) -> Tensor:
    """Which rows of its document a row reads, bool `[B, T, T]`, of positions int64 `[B, T]` in the documents; the
    matrix says it of one document."""
    row = torch.arange(positions.shape[1], device=positions.device)
    other = row - (row - positions).unsqueeze(2)
    there = (other >= 0) & (row <= row.unsqueeze(1))
    return there & read_matrix.to(positions.device)[positions.unsqueeze(2), other.clamp(min=0)]


def head_rows(projected: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
    """Queries or keys `[B, T, heads, head_dim]` of their projection `[B, T, heads · head_dim]`."""
    return split_heads(projected if norm is None else norm(projected), heads)
