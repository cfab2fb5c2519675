"""A structured recurrence whose tokens are spread over ranks: each holds the same number of consecutive tokens.

What a rank needs of earlier tokens are the keys and outputs in the pattern's slots at its first token. Three ways to
get them:

* `scan` – every rank summarises its tokens as an affine map of the outputs in its slots, one all-gather brings the maps
  of all, and each rank folds those before it. Backwards the maps are the transposed ones, and only their new terms
  travel.
* `ring` – keys and outputs in the slots are handed from rank to rank, for one group of heads after the other, so that a
  rank works on a group while the next one works on the group before. Of patterns that keep every token, each rank sends
  its tokens straight to those that read them, which is never more than handing them on.
* `a2a` – ranks exchange tokens for heads, and work on all tokens of their heads.

Gradients of boundary keys go to the ranks whose tokens these are: without them y is right and dk is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from glm_kernels import Pattern, RecurrenceState, parse_pattern
from glm_kernels import recurrence as whole_recurrence
from glm_kernels.patterns import Dense, Offsets
from glm_kernels.precision import accumulation_dtype
from glm_kernels.sharding import recurrence as shards
from glm_scale.parallel.collectives.communicator import Communicator, Pending
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.sequence.exchange import heads_to_tokens, own_tokens, receive_from, send_to, tokens_to_heads
from glm_scale.parallel.sequence.reach import Spans, spans_read
from glm_scale.parallel.sequence.saving import save, saved
from glm_scale.parallel.sequence.strategies import SequenceStrategy

HEAD_GROUPS = 4
"""Into which `ring` cuts the heads of a rank: more overlap better, fewer have less overhead."""


class ShardedRecurrence:
    """`glm_kernels.recurrence` over the tokens of all ranks.

    `begin` takes the keys as soon as they are there, and may then send what other ranks need of them while the caller
    goes on with its own work; `finish` is the rest. One object serves any number of calls, one after the other.
    Raises ValueError for a pattern whose tokens cannot be spread in this way.
    """

    def __init__(self, pattern: Pattern | str, ranks: Communicator, strategy: SequenceStrategy) -> None:
        self.pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
        self.ranks, self.strategy = ranks, strategy
        self._keeps_all = isinstance(self.pattern, Dense | Offsets)
        if strategy == "scan" and self._keeps_all:
            raise ValueError(
                f"the rows of {self.pattern} cannot be spread over ranks by 'scan', since any of them may be read at "
                "any later time; they can by 'a2a' or 'ring'"
            )

    @between_graphs
    def begin(self, k: Tensor, document_starts: Tensor | None = None) -> Begun:
        """k `[B, L, H, K]`: keys of this rank's tokens. document_starts: int `[B, P · L]`, of the tokens of all
        ranks."""
        shard = None if self.strategy == "a2a" else self._shard(k, document_starts)
        if self.strategy != "scan" or shard is None:
            return Begun(k, document_starts, shard, None)
        keys = self.ranks.all_gather(shards.outgoing_keys(k.detach(), shard).contiguous())
        return Begun(k, document_starts, shard, keys)

    @between_graphs
    def finish(self, begun: Begun, q: Tensor, v: Tensor, d: Tensor, *, scale: float | None = None) -> Tensor:
        """y `[B, L, H, V]` of this rank's tokens; q, v, d as in `glm_kernels.recurrence`."""
        scale = q.shape[3] ** -0.5 if scale is None else scale
        if self.strategy == "a2a":
            return self._over_heads(begun, q, v, d, scale)
        if self.strategy == "ring":
            return self._around_the_ring(begun, q, v, d, scale)
        return _Scan.apply(q, begun.k, v, d, begun, self.ranks, scale)

    def _shard(self, k: Tensor, document_starts: Tensor | None) -> shards.Shard:
        (batch, length), ranks = k.shape[:2], self.ranks
        first = ranks.rank * length
        pattern, total = self.pattern, ranks.size * length
        if self._keeps_all:
            # In a slot of its own: there are as many as there were tokens.
            pattern, total = parse_pattern("dense"), first + length
        starts = None if document_starts is None else own_tokens(document_starts, ranks)
        return shards.shard_of(pattern, batch, first, length, total, document_starts=starts, device=k.device)

    def _over_heads(self, begun: Begun, q: Tensor, v: Tensor, d: Tensor, scale: float) -> Tensor:
        q, k, v, d = (tokens_to_heads(x, self.ranks) for x in (q, begun.k, v, d))
        y, _ = whole_recurrence(q, k, v, d, self.pattern, scale=scale, document_starts=begun.document_starts)
        return heads_to_tokens(y, self.ranks)

    def _around_the_ring(self, begun: Begun, q: Tensor, v: Tensor, d: Tensor, scale: float) -> Tensor:
        groups = min(HEAD_GROUPS, q.shape[2])
        cut = [x.tensor_split(groups, 2) for x in (q, begun.k, v, d)]
        step = self._step_by_rows if self._keeps_all else self._step_by_slots
        return torch.cat([step(begun, scale, *x) for x in zip(*cut, strict=True)], 2)

    def _step_by_slots(self, begun: Begun, scale: float, q: Tensor, k: Tensor, v: Tensor, d: Tensor) -> Tensor:
        shard, ranks = begun.known_shard, self.ranks
        slots = len(k), k.shape[2], shard.slots
        before_k, before_y = k.new_zeros(*slots, k.shape[3]), v.new_zeros(*slots, v.shape[3])
        if ranks.rank > 0:
            before_k, before_y = receive_from(ranks.rank - 1, ranks, d, before_k, before_y)
        y = self._continued(shard, scale, q, k, v, d, before_k, before_y)
        if ranks.rank == ranks.size - 1:
            return y
        stays = shard.stays[:, None, :, None]
        after = (
            torch.where(stays, before, shards.outgoing_keys(x, shard))
            for before, x in ((before_k, k), (before_y, y))
        )  # fmt: skip
        return send_to(ranks.rank + 1, ranks, y, *after)

    def _step_by_rows(self, begun: Begun, scale: float, q: Tensor, k: Tensor, v: Tensor, d: Tensor) -> Tensor:
        shard, ranks = begun.known_shard, self.ranks
        assert isinstance(self.pattern, Dense | Offsets)
        spans = [spans_read(self.pattern, shard.length, distance) for distance in range(1, ranks.size)]
        # The tokens of every rank before, zeros for those that are not read.
        before = []
        for source in range(ranks.rank):
            read = spans[ranks.rank - source - 1]
            like = _rows(k, read), _rows(v, read)
            found = receive_from(source, ranks, d, *like) if read else like
            before.append([_spread(x, read, shard.length) for x in found])
        before_k, before_y = (
            _in_slots(torch.cat(x, 1), begun, shard) for x in zip([k[:, :0], v[:, :0]], *before, strict=True)
        )  # fmt: skip
        y = continued = self._continued(shard, scale, q, k, v, d, before_k, before_y)
        for to in range(ranks.rank + 1, ranks.size):
            read = spans[to - ranks.rank - 1]
            if read:
                y = send_to(to, ranks, y, _rows(k, read), _rows(continued, read))
        return y

    def _continued(
        self, shard: shards.Shard, scale: float, q: Tensor, k: Tensor, v: Tensor, d: Tensor, before_k: Tensor,
        before_y: Tensor,
    ) -> Tensor:  # fmt: skip
        """y of this rank's tokens, after the keys and outputs `[B, H, S, …]` in the slots at their start."""
        wide = accumulation_dtype(q.dtype)
        state = RecurrenceState(before_k.to(wide), before_y.to(wide), shard.position, room=shard.total)
        return whole_recurrence(
            q, k, v, d, self.pattern, scale=scale, document_starts=shard.starts, initial_state=state
        )[0]  # fmt: skip


