"""Whether structures come in the order that the paper has them in: Spearman's correlation, with what seeds leave open.

The interval is a bootstrap over the seeds of each structure, each time at the rate that is then best, so that what
choosing a rate adds to the spread is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glm_scale.tasks.results import Result

__all__ = ["LEVEL", "Agreement", "agreement"]

LEVEL = 0.9
"""Of the interval."""

_DRAWS = 2000
_LEAST_STRUCTURES = 4


class Agreement(NamedTuple):
    """correlation: of ranks by mean accuracy at the best rate, from −1 to 1; low, high: ends of its interval, None of
    single seeds."""

    correlation: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """ "0.85 [0.71, 0.93]"."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.correlation:.2f}{interval}"


def agreement(results: Sequence[Result], published: Sequence[float]) -> Agreement | None:
    """Of one task's results, a structure each, with the paper's accuracies of the same structures, in the same order.

    None where too few structures or none but equal accuracies leave nothing to rank.
    """
    theirs = np.array(published)
    ours = np.array([result.best().mean for result in results])
    if len(results) < _LEAST_STRUCTURES or np.ptp(theirs) == 0 or np.ptp(ours) == 0:
        return None
    found = float(_correlations(ours[None], theirs)[0])
    if min(len({member.seed for member in result.members}) for result in results) == 1:
        return Agreement(found, None, None)
    generator = np.random.default_rng(0)
    drawn = np.stack([_best_of_draws(result, generator) for result in results], axis=1)
    correlations = _correlations(drawn, theirs)
    low, high = np.quantile(correlations[np.isfinite(correlations)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Agreement(found, float(low), float(high))


def _best_of_draws(result: Result, generator: np.random.Generator) -> NDArray[np.float64]:
    """Means over as many seeds drawn with replacement, at the best rate of each draw; `[draws]`."""
    seeds = sorted({member.seed for member in result.members})
    rates = sorted({member.rate for member in result.members})
    shares = {(member.seed, member.rate): member.accuracy[0] for member in result.members}
    table = np.array([[shares[seed, rate] for rate in rates] for seed in seeds])
    chosen = generator.integers(len(seeds), size=(_DRAWS, len(seeds)))
    best: NDArray[np.float64] = table[chosen].mean(axis=1).max(axis=1)
    return best


def _correlations(values: NDArray[np.float64], published: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the ranks of each row of `[draws, structures]` with those of `published`; NaN for a row of equal values."""
    from scipy.stats import rankdata

    ours, theirs = rankdata(values, axis=1), rankdata(published)
    ours -= ours.mean(axis=1, keepdims=True)
    theirs -= theirs.mean()
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = ours @ theirs / np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum())
    return found
