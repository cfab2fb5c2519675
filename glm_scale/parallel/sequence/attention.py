"""Causal attention whose tokens are spread over ranks: each holds the same number of consecutive tokens.

* `ring` – keys and values travel from rank to rank, and each attends to those of its own tokens and of the shards
  before it, one after the other, with a running softmax (Liu et al. 2023, arXiv 2310.01889). Backwards they travel once
  more, and gradients go straight to the rank whose tokens they are. A window sends no further, and no more tokens, than
  it reaches.
* `a2a` – ranks exchange tokens for heads, and work on all tokens of their heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm_kernels import Packing, attention
from glm_kernels.attention import for_every_head
from glm_kernels.precision import accumulation_dtype
from glm_scale.parallel.collectives.communicator import Communicator, Pending
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.sequence.exchange import heads_to_tokens, own_tokens, tokens_to_heads
from glm_scale.parallel.sequence.reach import first_in_window
from glm_scale.parallel.sequence.saving import save, saved
from glm_scale.parallel.sequence.strategies import SequenceStrategy

_TILE = 1024
"""Queries and keys whose scores exist at a time."""


@between_graphs
def sharded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ranks: Communicator,
    strategy: SequenceStrategy,
    *,
    window: int | None = None,
    document_starts: Tensor | None = None,
    packing: Packing | None = None,
    scale: float | None = None,
) -> Tensor:
    """y `[B, L, H, V]` of this rank's tokens; q, k, v are theirs, and all is as in `glm_kernels.attention`.

    Fewer heads of keys and values are exchanged as they are where ranks share them out, else one for every head.
    document_starts: int `[B, P · L]`, of the tokens of all ranks, and so is the packing. Raises ValueError for the
    strategy `scan`.
    """
    if strategy == "scan":
        raise ValueError("the rows of attention cannot be spread over ranks by 'scan'; they can by 'a2a' or 'ring'")
    if strategy == "ring" or k.shape[2] % ranks.size:
        k, v = for_every_head(k, q.shape[2]), for_every_head(v, q.shape[2])
    if strategy == "ring":
        scale = q.shape[3] ** -0.5 if scale is None else scale
        starts = None if document_starts is None else own_tokens(document_starts, ranks)
        return _Ring.apply(q, k, v, ranks, _Reads(ranks.rank, q.shape[1], window, starts), scale)
    q, k, v = (tokens_to_heads(x, ranks) for x in (q, k, v))
    y = attention(q, k, v, window=window, document_starts=document_starts, packing=packing, scale=scale)
    return heads_to_tokens(y, ranks)


@dataclass(frozen=True)
class _Reads:
    """To which tokens of which shards a rank's tokens attend.

    starts: int `[B, L]`, where in the whole sequence each token's document starts.
    """

    rank: int
    length: int
    window: int | None
    starts: Tensor | None

    def first(self, distance: int) -> int:
        """Of the shard so many ranks before a rank, the first token that its tokens may attend to; `length` if none."""
        return first_in_window(self.window, self.length, distance)

    def tiles(self, distance: int, device: torch.device) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """(queries, keys, which pairs do not count) of the shard so many ranks before, whose keys begin at `first`.

        Nearest keys first, so that every token has met itself before it meets keys none of which count.
        """
        ahead = distance * self.length - self.first(distance)
        keys = self.length - self.first(distance)
        for begin in range(0, self.length, _TILE):
            rows = slice(begin, min(begin + _TILE, self.length))
            first = 0 if self.window is None else max(0, ahead + rows.start - self.window + 1)
            for end in range(min(keys, ahead + rows.stop), first, -_TILE):
                columns = slice(max(first, end - _TILE), end)
                yield rows, columns, self._hidden(rows, columns, ahead, device)

    def _hidden(self, rows: slice, keys: slice, ahead: int, device: torch.device) -> Tensor | None:
        """bool `[1 or B, 1, queries, keys]`. Query i is ahead + i − j tokens after key j."""
        row = torch.arange(rows.start, rows.stop, device=device).unsqueeze(1) + ahead
        key = torch.arange(keys.start, keys.stop, device=device)
        hidden = None
        if ahead + rows.start < keys.stop - 1:
            hidden = key > row
        if self.window is not None and ahead + rows.stop - 1 - keys.start >= self.window:
            early = row - key >= self.window
            hidden = early if hidden is None else hidden | early
        if hidden is not None:
            hidden = hidden[None, None]
        if self.starts is not None:
            # Counted from the same token as keys are.
            starts = self.starts[:, None, rows, None] - (self.rank * self.length - ahead)
            other = key < starts
            hidden = other if hidden is None else hidden | other
        return hidden


class _Ring(torch.autograd.Function):
    """The strategy `ring`. Keys and values are one tensor, `[B, H, rows, K + V]`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, ranks: Communicator, reads: _Reads, scale: float
    ) -> Tensor:  # fmt: skip
        q, own = q.transpose(1, 2).contiguous(), torch.cat([k, v], 3).transpose(1, 2).contiguous()
        widths = [k.shape[3], v.shape[3]]
        wide = accumulation_dtype(q.dtype)
        y = q.new_zeros(*q.shape[:3], widths[1], dtype=wide)
        largest, total = q.new_full((*q.shape[:3], 1), -torch.inf, dtype=wide), torch.zeros_like(y[..., :1])
        for distance, shard in _around(own, ranks, reads):
            if shard is None:
                continue
            k, v = shard.split(widths, 3)
            for rows, keys, hidden in reads.tiles(distance, q.device):
                scores = _scores(q[:, :, rows], k[:, :, keys], hidden, scale)
                top = torch.maximum(largest[:, :, rows], scores.amax(3, keepdim=True))
                shrink = torch.exp(largest[:, :, rows] - top)
                p = scores.sub_(top).exp_()
                largest[:, :, rows] = top
                total[:, :, rows] = total[:, :, rows] * shrink + p.sum(3, keepdim=True)
                y[:, :, rows] = y[:, :, rows] * shrink + _product(p.to(v.dtype), v[:, :, keys])
        found = (y / total).transpose(1, 2).to(v.dtype).contiguous()
        save(ctx, q, own, found, largest + total.log(), reads)
        ctx.ranks, ctx.widths, ctx.scale = ranks, widths, scale
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ranks: Communicator = ctx.ranks
        q, own, y, log_sum, reads = saved(ctx)
        wide = log_sum.dtype
        inner = (grad.to(wide) * y.to(wide)).sum(3, keepdim=True).transpose(1, 2)
        grad = grad.transpose(1, 2).contiguous()
        dq, home = torch.zeros_like(q, dtype=wide), _Home(torch.zeros_like(own, dtype=wide), ranks, reads)
        for distance, shard in _around(own, ranks, reads):
            if shard is not None:
                k, v = shard.split(ctx.widths, 3)
                dshard = torch.zeros_like(shard, dtype=wide)
                dk, dv = dshard.split(ctx.widths, 3)
                for rows, keys, hidden in reads.tiles(distance, q.device):
                    scores = _scores(q[:, :, rows], k[:, :, keys], hidden, ctx.scale)
                    p = scores.sub_(log_sum[:, :, rows]).exp_()
                    dv[:, :, keys] += _product(p.mT.to(v.dtype), grad[:, :, rows])
                    dp = _product(grad[:, :, rows], v[:, :, keys].mT)
                    ds = dp.sub_(inner[:, :, rows]).mul_(p).mul_(ctx.scale).to(q.dtype)
                    dq[:, :, rows] += _product(ds, k[:, :, keys])
                    dk[:, :, keys] += _product(ds.mT, q[:, :, rows])
                home.bring(distance, dshard)
            home.fetch(distance)
        dk, dv = home.total().split(ctx.widths, 3)
        return *(x.transpose(1, 2).to(q.dtype) for x in (dq, dk, dv)), None, None, None


