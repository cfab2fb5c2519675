"""Causal softmax attention by the kernels of well-kept libraries."""

from glm_kernels.attention.operator import attention
from glm_kernels.attention.packed import Packing

__all__ = ["Packing", "attention"]
