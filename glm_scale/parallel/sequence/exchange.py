"""Exchanges between ranks that gradients flow back through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glm_scale.parallel.collectives.communicator import Communicator
from glm_scale.parallel.graph_breaks import between_graphs


@between_graphs
def gathered_tokens(x: Tensor, ranks: Communicator) -> Tensor:
    """`[B, P · L, …]` of every rank's x `[B, L, …]`; without gradients."""
    return ranks.all_gather(x.contiguous()).wait().transpose(0, 1).flatten(1, 2)


def own_tokens(x: Tensor, ranks: Communicator) -> Tensor:
    """This rank's tokens `[B, L, …]` of x `[B, P · L, …]`."""
    return x.chunk(ranks.size, 1)[ranks.rank]


@between_graphs
def tokens_to_heads(x: Tensor, ranks: Communicator) -> Tensor:
    """From this rank's tokens of all heads `[B, L, H, …]` to all tokens of its heads `[B, P · L, H / P, …]`.

    Raises ValueError if the heads cannot be shared out equally.
    """
    if x.shape[2] % ranks.size:
        raise ValueError(
            f"{x.shape[2]} heads cannot be shared out over {ranks.size} ranks; take a number of ranks that divides the "
            "heads, or another strategy than 'a2a'"
        )
    return _Exchange.apply(x, ranks, True)


@between_graphs
def heads_to_tokens(x: Tensor, ranks: Communicator) -> Tensor:
    """The way back."""
    return _Exchange.apply(x, ranks, False)


@between_graphs
def tokens_before(x: Tensor, count: int, ranks: Communicator) -> Tensor:
    """The last tokens `[B, count, …]` of the rank before this one, whose own are x `[B, L, …]`; zeros on the first
    rank.

    Raises ValueError if shards have fewer tokens.
    """
    if x.shape[1] < count:
        raise ValueError(f"a shard has {x.shape[1]} rows, of which the next one reads {count}; spread over fewer ranks")
    return _RowsBefore.apply(x, count, ranks)


@between_graphs
def receive_from(source: int, ranks: Communicator, anchor: Tensor, *like: Tensor) -> tuple[Tensor, ...]:
    """Tensors like these, which `send_to` sends on rank `source`; their gradients are sent back to it.

    anchor: a tensor that needs a gradient if anything here does.
    """
    return _Receive.apply(source, ranks, anchor, *like)


@between_graphs
def send_to(to: int, ranks: Communicator, y: Tensor, *tensors: Tensor) -> Tensor:
    """Sends tensors to rank `to`, and gives y: their gradients come back when y's is there."""
    return _Send.apply(to, ranks, y, *tensors)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Communicator, to_heads: bool) -> Tensor:
        ctx.ranks, ctx.to_heads = ranks, to_heads
        return _exchanged(x, ranks, to_heads)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _exchanged(grad, ctx.ranks, not ctx.to_heads), None, None


def _exchanged(x: Tensor, ranks: Communicator, to_heads: bool) -> Tensor:
    if to_heads:
        parts = x.unflatten(2, (ranks.size, -1)).movedim(2, 0)
        return ranks.all_to_all(parts.contiguous()).wait().transpose(0, 1).flatten(1, 2)
    parts = x.unflatten(1, (ranks.size, -1)).movedim(1, 0)
    return ranks.all_to_all(parts.contiguous()).wait().movedim(0, 2).flatten(2, 3)


class _RowsBefore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, ranks: Communicator) -> Tensor:
        ctx.ranks, ctx.shape = ranks, x.shape
        return _shifted(x[:, x.shape[1] - count :].contiguous(), ranks, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        whole = grad.new_zeros(ctx.shape)
        whole[:, ctx.shape[1] - grad.shape[1] :] = _shifted(grad.contiguous(), ctx.ranks, -1)
        return whole, None, None


def _shifted(x: Tensor, ranks: Communicator, step: int) -> Tensor:
    """The x of rank − step; zeros if there is no such rank."""
    to, source = ranks.rank + step, ranks.rank - step
    sent = ranks.send(x, to) if 0 <= to < ranks.size else None
    found = ranks.receive(x, source).wait() if 0 <= source < ranks.size else torch.zeros_like(x)
    if sent is not None:
        sent.wait()
    return found


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: int, ranks: Communicator, anchor: Tensor, *like: Tensor) -> tuple[Tensor, ...]:
        ctx.source, ctx.ranks = source, ranks
        pending = [ranks.receive(x, source) for x in like]
        return tuple(x.wait() for x in pending)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        for pending in [ctx.ranks.send(x.contiguous(), ctx.source) for x in grads]:
            pending.wait()
        return (None,) * (3 + len(grads))


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, to: int, ranks: Communicator, y: Tensor, *tensors: Tensor) -> Tensor:
        ctx.to, ctx.ranks = to, ranks
        ctx.like = [(x.shape, x.dtype, x.device) for x in tensors]
        # What is under way is awaited when the gradients are: nobody changes it before.
        ctx.sent = [ranks.send(x.contiguous(), to) for x in tensors]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        for pending in ctx.sent:
            pending.wait()
        like = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like]
        pending = [ctx.ranks.receive(x, ctx.to) for x in like]
        return None, None, grad, *(x.wait() for x in pending)
