"""The models of least training FLOPs, from small to large, as arrays: what a law's curve over a cost is drawn from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from glm_scale.scaling.laws.law import Law

__all__ = ["Path", "PowerOfSize", "compute_optimal"]


@dataclass(frozen=True)
class PowerOfSize:
    """A cost of a model of N parameters: scale · N^exponent, in any unit."""

    scale: float
    exponent: float

    def __call__(self, parameters: np.ndarray | float) -> np.ndarray:
        """For sizes of any shape."""
        return np.asarray(self.scale * np.asarray(parameters, dtype=np.float64) ** self.exponent)

    @classmethod
    def through(cls, sizes: Iterable[float], costs: Iterable[float]) -> PowerOfSize:
        """The straight line of logarithms with least squares; in proportion to the size, if there is but one."""
        size, cost = np.log(list(sizes)), np.log(list(costs))
        if len(set(size)) > 1:
            exponent, at_one = np.polyfit(size, cost, 1)
        else:
            exponent, at_one = 1.0, np.mean(cost - size)
        return cls(math.exp(at_one), float(exponent))


@dataclass(frozen=True)
class Path:
    """Sizes N, the tokens D that suit each, the loss and the training FLOPs; arrays of equal length, by size."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray


def compute_optimal(law: Law, parameters: np.ndarray, flops_per_token: PowerOfSize) -> Path:
    """For each of the sizes [S] the tokens at which no other size reaches the loss with fewer training FLOPs.

    With C = c N^s D Lagrange's condition is α A N^-α = s β B D^-β (Hoffmann et al. 2022, arXiv:2203.15556, equation 4,
    has s = 1). The FLOPs of a token must grow with the size.
    """
    if not flops_per_token.exponent > 0:
        raise ValueError(f"a token takes N^{flops_per_token.exponent:.3g} FLOPs, which do not grow with the size")
    by_size = law.parameters_exponent * law.parameters_scale * parameters**-law.parameters_exponent
    of_tokens = flops_per_token.exponent * law.tokens_exponent * law.tokens_scale
    tokens = (of_tokens / by_size) ** (1 / law.tokens_exponent)
    return Path(parameters, tokens, law(parameters, tokens), flops_per_token(parameters) * tokens)