def _rows(x: Tensor, spans: Spans) -> Tensor:
    """These tokens of x `[B, L, …]`, one span after the other."""
    parts = [x[:, first:end] for first, end in spans] or [x[:, :0]]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _spread(x: Tensor, spans: Spans, length: int) -> Tensor:
    """The way back: `[B, length, …]`, zeros between the spans."""
    parts, filled = [], 0
    widths = [end - first for first, end in spans]
    for (first, end), rows in zip(spans, x.split(widths, 1), strict=True):
        parts += [x.new_zeros(len(x), first - filled, *x.shape[2:]), rows]
        filled = end
    return torch.cat([*parts, x.new_zeros(len(x), length - filled, *x.shape[2:])], 1)


def _in_slots(rows: Tensor, begun: Begun, shard: shards.Shard) -> Tensor:
    """`[B, H, S, …]` of all tokens before the shard `[B, first_row, …]`: every token of its document has a slot."""
    if begun.document_starts is not None:
        # Slots that are free may hold anything.
        held = shard.enters[:, : shard.first_row].clamp(min=0)
        # Not take_along_dim: autograd would keep its indices, expanded to eight bytes for every number.
        rows = rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), held]
    return pad(rows.transpose(1, 2), (0, 0, 0, shard.slots - shard.first_row))


@dataclass(frozen=True)
class Begun:
    """What `ShardedRecurrence.begin` hands to `finish`."""

    k: Tensor
    document_starts: Tensor | None
    shard: shards.Shard | None
    keys: Pending | None
    """Of `scan`: all ranks' outgoing keys."""

    @property
    def known_shard(self) -> shards.Shard:
        """The shard, of a strategy and pattern that have one."""
        assert self.shard is not None
        return self.shard


class _Scan(torch.autograd.Function):
    """The strategy `scan`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, d: Tensor, begun: Begun, ranks: Communicator, scale: float
    ) -> Tensor:
        shard, keys = begun.known_shard, begun.keys
        assert keys is not None
        local = shards.forward_local(q, k, v, d, shard, shards.boundary_keys(keys.wait(), shard), scale=scale)
        map_, add = local.summary
        summaries = ranks.all_gather(torch.cat([map_, add], 3).contiguous()).wait()
        maps, adds = summaries.split([map_.shape[3], add.shape[3]], 4)
        boundary = torch.zeros_like(add)
        for before in range(ranks.rank):
            boundary = shards.apply_map(shards.Summary(maps[before], adds[before]), boundary)
        y, kept = shards.forward_finish(local, boundary)
        # Later ranks' maps, which bring their adjoints here.
        save(ctx, kept, shard, maps[ranks.rank + 1 :].clone())
        ctx.ranks = ranks
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        ranks: Communicator = ctx.ranks
        kept, shard, maps = saved(ctx)
        local = shards.backward_local(kept, grad_y)
        adds = ranks.all_gather(local.summary.add.contiguous()).wait()
        left = torch.zeros_like(local.summary.add)
        for after in reversed(range(ranks.rank + 1, ranks.size)):
            left = shards.apply_map(shards.Summary(maps[after - ranks.rank - 1].mT, adds[after]), left)
        dq, dk, dv, dd, dboundary_k, _ = shards.backward_finish(local, left)
        sent = shards.sent_key_gradients(dboundary_k, shard, ranks.size)
        dk = shards.add_key_gradients(dk, ranks.reduce_scatter(sent.contiguous()).wait(), shard)
        return dq, dk, dv, dd, None, None, None
