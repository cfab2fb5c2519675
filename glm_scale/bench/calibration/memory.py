"""Work that memory limits: copies, what torch's compiler makes of elementwise work, AdamW, the norm of gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_scale.bench.calibration.clock import Clock
from glm_scale.planning.calibration import PassTime, UpdateTime

__all__ = ["copy_times", "fused_gate_time", "fused_norm_time", "update_time"]


def copy_times(clock: Clock, room: int) -> list[PassTime]:
    """A copy of so many bytes, and a sum in place."""
    source = torch.ones(room // 4, device=clock.device)
    target = torch.zeros_like(source)
    copied = clock.seconds(lambda: target.copy_(source))
    added = clock.seconds(lambda: target.add_(source))
    return [PassTime(size=2 * room, seconds=copied), PassTime(size=3 * room, seconds=added)]


def fused_gate_time(clock: Clock, tokens: int, hidden: int) -> PassTime:
    """The gate of an MLP, forward and backward: three tensors, then five."""
    gate, up, grad = (clock.random(tokens, hidden) for _ in range(3))
    seconds = _seconds(clock, lambda a, b: (F.silu(a) * b,), [gate, up], [grad])
    return PassTime(size=8 * gate.numel() * gate.element_size(), seconds=seconds)


def fused_norm_time(clock: Clock, tokens: int, width: int) -> PassTime:
    """A residual sum and the norm behind it, forward and backward: four tensors each."""
    x, y, first, second = (clock.random(tokens, width) for _ in range(4))
    weight = clock.random(width)

    def run(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        total = x + y
        return total, F.rms_norm(total, weight.shape, weight, 1e-5)

    return PassTime(
        size=8 * x.numel() * x.element_size(), seconds=_seconds(clock, run, [x, y, weight], [first, second])
    )


def _seconds(
    clock: Clock, function: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], grads: list[Tensor]
) -> float:
    """Forward and backward, compiled as blocks are; on a CPU, where that would take a while, as it is."""
    run = torch.compile(function, dynamic=False) if clock.device == "cuda" else function
    leaves = [x.requires_grad_() for x in inputs]
    return clock.seconds(lambda: torch.autograd.grad(run(*leaves), leaves, grads))


def update_time(clock: Clock, numbers: int) -> UpdateTime:
    """AdamW over one flat fp32 tensor, as ZeRO has it, and the norm of one."""
    weights = torch.nn.Parameter(torch.randn(numbers, device=clock.device))
    gradients = torch.randn(numbers, device=clock.device)
    weights.grad = gradients
    optimizer = torch.optim.AdamW([weights], lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def update() -> Tensor:
        optimizer.step()
        return weights[:1]

    return UpdateTime(
        numbers=numbers, update=clock.seconds(update), norm=clock.seconds(lambda: gradients.float().norm(2))
    )
