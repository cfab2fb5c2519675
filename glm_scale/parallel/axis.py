"""The axes of a mesh, as the layers of a model see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glm_scale.parallel.collectives.communicator import Communicator
from glm_scale.parallel.sequence.strategies import SequenceStrategy


@dataclass(frozen=True)
class SequenceAxis:
    """Ranks that hold consecutive tokens of the same sequences, equally many each.

    strategy: by which mixers exchange what they need; None: each by the one that suits it best.
    """

    ranks: Communicator
    strategy: SequenceStrategy | None = None


@dataclass(frozen=True)
class TensorAxis:
    """Ranks that work on the same tokens with parts of the same weights: some heads, hidden units and tokens each.

    name: of the group, by which torch's functional collectives know it.
    shards_tokens: Megatron's sequence parallelism (Korthikanti et al. 2022, arXiv 2205.05198). Between mixers and MLPs,
    where all ranks would do the same, each holds an equal part of the tokens: of all tokens of the batch, one sequence
    behind the other, the part of its rank.
    """

    group: Any
    """A torch process group."""
    rank: int
    size: int
    name: str
    shards_tokens: bool = False
