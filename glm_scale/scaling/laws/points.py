"""What a law is fitted to: final losses of runs, and the same as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FLOPS_PER_TOKEN_AND_PARAMETER = 6.0


@dataclass(frozen=True)
class Point:
    """One trained model: `parameters` without embeddings, training `tokens`, and its `loss` in nats per token.

    `run` names the run or the trunk it comes from. Points of one mixer with the same run and seed share a trajectory,
    and with it a part of their noise.
    """

    mixer: str
    parameters: float
    tokens: float
    loss: float
    seed: int
    run: str

    @property
    def flops(self) -> float:
        """6ND, which orders points by what was spent on them."""
        return FLOPS_PER_TOKEN_AND_PARAMETER * self.parameters * self.tokens


@dataclass(frozen=True)
class Table:
    """P points of M mixers from G trunks, as arrays of P.

    `mixer` and `trunk` index `mixers` and the trunks, which belong to one mixer each. Logarithms are natural.
    """

    points: tuple[Point, ...]
    mixers: tuple[str, ...]
    mixer: np.ndarray
    trunk: np.ndarray
    log_parameters: np.ndarray
    log_tokens: np.ndarray
    log_loss: np.ndarray

    @classmethod
    def of(cls, points: Iterable[Point]) -> Table:
        """From points with positive finite numbers, in an order that does not depend on theirs."""
        ordered = tuple(sorted(points, key=lambda p: (p.mixer, p.parameters, p.run, p.seed, p.tokens, p.loss)))
        mixers = tuple(dict.fromkeys(point.mixer for point in ordered))
        trunks = list(dict.fromkeys(_trunk(point) for point in ordered))
        numbers = np.log([(p.parameters, p.tokens, p.loss) for p in ordered])
        return cls(
            ordered,
            mixers,
            np.array([mixers.index(point.mixer) for point in ordered]),
            np.array([trunks.index(_trunk(point)) for point in ordered]),
            *numbers.T,
        )

    def __len__(self) -> int:
        return len(self.points)


def _trunk(point: Point) -> tuple[str, str, int]:
    return point.mixer, point.run, point.seed
