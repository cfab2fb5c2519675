"""What tensors of the kernels' own are stored in. Imports no Triton."""

from __future__ import annotations

import torch


def norm_dtype(operands: torch.dtype) -> torch.dtype:
    """Of binary logarithms of softmax denominators: one float32 is too coarse for weights of float32 operands."""
    return torch.float64 if operands == torch.float32 else torch.float32
