"""How tensors of the kernels' own are stored, and how wide their tiles are. Imports no Triton."""

from __future__ import annotations

import torch
from torch import Tensor

_NARROWEST = 64


def padded_width(width: int) -> int:
    """Lanes of the tiles of the chained kernels.

    Narrow rows are padded: of tiles of 16 lanes Triton 3.6 made code that read outside of its tensors on an H100 (an
    illegal memory access), though the same kernels are right in its interpreter.
    """
    return max(_NARROWEST, 1 << (width - 1).bit_length())


def norm_dtype(operands: torch.dtype) -> torch.dtype:
    """Of binary logarithms of softmax denominators: one float32 is too coarse for weights of float32 operands."""
    return torch.float64 if operands == torch.float32 else torch.float32


def residual_of(y: Tensor) -> Tensor:
    """Room for the residuals of y (`residuals`); float32 has none, and the tensor is empty."""
    return torch.empty_like(y if y.dtype != torch.float32 else y[:0], dtype=torch.int8)
