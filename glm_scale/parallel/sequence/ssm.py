"""The first-order SSM whose tokens are spread over ranks: as in `recurrence`, with states instead of outputs in
slots."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glm_kernels import ssm
from glm_kernels.precision import accumulation_dtype
from glm_kernels.sharding.ssm import ssm_shard_of
from glm_scale.parallel.collectives.communicator import Communicator
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.sequence.exchange import heads_to_tokens, own_tokens, receive_from, send_to, tokens_to_heads
from glm_scale.parallel.sequence.saving import save, saved
from glm_scale.parallel.sequence.strategies import SequenceStrategy


@between_graphs
def sharded_ssm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    ranks: Communicator,
    strategy: SequenceStrategy,
    *,
    scale: float | None = None,
    document_starts: Tensor | None = None,
) -> Tensor:
    """y `[B, L, H, V]` of this rank's tokens; operands as in `glm_kernels.ssm`, of this rank's tokens.

    document_starts: int `[B, P · L]`, of the tokens of all ranks.
    """
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if strategy == "a2a":
        q, k, v, log_decay = (tokens_to_heads(x, ranks) for x in (q, k, v, log_decay))
        return heads_to_tokens(ssm(q, k, v, log_decay, scale=scale, document_starts=document_starts)[0], ranks)
    starts = None if document_starts is None else own_tokens(document_starts, ranks)
    if strategy == "scan":
        return _Scan.apply(q, k, v, log_decay, ranks, scale, starts)
    return _around_the_ring(q, k, v, log_decay, ranks, scale, starts)


def _around_the_ring(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, ranks: Communicator, scale: float, starts: Tensor | None
) -> Tensor:
    shard = ssm_shard_of(q, k, v, log_decay, scale, ranks.rank * q.shape[1], starts)
    wide = accumulation_dtype(q.dtype)
    state = q.new_zeros(len(q), q.shape[2], q.shape[3], v.shape[3], dtype=wide)
    if ranks.rank > 0:
        (state,) = receive_from(ranks.rank - 1, ranks, log_decay, state)
        state = state.masked_fill(shard.opens[:, None, None, None], 0)
    y, left = ssm(
        q, k, v, log_decay,
        scale=scale, document_starts=shard.starts, initial_state=state, output_final_state=True,
    )  # fmt: skip
    assert left is not None
    return y if ranks.rank == ranks.size - 1 else send_to(ranks.rank + 1, ranks, y, left)


class _Scan(torch.autograd.Function):
    """The strategy `scan`."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, ranks: Communicator, scale: float,
        starts: Tensor | None,
    ) -> Tensor:  # fmt: skip
        shard = ssm_shard_of(q, k, v, log_decay, scale, ranks.rank * q.shape[1], starts)
        decay, added = shard.summary()
        state_shape = added.shape[2:]
        summaries = ranks.all_gather(torch.cat([added.flatten(2), decay.unsqueeze(2)], 2)).wait()
        decays = summaries[..., -1, None, None]
        states = summaries[..., :-1].unflatten(3, state_shape)
        state = torch.zeros_like(added)
        for before in range(ranks.rank):
            state = decays[before] * state + states[before]
        save(ctx, shard, state, decays.clone())
        ctx.ranks = ranks
        return shard.outputs(state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ranks: Communicator = ctx.ranks
        shard, state, decays = saved(ctx)
        adjoints = ranks.all_gather(shard.adjoint_summary(grad).contiguous()).wait()
        left = torch.zeros_like(state)
        for after in reversed(range(ranks.rank + 1, ranks.size)):
            left = decays[after] * left + adjoints[after]
        return *shard.gradients(state, grad, left), None, None, None
