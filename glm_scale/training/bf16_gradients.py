"""Gradients on their way from the backward pass to the optimizer, where DeepSpeed goes from parameter to parameter.

DeepSpeed's optimizer for bf16 weights with fp32 gradients (ZeRO-1) keeps the bf16 gradients from step to step, where
autograd adds to zeros, adds them one by one to zeros in fp32, casts the sums to bf16 and back for ranks that a single
one does not have, and measures them one by one: more memory traffic than the update itself, in a thousand small
kernels.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["PIECES", "SENT_AT_ONCE", "handle_gradients_together"]

SENT_AT_ONCE = 200_000_000
"""Numbers that ranks sum at once. They are cast to bf16 for that."""
PIECES = 3
"""That are cast at a time."""


def handle_gradients_together(engine: Any, replica_group: Any, *, whole: bool) -> None:
    """Let DeepSpeed take, sum and measure the gradients of all parameters at once, and give up those in bf16.

    Its other optimizers are left alone. `replica_group`: ranks with other tokens, over which gradients are averaged;
    None: all. `whole`: every rank has whole parameters, so that norms are those of the flat buffers. (Tensor ranks have
    to leave out what another one counts.)
    """
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    zero = engine.optimizer
    if not isinstance(zero, BF16_Optimizer):
        return
    gradients = _Gradients(zero, replica_group)
    zero.update_hp_grads, zero.clear_hp_grads = gradients.take, gradients.forget
    engine.buffered_allreduce_fallback = gradients.average
    if whole:
        zero.get_grads_for_norm = gradients.flat


class _Gradients:
    """The fp32 gradients of a BF16_Optimizer, with the bookkeeping that it reads itself."""

    def __init__(self, zero: Any, replica_group: Any) -> None:
        self._zero = zero
        self._replica_group = replica_group
        self._replicas = dist.get_world_size(replica_group)
        self._parameters = [parameter for group in zero.bf16_groups for parameter in group]
        self._sums = [gradient for group in zero.fp32_groups_gradients for gradient in group]
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            parameter._hp_grad = total
        self._begun = False

    @torch.no_grad()
    def take(self, clear_lp_grads: bool = False) -> None:
        """Add the gradients of a micro-batch to those of the step; the first ones take the place of the last step's."""
        fresh, into = [], []
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not None:
                fresh.append(parameter.grad.reshape(-1))
                into.append(total)
                parameter.grad = None
            elif not self._begun:
                total.zero_()
        (torch._foreach_add_ if self._begun else torch._foreach_copy_)(into, fresh)
        self._begun = True
        for index, group in enumerate(self._zero.bf16_groups):
            self._zero.fp32_groups_has_gradients[index] = [True] * len(group)

    @torch.no_grad()
    def average(self, *_: Any, **__: Any) -> None:
        """Over the replicas, sent in bf16, as DeepSpeed does it."""
        if self._replicas == 1:
            return
        on_the_way: deque[tuple[Tensor, Tensor, Any]] = deque()
        for flat in self._zero.fp32_groups_gradients_flat:
            for piece in flat.split(SENT_AT_ONCE):
                sent = piece.to(torch.bfloat16).mul_(1 / self._replicas)
                on_the_way.append((piece, sent, dist.all_reduce(sent, group=self._replica_group, async_op=True)))
                if len(on_the_way) == PIECES:
                    _land(*on_the_way.popleft())
        while on_the_way:
            _land(*on_the_way.popleft())

    def forget(self) -> None:
        """The step is over. What is left of it is overwritten by the next one."""
        self._begun = False
        for index, group in enumerate(self._zero.bf16_groups):
            self._zero.fp32_groups_has_gradients[index] = [False] * len(group)

    def flat(self, for_clipping: bool = False) -> Any:
        """As DeepSpeed asks for them, to measure or to clip."""
        flat: list[Tensor] = list(self._zero.fp32_groups_gradients_flat)
        return flat if for_clipping else (flat, {})


def _land(piece: Tensor, sent: Tensor, work: Any) -> None:
    work.wait()
    piece.copy_(sent)
