"""The optimum of an objective: exponents by a grid on which the rest is linear, then all of it by Newton's method."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize, nnls

from glm_scale.scaling.laws.objective import HUBER, Objective

EXPONENTS = (0.02, 2.0)
"""Between these α and β are searched."""

_GRID = 14
_STARTS = 3
# Of the steepest slope that one point can have. Bootstrap intervals are thousands of times as wide as what is left.
_GRADIENT = 1e-5 * HUBER
# A term that is absent at the start is given this share of the loss, as its logarithm is searched from there.
_LEAST_SHARE = 0.01


def search(objective: Objective) -> np.ndarray | None:
    """The solution [K] with the least objective; None if none was found.

    For fixed exponents the law is linear in E, A and B, so that only two numbers need a grid (variable projection,
    Golub and Pereyra 1973; for this law arXiv:2603.22339). The grid takes least squares of relative errors with
    non-negative terms. Each of its few lowest valleys is then a start for the exact objective.
    """
    grid = np.geomspace(*EXPONENTS, _GRID)
    starts = np.array([[start(objective, alpha, beta) for beta in grid] for alpha in grid])
    values = np.array([[objective(solution)[0] for solution in row] for row in starts])
    found = [polish(objective, starts[place]) for place in _valleys(values)]
    optima = [solution for solution in found if solution is not None]
    return min(optima, key=lambda solution: objective(solution)[0], default=None)


def start(objective: Objective, alpha: float, beta: float) -> np.ndarray:
    """The solution [K] with these exponents whose E, A, B ≥ 0 minimise the sum of squares of relative errors."""
    exponents = np.zeros(objective.design.shape[1])
    exponents[-2:] = alpha, beta
    powers = np.exp(objective.design @ exponents).reshape(3, -1, 1)
    relative = powers * np.exp(-objective.log_loss)[:, None]
    terms = objective.design[:, :-2].reshape(3, len(objective.log_loss), -1)
    scales = nnls((relative * terms).sum(axis=0), np.ones(len(objective.log_loss)), maxiter=1000)[0]
    least = _LEAST_SHARE * np.exp(objective.log_loss.min())
    return np.concatenate([np.log(np.maximum(scales, least)), [alpha, beta]])


def polish(objective: Objective, solution: np.ndarray) -> np.ndarray | None:
    """The optimum of the exact objective that is reached from a solution [K]; None if none is within reach.

    Newton's method in a trust region (Moré and Sorensen 1983): nearly all curvature comes from the few points with
    residuals below the bound of the Huber loss, which first-order methods are slow to learn.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = minimize(
            objective,
            solution,
            jac=True,
            hess=objective.hessian,
            method="trust-exact",
            options={"gtol": _GRADIENT, "initial_trust_radius": 0.1, "max_trust_radius": 1.0, "maxiter": 300},
        )
    return np.asarray(result.x) if result.success else None


def _valleys(values: np.ndarray) -> list[tuple[int, int]]:
    """Places on the grid that are no higher than their eight neighbours, the lowest few."""
    padded = np.pad(values, 1, constant_values=np.inf)
    rows, columns = values.shape
    around = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    places = np.argwhere(values <= np.min(around, axis=0))
    lowest = sorted(places.tolist(), key=lambda place: values[tuple(place)])[:_STARTS]
    return [(row, column) for row, column in lowest]