def _around(own: Tensor, ranks: Communicator, reads: _Reads) -> Iterator[tuple[int, Tensor | None]]:
    """(how many ranks before, its keys and values from `first` on) of every shard that this rank reads, nearest first.

    While the caller works with one it is passed on, as far as the next rank reads it, and the next one comes in. None
    in place of shards before the first one: all ranks take the same number of steps.
    """
    shard: Tensor | None = own
    sent: list[Pending] = []
    for distance in range(ranks.size):
        first = reads.first(distance + 1)
        going = first < reads.length
        if going and shard is not None and ranks.rank + 1 < ranks.size:
            rest = shard[:, :, first - reads.first(distance) :].contiguous()
            sent.append(ranks.send(rest, ranks.rank + 1))
        coming = None
        if going and distance < ranks.rank:
            coming = ranks.receive(own[:, :, first:], ranks.rank - 1)
        yield distance, shard
        if not going:
            break
        shard = None if coming is None else coming.wait()
    for pending in sent:
        pending.wait()


class _Home:
    """Gradients of keys and values on the way to the ranks whose tokens they are."""

    def __init__(self, own: Tensor, ranks: Communicator, reads: _Reads) -> None:
        self._own, self._ranks, self._reads = own, ranks, reads
        self._sent: list[Pending] = []
        self._coming: tuple[int, Pending] | None = None

    def bring(self, distance: int, gradient: Tensor) -> None:
        """That of the shard so many ranks before."""
        if distance == 0:
            self._own += gradient
        else:
            self._sent.append(self._ranks.send(gradient, self._ranks.rank - distance))

    def fetch(self, distance: int) -> None:
        """What the rank so many ranks after brings: it comes in while the next shard is worked on."""
        self._add()
        if distance > 0 and self._ranks.rank + distance < self._ranks.size:
            first = self._reads.first(distance)
            self._coming = first, self._ranks.receive(self._own[:, :, first:], self._ranks.rank + distance)

    def total(self) -> Tensor:
        self._add()
        for pending in self._sent:
            pending.wait()
        return self._own

    def _add(self) -> None:
        if self._coming is not None:
            first, pending = self._coming
            self._own[:, :, first:] += pending.wait()
            self._coming = None


def _scores(q: Tensor, k: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
    """`[B, H, rows, keys]`, −∞ where hidden."""
    scores = _product(q, k.mT).mul_(scale)
    return scores if hidden is None else scores.masked_fill_(hidden, -torch.inf)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of `[B, H, …]`, summed and returned in the accumulation dtype."""
    wide = accumulation_dtype(a.dtype)
    if a.is_cuda and a.dtype != wide:
        return torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=wide).unflatten(0, a.shape[:2])
    return a.to(wide) @ b.to(wide)
