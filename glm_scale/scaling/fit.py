"""Power laws of the loss: L(x) = E + a x^-b, with x the parameters or the training FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MINIMUM_POINTS = 4

# Losses of well-trained models lie within a percent of their law; what is this far off follows another one.
_LARGEST_RESIDUAL = 0.03
_EXPONENTS = (0.01, 3.0)
_GRID = 400
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class PowerLaw:
    """L(x) = irreducible + scale * x^-exponent; losses in nats per token. `residual` is the root mean square of the
    relative error over the `points` it was fitted to."""

    irreducible: float
    scale: float
    exponent: float
    residual: float
    points: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.irreducible + self.scale * np.asarray(x, dtype=np.float64) ** -self.exponent


def fit_power_law(x: np.ndarray, loss: np.ndarray) -> PowerLaw | None:
    """Fit L = E + a x^-b with E, a ≥ 0 by least squares on the relative error of the loss.

    The form is that of Kaplan et al. (2020, arXiv:2001.08361) with the irreducible term of Hoffmann et al. (2022,
    arXiv:2203.15556). For a fixed b the problem is linear in E and a, so only b is searched (variable projection,
    Golub and Pereyra 1973): no starting point, no local optimum to fall into.

    Returns None where the points do not determine a law: fewer than `MINIMUM_POINTS` different x, a loss that does
    not fall with x, a best exponent at the edge of the searched range, or a relative error above 3 %.
    """
    x, loss = np.asarray(x, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if len(np.unique(x)) < MINIMUM_POINTS or (x <= 0).any() or not (np.isfinite(loss) & (loss > 0)).all():
        return None
    centre = np.exp(np.log(x).mean())

    def solve(exponent: float) -> tuple[float, float, float]:
        return _linear_part((x / centre) ** -exponent, loss)

    grid = np.geomspace(*_EXPONENTS, _GRID)
    best = int(np.argmin([solve(exponent)[2] for exponent in grid]))
    if best in (0, _GRID - 1):
        return None
    exponent = _minimise(lambda b: solve(b)[2], grid[best - 1], grid[best + 1])
    irreducible, scale, error = solve(exponent)
    residual = float(np.sqrt(error / len(x)))
    if scale <= 0 or residual > _LARGEST_RESIDUAL:
        return None
    return PowerLaw(irreducible, float(scale * centre**exponent), exponent, residual, len(x))


def _linear_part(power: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """E, a ≥ 0 that minimise the sum of ((E + a power) / loss - 1)², and that sum."""
    columns = np.stack([1 / loss, power / loss], axis=1)
    candidates = [np.linalg.lstsq(columns, np.ones(len(loss)), rcond=None)[0]]
    if candidates[0].min() < 0:
        # With two unknowns the constrained optimum lies on one of the axes.
        alone = columns.sum(axis=0) / (columns**2).sum(axis=0)
        candidates = [np.array([alone[0], 0.0]), np.array([0.0, alone[1]])]
    errors = [float(((columns @ candidate - 1) ** 2).sum()) for candidate in candidates]
    best = int(np.argmin(errors))
    return float(candidates[best][0]), float(candidates[best][1]), errors[best]


def _minimise(function: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search; `function` has one minimum between `low` and `high`."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-10 * high:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return float((low + high) / 2)
