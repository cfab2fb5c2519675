"""Published recurrences whose tokens are spread over ranks: as in `ssm`, with a map of its own for every shard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glm_kernels import gated_delta_rule, gated_linear_attention, log_linear_attention
from glm_kernels.linear_attention.sharding import LinearShard, applied, shard_of
from glm_kernels.precision import accumulation_dtype
from glm_scale.parallel.collectives.communicator import Communicator
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.sequence.exchange import heads_to_tokens, own_tokens, receive_from, send_to, tokens_to_heads
from glm_scale.parallel.sequence.saving import save, saved
from glm_scale.parallel.sequence.strategies import SequenceStrategy


@between_graphs
def sharded_log_linear_attention(
    operands: tuple[Tensor, ...], ranks: Communicator, strategy: SequenceStrategy, document_starts: Tensor | None
) -> Tensor:
    """y `[B, L, H, V]` of this rank's tokens, by heads; operands as in `glm_kernels.log_linear_attention`, of this
    rank's tokens. document_starts: int `[B, P · L]`, of the tokens of all ranks."""
    assert strategy == "a2a", strategy
    q, k, v, log_decay, level = (tokens_to_heads(x, ranks) for x in operands)
    return heads_to_tokens(log_linear_attention(q, k, v, log_decay, level, document_starts=document_starts)[0], ranks)


@between_graphs
def sharded_linear_attention(
    operands: tuple[Tensor, ...], ranks: Communicator, strategy: SequenceStrategy, document_starts: Tensor | None
) -> Tensor:
    """The same of `glm_kernels.gated_linear_attention`, or with β of `gated_delta_rule`, by any strategy."""
    if strategy == "a2a":
        of_heads = tuple(tokens_to_heads(x, ranks) for x in operands)
        return heads_to_tokens(gated(of_heads, document_starts=document_starts)[0], ranks)
    starts = None if document_starts is None else own_tokens(document_starts, ranks)
    if strategy == "scan":
        return _Scan.apply(ranks, starts, *operands)
    return _around_the_ring(operands, ranks, starts)


def gated(operands: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, Tensor | None]:
    """`glm_kernels.gated_linear_attention` of four operands, `gated_delta_rule` of five."""
    operator: Any = gated_linear_attention if len(operands) == 4 else gated_delta_rule
    found: tuple[Tensor, Tensor | None] = operator(*operands, **options)
    return found


def _shard(operands: tuple[Tensor, ...], ranks: Communicator, starts: Tensor | None) -> LinearShard:
    q, k, v, log_decay, beta = (*operands, None)[:5]
    assert q is not None
    return shard_of(q, k, v, log_decay, beta, q.shape[3] ** -0.5, ranks.rank * q.shape[1], starts)  # type: ignore[arg-type]


def _around_the_ring(operands: tuple[Tensor, ...], ranks: Communicator, starts: Tensor | None) -> Tensor:
    shard = _shard(operands, ranks, starts)
    q, v = shard.q, shard.v
    state = q.new_zeros(len(q), q.shape[2], q.shape[3], v.shape[3], dtype=accumulation_dtype(q.dtype))
    if ranks.rank > 0:
        (state,) = receive_from(ranks.rank - 1, ranks, shard.log_decay, state)
        state = shard.entering(state)
    y, left = gated(operands, document_starts=shard.starts, initial_state=state, output_final_state=True)
    assert left is not None
    return y if ranks.rank == ranks.size - 1 else send_to(ranks.rank + 1, ranks, y, left)


class _Scan(torch.autograd.Function):
    """The strategy `scan`."""

    @staticmethod
    def forward(ctx: Any, ranks: Communicator, starts: Tensor | None, *operands: Tensor) -> Tensor:
        shard = _shard(operands, ranks, starts)
        chunks = shard.chunks()
        map_, added = shard.summary(chunks)
        map_ = map_ if map_.ndim == 4 else map_.unsqueeze(3)  # a diagonal is one column
        summaries = ranks.all_gather(torch.cat([added, map_], 3).contiguous()).wait()
        states, maps = summaries.split([added.shape[3], map_.shape[3]], 4)
        maps = maps.squeeze(4) if shard.beta is None else maps
        state = torch.zeros_like(added)
        for before in range(ranks.rank):
            state = applied(maps[before], state) + states[before]
        save(ctx, shard, state, maps.clone())
        ctx.ranks = ranks
        return shard.outputs(chunks, state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ranks: Communicator = ctx.ranks
        shard, state, maps = saved(ctx)
        added, gradients = shard.adjoint(state, grad)
        adjoints = ranks.all_gather(added.contiguous()).wait()
        left = torch.zeros_like(state)
        for after in reversed(range(ranks.rank + 1, ranks.size)):
            left = applied(maps[after], left, adjoint=True) + adjoints[after]
        return None, None, *gradients(left)
