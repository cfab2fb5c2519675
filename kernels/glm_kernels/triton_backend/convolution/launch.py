"""The short convolution in Triton: how its kernels are launched. All tensors are contiguous."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from glm_kernels.triton_backend.convolution.kernels import convolve, convolve_back, convolve_slopes

_ROWS, _LANES, _WARPS = 64, 64, 8
"""Tokens and channels of a tile: neighbours read a few tokens again, and what a row of it has are whole cache lines."""


def forward(x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None, silu: bool) -> Tensor:
    """y `[B, T, D]`."""
    (batch, length, channels), y = x.shape, torch.empty_like(x)
    convolve[_grid(batch, length, channels)](
        x, weight, positions, x if before is None else before, y, length, channels, _stride(positions),
        WIDTH=len(weight), CONTINUED=before is not None, SILU=silu, ROWS=_ROWS, LANES=_LANES, num_warps=_WARPS,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, positions: Tensor, before: Tensor | None, silu: bool
) -> list[Tensor]:
    """Gradients of x, weight, and of `before` if there is one."""
    (batch, length, channels), width, stride = x.shape, len(weight), _stride(positions)
    grid = _grid(batch, length, channels)
    slopes = torch.empty_like(x) if silu else grad
    sums = x.new_empty(batch * grid[0], width, channels, dtype=torch.float32)
    convolve_slopes[grid](
        grad, x, weight, positions, x if before is None else before, slopes, sums, length, channels, stride,
        WIDTH=width, CONTINUED=before is not None, SILU=silu, ROWS=_ROWS, LANES=_LANES, num_warps=_WARPS,
    )  # fmt: skip
    dx, dbefore = torch.empty_like(x), [] if before is None else [torch.empty_like(before)]
    convolve_back[_grid(batch, length + (width - 1 if dbefore else 0), channels)](
        slopes, weight, positions, dx, *(dbefore or [dx]), length, channels, stride,
        WIDTH=width, CONTINUED=before is not None, ROWS=_ROWS, LANES=_LANES, num_warps=_WARPS,
    )  # fmt: skip
    return [dx, sums.sum(0), *dbefore]


def _grid(batch: int, rows: int, channels: int) -> tuple[int, int, int]:
    return triton.cdiv(rows, _ROWS), triton.cdiv(channels, _LANES), batch


def _stride(positions: Tensor) -> int:
    """From one sequence to the next; all may have the same."""
    return positions.shape[1] if positions.shape[0] > 1 else 0
