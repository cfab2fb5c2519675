"""The law L(N, D) = E + A/N^α + B/D^β."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Law:
    """Loss in nats per token of N parameters (without embeddings) after D tokens; Hoffmann et al. (2022,
    arXiv:2203.15556), approach 3.

    E is `irreducible`, A and α are `parameters_scale` and `parameters_exponent`, B and β `tokens_scale` and
    `tokens_exponent`; all are positive.
    """

    irreducible: float
    parameters_scale: float
    tokens_scale: float
    parameters_exponent: float
    tokens_exponent: float

    def __call__(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Loss for arrays of one shape, or that broadcast to one."""
        by_size = self.parameters_scale * np.asarray(parameters, dtype=np.float64) ** -self.parameters_exponent
        by_data = self.tokens_scale * np.asarray(tokens, dtype=np.float64) ** -self.tokens_exponent
        return np.asarray(self.irreducible + by_size + by_data)

    def reaching(self, loss: float, share: float) -> tuple[float, float]:
        """N and D that reach `loss` if `share` of what is above E is due to the size, and the rest to the tokens.

        Not a number where the loss is no greater than E.
        """
        reducible = loss - self.irreducible
        if reducible <= 0:
            return math.nan, math.nan
        parameters = (self.parameters_scale / (share * reducible)) ** (1 / self.parameters_exponent)
        tokens = (self.tokens_scale / ((1 - share) * reducible)) ** (1 / self.tokens_exponent)
        return parameters, tokens
