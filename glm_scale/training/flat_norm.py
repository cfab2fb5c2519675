"""The gradient norm over flat buffers, where DeepSpeed takes one of every parameter.

A thousand small kernels keep a GPU waiting for the host between the backward pass and the optimizer.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["take_norm_of_flat_buffers"]


def take_norm_of_flat_buffers(zero: Any) -> None:
    """Let DeepSpeed's optimizer for bf16 with fp32 gradients (ZeRO-1) measure and clip each group's gradients as one.

    Other optimizers are left alone.
    """
    from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

    if not isinstance(zero, BF16_Optimizer):
        return

    def gradients(for_clipping: bool = False) -> Any:
        flat: list[Tensor] = list(zero.fp32_groups_gradients_flat)
        return flat if for_clipping else (flat, {})

    zero.get_grads_for_norm = gradients
