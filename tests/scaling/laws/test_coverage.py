"""90 % intervals hold the truth in 90 % of cases: of ladders drawn at random, with noise that branches share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom

from glm_scale.scaling.laws import Bootstrap, Fit, Interval, Law, bootstrap, fit_joint, flops_ratio, optimal
from tests.scaling.laws.ladders import Ladder

QUANTITIES = ("E", "α", "β", "multiplier", "extrapolated loss")


def quantity(laws: Mapping[str, Law], name: str, compute: float) -> float:
    """`compute` is the most that any run has taken."""
    law = laws["attention"]
    if name == "multiplier":
        return flops_ratio(laws, "lattice", "attention", optimal(law, compute).loss)
    if name == "extrapolated loss":
        return optimal(law, 4 * compute).loss
    return {"E": law.irreducible, "α": law.parameters_exponent, "β": law.tokens_exponent}[name]


def held(case: int, draws: int) -> list[tuple[bool, bool]]:
    """For each quantity whether the truth is in its interval, and whether it is in one of half the width."""
    ladder = Ladder.drawn(np.random.default_rng([1, case]))
    points = ladder.points(case)
    compute = max(point.flops for point in points)
    fit = fit_joint(points)
    assert isinstance(fit, Fit), fit
    found = bootstrap(fit, draws, seed=case)
    assert isinstance(found, Bootstrap), found
    result = []
    for name in QUANTITIES:
        whole = found.interval(partial(quantity, name=name, compute=compute))
        assert isinstance(whole, Interval), whole
        half = Interval(whole.value, (whole.value + whole.low) / 2, (whole.value + whole.high) / 2)
        truth = quantity(ladder.laws, name, compute)
        result.append((whole.includes(truth), half.includes(truth)))
    return result


def test_intervals_hold_the_truth_in_forty_cases():
    whole, half = np.array([held(case, draws=60) for case in range(40)]).sum(axis=0).T
    low, high = binom.ppf([0.001, 0.999], 40, 0.9)
    counts = dict(zip(QUANTITIES, whole.tolist(), strict=True))
    assert all(low <= count <= high for count in counts.values()), counts
    # Forty cases are enough to see that intervals are half as wide as they should be.
    assert (half < low).all()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_intervals_hold_the_truth_in_four_hundred_cases(capsys):
    shares = np.array([held(case, draws=200) for case in range(400)]).mean(axis=0)[:, 0]
    coverage = dict(zip(QUANTITIES, shares.tolist(), strict=True))
    with capsys.disabled():
        print("coverage", {name: f"{share:.1%}" for name, share in coverage.items()})
    assert all(0.86 <= share <= 0.94 for share in coverage.values()), coverage
