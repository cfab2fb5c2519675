"""How far a law is from the points: a robust sum over relative errors, with its first and second derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glm_scale.scaling.laws.points import Table

HUBER = 1e-3
"""Residuals of the log loss above this count by their size and no longer by its square (Hoffmann et al. 2022)."""


@dataclass(frozen=True)
class Objective:
    """Σ over P points of Huber(log predicted - log observed), for M mixers that share E, α and β.

    It is a function of K = 3 + 2M numbers: log E, log A per mixer, log B per mixer, α, β, where A and B belong to N and
    D in units of their geometric means (`log_centres`), so that fits do not depend on units. Every term of the law is
    then the exponential of something linear in them. A sum, not a mean: the scale of the gradient must not shrink
    with the number of points (Besiroglu et al. 2024, arXiv:2404.10102).

    `design`: [3P, K], the linear forms of the three terms, one term after the other.
    """

    mixers: int
    design: np.ndarray
    log_loss: np.ndarray
    log_centres: tuple[float, float]

    @classmethod
    def of(cls, table: Table) -> Objective:
        """The objective for the points of a table."""
        points, mixers = len(table), len(table.mixers)
        centres = float(table.log_parameters.mean()), float(table.log_tokens.mean())
        design = np.zeros((3, points, 3 + 2 * mixers))
        rows = np.arange(points)
        design[0, :, 0] = 1
        design[1, rows, 1 + table.mixer] = 1
        design[1, :, -2] = centres[0] - table.log_parameters
        design[2, rows, 1 + mixers + table.mixer] = 1
        design[2, :, -1] = centres[1] - table.log_tokens
        return cls(mixers, design.reshape(3 * points, -1), table.log_loss, centres)

    def observing(self, log_loss: np.ndarray) -> Objective:
        """The same points with other losses."""
        return replace(self, log_loss=log_loss)

    def __call__(self, solution: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum, and its gradient [K]."""
        residuals, shares = self._terms(solution)
        slopes = np.clip(residuals, -HUBER, HUBER)
        return float(slopes @ (residuals - slopes / 2)), (slopes * shares).ravel() @ self.design

    def hessian(self, solution: np.ndarray) -> np.ndarray:
        """[K, K]. It jumps where a residual crosses the bound between square and size."""
        residuals, shares = self._terms(solution)
        slopes = np.clip(residuals, -HUBER, HUBER)
        jacobian = self._jacobian(shares)
        curved = ((slopes * shares).reshape(-1, 1) * self.design).T @ self.design
        return curved + (((np.abs(residuals) <= HUBER) - slopes)[:, None] * jacobian).T @ jacobian

    def residuals(self, solution: np.ndarray) -> np.ndarray:
        """log predicted - log observed, [P]."""
        return self._terms(solution)[0]

    def shares(self, solution: np.ndarray) -> np.ndarray:
        """Of E, of the size and of the tokens in the predicted losses, [3, P]."""
        return self._terms(solution)[1]

    def jacobian(self, solution: np.ndarray) -> np.ndarray:
        """Derivatives of the residuals, [P, K]."""
        return self._jacobian(self.shares(solution))

    def _terms(self, solution: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        terms = np.exp(self.design @ solution).reshape(3, -1)
        predicted = terms.sum(axis=0)
        return np.log(predicted) - self.log_loss, terms / predicted

    def _jacobian(self, shares: np.ndarray) -> np.ndarray:
        by_term = shares.reshape(-1, 1) * self.design
        return np.asarray(by_term.reshape(3, -1, self.design.shape[1]).sum(axis=0))
