"""Whether a law fits: what is left beyond the spread between seeds, and how well it predicts runs it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glm_scale.scaling.laws.fit import Fit, fit_joint
from glm_scale.scaling.laws.noise import Components
from glm_scale.scaling.laws.points import Point, Table
from glm_scale.scaling.laws.refusal import Refusal

_DRAWS = 2000
# Fewer degrees of freedom between seeds tell next to nothing of their spread.
_LEAST_REPLICATES = 3
# Seeds whose losses agree to this are copies of one run.
_SAME = 1e-6


@dataclass(frozen=True)
class LackOfFit:
    """Residuals of a fit beside the spread between seeds, both relative errors of the loss.

    `residual_spread`: root mean square of the residuals with the freedom that the fit has taken. `seed_spread`: of
    points that differ by seed alone. `ratio`: the variance of cell means around the law over that between seeds,
    1 where the law is right; `p_value`: how often chance alone makes it as large. The last three are None where too
    few points differ by seed alone, or by nothing. `worst` has the largest residual, log predicted - log observed.
    """

    residual_spread: float
    seed_spread: float | None
    ratio: float | None
    p_value: float | None
    worst: Point
    worst_residual: float


@dataclass(frozen=True)
class HeldOut:
    """Predictions of a fit to the other points for those that were held out, the `largest` by "size" or "compute".

    `errors`: predicted / observed - 1, by point.
    """

    fit: Fit
    largest: str
    points: tuple[Point, ...]
    errors: tuple[float, ...]


def lack_of_fit(fit: Fit) -> LackOfFit:
    """The F-test of lack of fit for points that repeat others with another seed.

    Points of one trunk are not independent, so that the ratio does not follow an F-distribution. Its distribution is
    drawn instead: of trunk and point effects with the variances that the spread between seeds shows, seen through the
    fit, which is linear near its optimum.
    """
    table = fit.table
    count, unknowns = len(table), len(fit.solution)
    worst = int(np.argmax(np.abs(fit.residuals)))
    spread = float(np.sqrt(fit.residuals @ fit.residuals / (count - unknowns)))
    last = table.points[worst], float(fit.residuals[worst])
    cells = _cells(table)
    replicates, lack = count - cells.shape[1], cells.shape[1] - unknowns
    between_seeds = fit.residuals - cells @ (cells.T @ fit.residuals)
    if replicates < _LEAST_REPLICATES or lack < 1 or np.abs(between_seeds).max() < _SAME:
        return LackOfFit(spread, None, None, None, *last)
    fitted = np.linalg.qr(fit.objective.jacobian(fit.solution))[0]

    def ratio(noise: np.ndarray) -> np.ndarray:
        means = cells.T @ (noise - fitted @ (fitted.T @ noise))
        within = (noise**2).sum(axis=0) - ((cells.T @ noise) ** 2).sum(axis=0)
        return np.asarray((means**2).sum(axis=0) / lack / (within / replicates))

    seeds = Components.of(between_seeds, cells, table.trunk)
    random = np.random.default_rng(0)
    trunks = random.standard_normal((table.trunk.max() + 1, _DRAWS)) * np.sqrt(seeds.by_trunk)
    chance = ratio(trunks[table.trunk] + random.standard_normal((count, _DRAWS)) * np.sqrt(seeds.by_point))
    observed = float(ratio(fit.residuals[:, None])[0])
    p_value = (1 + int((chance >= observed).sum())) / (1 + _DRAWS)
    return LackOfFit(spread, float(np.sqrt(between_seeds @ between_seeds / replicates)), observed, p_value, *last)


def leave_largest_out(fit: Fit) -> HeldOut | Refusal:
    """Refit without the largest size of each mixer and predict it; where that leaves too little, without the runs of
    most FLOPs of each."""
    by_size = _predict(fit, "size", lambda point: point.parameters)
    if not isinstance(by_size, Refusal):
        return by_size
    by_compute = _predict(fit, "compute", lambda point: point.flops)
    return by_size if isinstance(by_compute, Refusal) else by_compute


def _predict(fit: Fit, largest: str, measure: Callable[[Point], float]) -> HeldOut | Refusal:
    points = fit.table.points
    most = {mixer: max(measure(p) for p in points if p.mixer == mixer) for mixer in fit.table.mixers}
    held = tuple(point for point in points if measure(point) == most[point.mixer])
    rest = fit_joint(point for point in points if measure(point) < most[point.mixer])
    if isinstance(rest, Refusal):
        return rest
    errors = tuple(float(rest.laws[p.mixer](p.parameters, p.tokens)) / p.loss - 1 for p in held)
    return HeldOut(rest, largest, held, errors)


def _cells(table: Table) -> np.ndarray:
    """Orthonormal indicators [P, cells] of points that differ by seed alone."""
    places = [(point.mixer, point.parameters, point.tokens) for point in table.points]
    different = list(dict.fromkeys(places))
    indicators = np.eye(len(different))[[different.index(place) for place in places]]
    return np.asarray(indicators / np.sqrt(indicators.sum(axis=0)))
