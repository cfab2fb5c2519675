"""Gated linear attention and the gated delta rule of a sequence shard: what it does to the state that enters it.

A shard maps the state h that enters it to P h + added, and the gradient g of the state that leaves it to Pᵀ g + added'.
Ranks link their shards by exchanging these: those of `summary` before `outputs`, those of `adjoint` on the way back.
States are `[B, H, K, V]`; P is a matrix `[B, H, K, K]` with β, else its diagonal `[B, H, K]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glm_kernels.linear_attention import chunkwise
from glm_kernels.linear_attention.chunkwise import applied

__all__ = ["LinearShard", "applied", "shard_of"]


@dataclass(frozen=True)
class LinearShard:
    """One shard's operands, as in `operators`. `opens` bool `[B]`: whether the document of its first row begins there,
    so that it takes nothing over. `starts` int `[B, L]`: where documents start, counted from the shard's first row (0
    for those from before), or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor
    beta: Tensor | None
    scale: float
    starts: Tensor | None
    opens: Tensor

    def chunks(self) -> chunkwise.Chunks:
        """The maps of the shard's chunks, of which the rest is made."""
        return chunkwise.chunks_of(self.q, self.k, self.v, self.log_decay, self.beta, self.scale, self.starts)

    def summary(self, chunks: chunkwise.Chunks) -> tuple[Tensor, Tensor]:
        """(P, added) of states that enter."""
        map_, added = chunkwise.summary(chunks)
        return map_.masked_fill(_like(self.opens, map_), 0), added

    def outputs(self, chunks: chunkwise.Chunks, state: Tensor) -> Tensor:
        """y `[B, L, H, V]` for the state that enters."""
        return chunkwise.rows_and_final(chunks, self.entering(state), self.v)[0]

    def entering(self, state: Tensor) -> Tensor:
        """The state of the rank before, zero where a document begins."""
        return state.masked_fill(_like(self.opens, state), 0)

    @torch.enable_grad()
    def adjoint(self, state: Tensor, grad: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """added' of y's gradient, and what makes the gradients of q, k, v, log_decay and β of that of the state that
        leaves."""
        q, k, v, log_decay = (x.detach().requires_grad_() for x in (self.q, self.k, self.v, self.log_decay))
        beta = None if self.beta is None else self.beta.detach().requires_grad_()
        leaves = [q, k, v, log_decay, *(() if beta is None else (beta,))]
        state = state.detach().requires_grad_()
        y, left = chunkwise.run(q, k, v, log_decay, beta, self.scale, self.starts, self.entering(state))
        (added,) = torch.autograd.grad(y, state, grad, retain_graph=True)

        def gradients(left_grad: Tensor) -> list[Tensor]:
            return list(torch.autograd.grad([y, left], leaves, [grad, left_grad]))

        return added, gradients


def shard_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor | None,
    scale: float,
    first_row: int,
    document_starts: Tensor | None = None,
) -> LinearShard:
    """The shard whose first row is `first_row` of all. document_starts: int `[B, L]`, counted from the first of all."""
    if document_starts is None:
        opens = torch.full((len(q),), first_row == 0, device=q.device)
        return LinearShard(q, k, v, log_decay, beta, scale, None, opens)
    local = (document_starts - first_row).clamp(min=0)
    return LinearShard(q, k, v, log_decay, beta, scale, local, document_starts[:, 0] >= first_row)


def _like(opens: Tensor, x: Tensor) -> Tensor:
    return opens.view(-1, *[1] * (x.ndim - 1))
