"""The sequence axis of a mesh, as the layers of a model see it."""

from __future__ import annotations

from dataclasses import dataclass

from glm_scale.parallel.communicator import Communicator
from glm_scale.parallel.strategies import SequenceStrategy


@dataclass(frozen=True)
class SequenceAxis:
    """Ranks that hold consecutive rows of the same sequences, equally many each.

    strategy: by which mixers exchange what they need; None: each by the one that suits it best.
    """

    ranks: Communicator
    strategy: SequenceStrategy | None = None
