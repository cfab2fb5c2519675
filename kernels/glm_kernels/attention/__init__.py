"""Causal softmax attention by the kernels of well-kept libraries."""

from glm_kernels.attention.operator import attention, for_every_head
from glm_kernels.attention.packed import Packing

__all__ = ["Packing", "attention", "for_every_head"]
