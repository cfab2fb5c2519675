"""`attention` and `local:w`: softmax attention over the whole document, or over a token and the w − 1 before it.

Queries and keys are rotated: a softmax over a set of tokens cannot tell their order otherwise. With grouped queries
(Ainslie et al. 2023, arXiv 2305.13245) consecutive heads have a key and a value together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import RecurrenceState, attention, attention_step, empty_state
from glm_kernels.attention import for_every_head
from glm_kernels.attention.decoding import rows_read
from glm_kernels.state import widened
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.attention.traffic import attention_traffic
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import HeadMixing
from glm_scale.mixers.queries_keys import RowWeights, head_norm, head_rows, row_weights, rows_before
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.attention import sharded_attention
from glm_scale.parallel.sequence.costs import Spread, Traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy

PAGE = 256
"""Rows by which the cache of unlimited attention grows, so that decoding copies it once in so many tokens."""

AttentionCache = RecurrenceState
"""Keys and values, the latter under the name y, of the rows that `rows_read` says, in the dtype of the weights."""


class AttentionMixing(HeadMixing):
    """y_i = Σ_j softmax_j(scale · q_i·k_j) v_j over the tokens j ≤ i, with a window over j > i − window only.

    The window is the structure's: the width of A's band. Head h has key and value h · kv_heads // heads.
    """

    structure: Structure
    sequence_strategies = ("a2a", "ring")
    of_input = ("q", "k")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        super().__init__()
        self.structure, self.window = structure, structure.input_width
        self.pattern = rows_read(self.window)
        self.heads, self.head_dim, self.rotary = dims.heads, dims.head_dim, dims.rotary
        self.kv_heads = dims.kv_heads or dims.heads
        self.q = dims.projection(dims.heads * dims.head_dim)
        self.k = dims.projection(self.kv_heads * dims.head_dim)
        self.q_norm, self.k_norm = head_norm(dims, dims.heads), head_norm(dims, self.kv_heads)

    @property
    def value_heads(self) -> int:
        return self.kv_heads

    def _queries_and_keys(self, project: Project) -> tuple[Tensor, Tensor]:
        q = head_rows(project(self.q), self.q_norm, self.heads)
        return q, head_rows(project(self.k), self.k_norm, self.kv_heads)

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        q, k = (sequence.rotation(y) for y in self._queries_and_keys(projecting(x)))
        starts, axis = sequence.all_document_starts, sequence.axis
        if axis is None:
            return attention(q, k, v, window=self.window, document_starts=starts, packing=sequence.packing)
        assert axis.strategy is not None
        return sharded_attention(
            q, k, v, axis.ranks, axis.strategy, window=self.window, document_starts=starts, packing=sequence.packing
        )

    def row_weights(self, x: Tensor, sequence: Sequence) -> RowWeights | None:
        if self.window == 1:
            return None
        q, k = (sequence.rotation(y) for y in self._queries_and_keys(projecting(x)))
        reads = self.pattern.read_matrix(x.shape[1])
        return row_weights(
            q, for_every_head(k, self.heads), None, rows_before(sequence.positions.expand(len(x), -1), reads)
        )

    def extend(
        self, project: Project, v: Tensor, cache: AttentionCache, rotation: Rotation | None = None
    ) -> tuple[Tensor, AttentionCache]:
        new = v.shape[1]
        if self.window == 1:  # a token alone weighs all
            return for_every_head(v, self.heads), cache._replace(position=cache.position + new)
        if rotation is None:
            rotation = self.rotary.after(cache.position, new)
        q, k = self._queries_and_keys(project)
        cache = self._with_room(cache, new)
        if new == 1:
            return attention_step(q, k, v, cache, window=self.window, angles=rotation)
        q, k = rotation(q), rotation(k)
        before = int(cache.position.max())  # the host waits: once for many tokens
        y = self._attend(q, k, v, cache, before) if before else attention(q, k, v, window=self.window)
        return y, self._keep(cache, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: AttentionCache, before: int) -> Tensor:
        """New rows over themselves and those of at most `before` in the cache that they may read."""
        earlier = before if self.window is None else min(before, self.window - 1)
        documents = torch.arange(len(q), device=q.device)[:, None]
        there = cache.position[:, None] - earlier + torch.arange(earlier, device=q.device)
        here = cache.position[:, None] + torch.arange(q.shape[1], device=q.device)
        slots = self._slots(there.clamp(min=0))
        at = torch.cat((there, here), 1)[:, None]
        age = here[:, :, None] - at
        mask = (at >= 0) & (age >= 0) & (age < (self.window or before + q.shape[1]))
        keys, values = (
            torch.cat((held[documents, :, slots].to(x.dtype), x), 1).transpose(1, 2)
            for held, x in ((cache.k, k), (cache.y, v))
        )
        grouped = self.kv_heads < self.heads
        y = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, mask[:, None], enable_gqa=grouped)
        return y.transpose(1, 2)

    def _keep(self, cache: AttentionCache, k: Tensor, v: Tensor) -> AttentionCache:
        """The cache with new rows written into it, the last ones if it cannot hold them all."""
        new = k.shape[1]
        kept = new if self.window is None else min(new, self.window - 1)
        documents = torch.arange(len(k), device=k.device)[:, None]
        slots = self._slots(cache.position[:, None] + torch.arange(new - kept, new, device=k.device))
        for held, x in ((cache.k, k), (cache.y, v)):
            held[documents, :, slots] = x[:, new - kept :].to(held.dtype)
        return cache._replace(position=cache.position + new)

    def _slots(self, rows: Tensor) -> Tensor:
        return rows if self.window is None else rows % (self.window - 1)

    def _with_room(self, cache: AttentionCache, new: int) -> AttentionCache:
        """Without a length it grows by whole pages, or to the window."""
        if cache.room is not None:
            return cache
        rows = int(cache.position.max()) + new
        return widened(cache, _paged(rows) if self.window is None else self.pattern.slot_count(rows))

    def empty_cache(self, batch: int, length: int | None = None) -> AttentionCache:
        weight, size = self.k.weight, self.head_dim
        length = None if self.window == 1 else length
        return empty_state(
            self.pattern, batch, self.kv_heads, size, size, length=length, device=weight.device, dtype=weight.dtype
        )

    def cache_bytes(self, length: int) -> int:
        position, row = 8, self.kv_heads * self.head_dim * self.k.weight.element_size()
        return position + 2 * self.structure.cache_rows(length) * row

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        return attention_traffic(self.window, strategy, spread, self.head_dim, self.kv_heads)


def _paged(rows: int) -> int:
    return -(-rows // PAGE) * PAGE
