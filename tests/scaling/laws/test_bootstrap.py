"""Draws, their refits and the intervals made of them; `test_coverage.py` has whether intervals hold the truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pytest

from glm_scale.scaling.laws import Bootstrap, Cause, Fit, Interval, Law, Refusal, bootstrap, factors, fit_joint
from glm_scale.scaling.laws.noise import Noise
from glm_scale.scaling.laws.search import polish, search
from tests.scaling.laws.ladders import Ladder


def fitted(ladder: Ladder, seed: int = 0) -> Fit:
    fit = fit_joint(ladder.points(seed))
    assert isinstance(fit, Fit), fit
    return fit


def drawn(fit: Fit, draws: int, seed: int = 0) -> Bootstrap:
    found = bootstrap(fit, draws, seed)
    assert isinstance(found, Bootstrap), found
    return found


def made_of(values: list[float], refused: int = 0) -> Bootstrap:
    """A bootstrap in whose draws E takes these values."""
    fit = fitted(Ladder(mixers=1))
    return Bootstrap(fit, tuple({"attention": Law(value, 1, 1, 1, 1)} for value in values), refused)


def irreducible(laws: Mapping[str, Law]) -> float:
    return laws["attention"].irreducible


def test_equal_seeds_give_equal_draws():
    fit = fitted(Ladder())
    assert drawn(fit, 5, seed=3).draws == drawn(fit, 5, seed=3).draws
    assert drawn(fit, 5, seed=3).draws != drawn(fit, 5, seed=4).draws


def test_refits_that_start_at_the_fit_find_the_optimum_of_a_whole_search():
    fit = fitted(Ladder(noise=0.005))
    noise = Noise.of(fit.residuals, fit.objective.jacobian(fit.solution), fit.table.trunk, fit.table.mixer)
    random = np.random.default_rng(0)
    for _ in range(20):
        objective = fit.objective.observing(fit.table.log_loss + fit.residuals + noise.draw(random))
        warm, cold = polish(objective, fit.solution), search(objective)
        assert warm is not None
        assert cold is not None
        assert objective(warm)[0] == pytest.approx(objective(cold)[0], rel=1e-6)


def test_an_interval_is_made_of_percentiles():
    interval = made_of([float(x) for x in range(101)]).interval(irreducible)
    assert isinstance(interval, Interval)
    assert (interval.low, interval.high) == pytest.approx((5, 95))
    assert interval.value == fitted(Ladder(mixers=1)).laws["attention"].irreducible


def test_refused_draws_count_as_beyond_either_end():
    few = made_of([float(x) for x in range(96)], refused=4).interval(irreducible)
    assert isinstance(few, Interval)
    # Of 100 draws 2 are below all others, and 3 more make the 5 %.
    assert few.low == pytest.approx(3, abs=0.1)
    assert few.high == pytest.approx(92, abs=0.1)
    refusal = made_of([float(x) for x in range(94)], refused=6).interval(irreducible)
    assert isinstance(refusal, Refusal)
    assert refusal.cause is Cause.UNSTABLE
    assert "6 of 100 draws" in refusal.reason


def test_draws_for_which_a_quantity_is_no_number_count_as_refused():
    refusal = made_of([math.nan] * 6 + [1.0] * 94).interval(irreducible)
    assert isinstance(refusal, Refusal)


def test_refits_without_a_law_are_counted():
    """Sizes over a factor of four and losses off by a percent: E may as well be zero."""
    fit = fitted(Ladder(mixers=1, sizes=3, noise=0.01), seed=4)
    found = drawn(fit, 30)
    assert found.refused > 0
    assert found.refused + len(found.draws) == 30


def test_too_few_trunks_to_know_their_noise_are_refused():
    refusal = bootstrap(fitted(Ladder(mixers=1, sizes=3, seeds=1, ratios=(10, 20, 40), noise=1e-4)), 10)
    assert isinstance(refusal, Refusal)
    assert refusal.cause is Cause.TOO_FEW
    assert "3 trunks" in refusal.reason


def test_runs_that_are_all_called_the_same_are_one_trunk_which_is_too_few():
    fit = fit_joint(dataclasses.replace(point, run="run") for point in Ladder(mixers=1, seeds=1).points())
    assert isinstance(fit, Fit)
    refusal = bootstrap(fit, 10)
    assert isinstance(refusal, Refusal)
    assert "1 trunks (runs with their branches) leave 0.0 degrees of freedom" in refusal.reason


def test_mixers_with_the_same_law_have_factors_of_one_within_the_interval():
    points = Ladder(mixers=1, sizes=6, seeds=4, noise=0.003).points()
    split = [dataclasses.replace(p, mixer="one" if p.seed < 2 else "other") for p in points]
    fit = fit_joint(split)
    assert isinstance(fit, Fit)
    draws = drawn(fit, 100)
    intervals = (
        draws.interval(lambda laws: factors(laws, "one", "other").parameters),
        draws.interval(lambda laws: factors(laws, "one", "other").tokens),
    )
    for interval in intervals:
        assert isinstance(interval, Interval)
        assert interval.includes(1.0)


def test_noise_that_branches_share_makes_wider_intervals_than_noise_of_their_own():
    widths = []
    for shared in (0.0, 0.9):
        intervals = [drawn(fitted(Ladder(shared=shared), seed), 60).interval(irreducible) for seed in range(5)]
        widths.append(np.mean([x.high - x.low for x in intervals if isinstance(x, Interval)]))
    assert widths[1] > 1.2 * widths[0]


def test_a_band_is_the_interval_at_every_place() -> None:
    found = drawn(fitted(Ladder()), draws=60)
    sizes = np.array([1e8, 1e9])
    band = found.band(lambda laws: laws["attention"](sizes, 20 * sizes))
    for place, size in enumerate(sizes):
        interval = found.interval(lambda laws, size=size: float(laws["attention"](size, 20 * size)))  # type: ignore[misc]
        assert interval == Interval(band.value[place], band.low[place], band.high[place])


def test_a_band_has_a_gap_where_too_many_draws_give_no_number() -> None:
    found = drawn(fitted(Ladder()), draws=20)
    band = found.band(lambda laws: np.array([1.0, np.nan]))
    assert (band.low[0], band.high[0]) == (1.0, 1.0)
    assert np.isnan([band.low[1], band.high[1]]).all()
