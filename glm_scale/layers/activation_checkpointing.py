"""What of a model's blocks the backward pass computes again in place of keeping it. Imports nothing of this project.

Of a compiled block of width D with H hidden units each token keeps 8 D + 3 H numbers, and a few of its mixer's own.
With H = 8/3 D more than half of them, D + 3 H, are the MLP's, and come again of two of its matrix products; what else
there is takes almost all the others, and the token mixing.
"""

from collections.abc import Sequence
from typing import Literal, get_args

__all__ = ["ActivationCheckpointing", "policies_from"]

ActivationCheckpointing = Literal["none", "selective", "full"]
"""What is computed again: nothing; of each block the MLP with its norm, which is large for what it costs
(chosen as Korthikanti et al. 2022, arXiv 2205.05198, do); each block (Chen et al. 2016, arXiv 1604.06174). Each policy
holds less than those before it, and takes longer."""


def policies_from(policy: ActivationCheckpointing) -> Sequence[ActivationCheckpointing]:
    """This one and those that hold less, the fastest first. Raises ValueError for what is none."""
    known: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)
    if policy not in known:
        raise ValueError(f"activation checkpointing is one of {', '.join(known)}, not {policy!r}")
    return known[known.index(policy) :]
