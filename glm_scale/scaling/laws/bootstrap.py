"""How far a fit may be off: refits to losses that might have been observed as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from glm_scale.scaling.laws.fit import Fit, laws_of
from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.noise import Noise
from glm_scale.scaling.laws.refusal import Cause, Refusal, at_bound
from glm_scale.scaling.laws.search import polish

LEVEL = 0.9
DRAWS = 400
MOST_REFUSED = 0.05
"""The share of draws that may have no result before there is no interval."""

_LEAST_FREEDOM = 3


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 90 % interval."""

    value: float
    low: float
    high: float

    def includes(self, value: float) -> bool:
        """Whether the value is within, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Band:
    """Estimates at X places and the ends of their 90 % intervals, arrays [X]; not a number where there is none."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Bootstrap:
    """A fit and the laws by mixer of each draw; `refused`: draws whose refit determines no law."""

    fit: Fit
    draws: tuple[Mapping[str, Law], ...]
    refused: int

    def interval(self, quantity: Callable[[Mapping[str, Law]], float]) -> Interval | Refusal:
        """The 90 % percentile interval of what is computed from the laws by mixer.

        A draw that was refused, or for which the quantity is no number, lies as likely beyond one end as beyond the
        other, which widens the interval; above `MOST_REFUSED` there is none.
        """
        found = np.array([quantity(laws) for laws in self.draws])
        low, high = self._ends(found)
        if not np.isfinite(low):
            total = len(self.draws) + self.refused
            reason = (
                f"{total - int(np.isfinite(found).sum())} of {total} draws have no result, more than "
                f"{MOST_REFUSED:.0%}: the points hardly determine the law; add larger sizes, more tokens or seeds"
            )
            return Refusal(Cause.UNSTABLE, reason)
        return Interval(quantity(self.fit.laws), low, high)

    def band(self, quantities: Callable[[Mapping[str, Law]], np.ndarray]) -> Band:
        """The same for quantities [X] at once, as along a curve."""
        values = quantities(self.fit.laws)
        draws = np.array([quantities(laws) for laws in self.draws]).reshape(-1, len(values))
        ends = np.array([self._ends(found) for found in draws.T]).reshape(-1, 2)
        return Band(values, ends[:, 0], ends[:, 1])

    def _ends(self, found: np.ndarray) -> tuple[float, float]:
        """Of the interval of what the draws gave; not numbers if too many gave none."""
        found = found[np.isfinite(found)]
        lost = 1 - len(found) / (len(self.draws) + self.refused)
        if lost > MOST_REFUSED:
            return np.nan, np.nan
        tail = ((1 - LEVEL) / 2 - lost / 2) / (1 - lost)
        low, high = np.quantile(found, [tail, 1 - tail])
        return float(low), float(high)


def bootstrap(fit: Fit, draws: int = DRAWS, seed: int = 0) -> Bootstrap | Refusal:
    """Refit to the law's own predictions with noise as that of the runs: effects of trunks, which all branches of a
    trunk share, and errors of points, drawn within mixers (random effects bootstrap, Chambers and Chandra 2013).

    Why not the trunks themselves, with what they measured: of ten of a mixer a third is missing in a draw, and with it
    often the largest size. On synthetic ladders of two mixers, five sizes and two seeds such intervals of E, α and
    extrapolated losses hold the truth in 80 % of cases, and those of residuals with random signs by trunk (wild
    bootstrap) in 61 %; these in 88 to 90 %. They assume that the noise is relatively about the same at all sizes. A
    correction for bias was tried and made nothing better.

    A refit starts at the fit, which is near its optimum. Equal seeds give equal draws.
    """
    noise = Noise.of(fit.residuals, fit.objective.jacobian(fit.solution), fit.table.trunk, fit.table.mixer)
    if noise.freedom < _LEAST_FREEDOM:
        reason = (
            f"{len(noise.effects)} trunks (runs with their branches) leave {noise.freedom:.1f} degrees of freedom for "
            f"their noise, and {_LEAST_FREEDOM} are needed: add seeds or sizes"
        )
        return Refusal(Cause.TOO_FEW, reason)
    random = np.random.default_rng(seed)
    predicted = fit.table.log_loss + fit.residuals
    laws = []
    for _ in range(draws):
        objective = fit.objective.observing(predicted + noise.draw(random))
        solution = polish(objective, fit.solution)
        if solution is not None and at_bound(fit.table, objective, solution) is None:
            laws.append(laws_of(fit.table, objective, solution))
    return Bootstrap(fit, tuple(laws), draws - len(laws))
