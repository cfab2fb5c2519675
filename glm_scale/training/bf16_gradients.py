"""Gradients on their way from the backward pass to the optimizer, where DeepSpeed goes from parameter to parameter.

DeepSpeed's optimizer for bf16 weights with fp32 gradients (ZeRO-1) keeps the bf16 gradients from step to step, where
autograd adds to zeros, adds them one by one to zeros in fp32, and measures them one by one: a third more memory traffic
than the update itself, in a thousand small kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["handle_gradients_together"]


def handle_gradients_together(zero: Any, *, whole: bool) -> None:
    """Let that optimizer take the gradients of all parameters at once, and give up those in bf16.

    Others are left alone. `whole`: every rank has whole parameters, so that norms are those of the flat buffers.
    (Tensor ranks have to leave out what another one counts.) The bits of gradients stay what they are.
    """
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    if not isinstance(zero, BF16_Optimizer):
        return
    gradients = _Gradients(zero)
    zero.update_hp_grads, zero.clear_hp_grads = gradients.take, gradients.forget
    if whole:
        zero.get_grads_for_norm = gradients.flat


class _Gradients:
    """The fp32 gradients of a BF16_Optimizer, with the bookkeeping that it reads itself."""

    def __init__(self, zero: Any) -> None:
        self._zero = zero
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

    def forget(self) -> None:
        """The step is over. What is left of it is overwritten by the next one."""
        self._begun = False
        for index, group in enumerate(self._zero.bf16_groups):
            self._zero.fp32_groups_has_gradients[index] = [False] * len(group)

    def flat(self, for_clipping: bool = False) -> Any:
        """As DeepSpeed asks for them, to measure or to clip."""
        flat: list[Tensor] = list(self._zero.fp32_groups_gradients_flat)
        return flat if for_clipping else (flat, {})
