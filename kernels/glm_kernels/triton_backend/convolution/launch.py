"""The short convolution in Triton: how its kernels are launched. All tensors are contiguous."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from glm_kernels.triton_backend.convolution.kernels import convolve, convolve_backward

_ROWS, _LANES, _WARPS = 64, 64, 8


def forward(x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None, silu: bool) -> Tensor:
    """y `[B, T, D]`."""
    (batch, length, channels), y = x.shape, torch.empty_like(x)
    convolve[(triton.cdiv(length, _ROWS), triton.cdiv(channels, _LANES), batch)](
        x, weight, positions, x if before is None else before, y, length, channels, _stride(positions),
        WIDTH=len(weight), CONTINUED=before is not None, SILU=silu, ROWS=_ROWS, LANES=_LANES, num_warps=_WARPS,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None, silu: bool
) -> list[Tensor]:
    """Gradients of x, weight, and of `before` if there is one."""
    (batch, length, channels), width, dx = x.shape, len(weight), torch.empty_like(x)
    dbefore = [] if before is None else [torch.empty_like(before)]
    tiles = triton.cdiv(length + (width - 1 if dbefore else 0), _ROWS)
    sums = x.new_empty(batch * tiles, width, channels, dtype=torch.float32)
    convolve_backward[(tiles, triton.cdiv(channels, _LANES), batch)](
        grad, x, weight, positions, x if before is None else before, dx, *(dbefore or [dx]), sums,
        length, channels, _stride(positions),
        WIDTH=width, CONTINUED=before is not None, SILU=silu, ROWS=_ROWS, LANES=_LANES, num_warps=_WARPS,
    )  # fmt: skip
    return [dx, sums.sum(0), *dbefore]


def _stride(positions: Tensor) -> int:
    """From one sequence to the next; all may have the same."""
    return positions.shape[1] if positions.shape[0] > 1 else 0
