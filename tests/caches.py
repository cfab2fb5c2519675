"""How many bytes the caches of mixers hold, and how many of them count."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from glm_kernels import RecurrenceState

__all__ = ["bytes_held", "bytes_that_count"]


def bytes_held(caches: Any) -> int:
    """Of all tensors, room for further rows among them."""
    return sum(leaf.nbytes for leaf in tree_leaves(caches) if isinstance(leaf, Tensor))


def bytes_that_count(caches: Any) -> int:
    """Unlimited attention alone holds more than these, whole pages of rows."""
    leaves = tree_leaves(caches, is_leaf=lambda node: isinstance(node, RecurrenceState))
    return sum(map(_that_count, leaves))


def _that_count(leaf: Any) -> int:
    if isinstance(leaf, RecurrenceState):
        rows = int(leaf.position.max())
        return bytes_held((leaf.k[:, :, :rows], leaf.y[:, :, :rows], leaf.position))
    return bytes_held(leaf)
