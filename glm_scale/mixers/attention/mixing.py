"""`attention` and `local:w`: softmax attention over the whole document, or over a token and the w − 1 before it.

Queries and keys are rotated: a softmax over a set of tokens cannot tell their order otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import attention
from glm_scale.layers.projection import split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.mixers.attention.traffic import attention_traffic
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import HeadMixing
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.attention import sharded_attention
from glm_scale.parallel.sequence.costs import Spread, Traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy

PAGE = 256
"""Rows by which the cache of unlimited attention grows, so that decoding copies it once in so many tokens."""


class AttentionCache(NamedTuple):
    """Keys and values `[B, capacity, H, head_dim]` of documents that have seen `position` tokens.

    The first `rows` of them count: all of the document without a window, at most the last w − 1 with one.
    """

    k: Tensor
    v: Tensor
    rows: int
    position: int


class AttentionMixing(HeadMixing):
    """y_i = Σ_j softmax_j(scale · q_i·k_j) v_j over the tokens j ≤ i, with a window over j > i − window only.

    The window is the structure's: the width of A's band.
    """

    structure: Structure
    sequence_strategies = ("a2a", "ring")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        super().__init__()
        self.structure, self.window = structure, structure.input_width
        self.heads, self.head_dim, self.rotary = dims.heads, dims.head_dim, dims.rotary
        self.q = dims.projection(dims.heads * dims.head_dim)
        self.k = dims.projection(dims.heads * dims.head_dim)

    def _queries_and_keys(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        return rotation(split_heads(self.q(x), self.heads)), rotation(split_heads(self.k(x), self.heads))

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        q, k = self._queries_and_keys(x, sequence.rotation)
        starts, axis = sequence.all_document_starts, sequence.axis
        if axis is None:
            return attention(q, k, v, window=self.window, document_starts=starts, packing=sequence.packing)
        assert axis.strategy is not None
        return sharded_attention(q, k, v, axis.ranks, axis.strategy, window=self.window, document_starts=starts)

    def extend(self, x: Tensor, v: Tensor, cache: AttentionCache) -> tuple[Tensor, AttentionCache]:
        positions = torch.arange(cache.position, cache.position + x.shape[1], device=x.device)
        q, k = self._queries_and_keys(x, self.rotary(positions[None]))
        cache = self._append(cache, k, v)
        begins = cache.position == x.shape[1]
        y = attention(q, k, v, window=self.window) if begins else self._attend(q, cache)
        return y, self._trim(cache)

    def _attend(self, q: Tensor, cache: AttentionCache) -> Tensor:
        """The last tokens of a document over the cache that they are already part of."""
        new = q.shape[1]
        mask = None
        if new > 1:
            ages = torch.arange(cache.rows - new, cache.rows, device=q.device)[:, None]
            ages = ages - torch.arange(cache.rows, device=q.device)
            mask = (ages >= 0) & (ages < (self.window or cache.rows))
        q, k, v = (rows.transpose(1, 2) for rows in (q, cache.k[:, : cache.rows], cache.v[:, : cache.rows]))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)

    def _append(self, cache: AttentionCache, k: Tensor, v: Tensor) -> AttentionCache:
        rows, position = cache.rows + k.shape[1], cache.position + k.shape[1]
        if self.window is not None:
            return AttentionCache(torch.cat((cache.k, k), 1), torch.cat((cache.v, v), 1), rows, position)
        return AttentionCache(_written(cache.k, cache.rows, k), _written(cache.v, cache.rows, v), rows, position)

    def _trim(self, cache: AttentionCache) -> AttentionCache:
        if self.window is None:
            return cache
        kept = min(cache.rows, self.window - 1)
        gone = cache.rows - kept
        return AttentionCache(cache.k[:, gone:].contiguous(), cache.v[:, gone:].contiguous(), kept, cache.position)

    def empty_cache(self, batch: int, length: int | None = None) -> AttentionCache:
        capacity = _paged(length) if length is not None and self.window is None else 0
        k, v = self.k.weight.new_zeros(2, batch, capacity, self.heads, self.head_dim)
        return AttentionCache(k, v, rows=0, position=0)

    def cache_bytes(self, length: int) -> int:
        return 2 * self.structure.cache_rows(length) * self.heads * self.head_dim * self.k.weight.element_size()

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        return attention_traffic(self.window, strategy, spread, self.head_dim)


def _written(buffer: Tensor, at: int, new: Tensor) -> Tensor:
    """`buffer` with `new` written in place from row `at` on, longer by whole pages if they do not fit."""
    end = at + new.shape[1]
    if end > buffer.shape[1]:
        buffer = F.pad(buffer, (0, 0, 0, 0, 0, _paged(end) - buffer.shape[1]))
    buffer[:, at:end] = new
    return buffer


def _paged(rows: int) -> int:
    return -(-rows // PAGE) * PAGE
