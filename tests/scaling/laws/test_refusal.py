"""What points do not determine is refused, with the numbers and a way out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from glm_scale.scaling.laws import Cause, Fit, Point, Refusal, fit_joint, fit_separate
from glm_scale.scaling.laws.law import Law
from tests.scaling.laws.ladders import Ladder


def refused(points: list[Point], cause: Cause) -> str:
    refusal = fit_joint(points)
    assert isinstance(refusal, Refusal)
    assert refusal.cause is cause, refusal.reason
    return refusal.reason


def grid(law: Law, sizes: int = 5, mixer: str = "ssm") -> list[Point]:
    """Points of a law without noise, at three ratios of tokens to parameters."""
    places = [(1e7 * 2**size, ratio * 1e8 * 2**size) for size in range(sizes) for ratio in (1, 2, 4)]
    return [Point(mixer, n, d, float(law(n, d)), 0, f"{mixer}-{n:.0f}") for n, d in places]


@pytest.mark.parametrize("field", ["parameters", "tokens", "loss"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_that_are_not_positive_and_finite(field, value):
    points = Ladder().points()
    points[4] = dataclasses.replace(points[4], **{field: value})
    reason = refused(points, Cause.INVALID)
    assert points[4].run in reason
    assert field in reason


def test_no_points():
    refused([], Cause.TOO_FEW)


def test_fewer_points_than_unknowns_and_two():
    points = grid(Law(1.8, 400, 1500, 0.35, 0.38))
    assert "6 points for 5 unknowns" in refused(points[:6], Cause.TOO_FEW)
    assert isinstance(fit_joint(points[:7]), Fit)


def test_a_mixer_with_hardly_any_points():
    points = Ladder().points()
    few = [point for point in points if point.mixer == "attention"] + points[-2:]
    assert "lattice has 2 of the 3 points" in refused(few, Cause.TOO_FEW)


def test_two_sizes():
    assert "2 different sizes (20,000,000 and 40,000,000" in refused(Ladder(sizes=2).points(), Cause.TOO_FEW)


def test_two_numbers_of_tokens():
    points = [dataclasses.replace(point, tokens=1e9 if index % 2 else 2e9) for index, point in enumerate(grid_points())]
    assert "2 different numbers of tokens" in refused(points, Cause.TOO_FEW)


def grid_points() -> list[Point]:
    return grid(Law(1.8, 400, 1500, 0.35, 0.38))


@pytest.mark.parametrize("ratios", [(20.0,), (19.0, 20.0, 21.0)])
def test_tokens_in_proportion_to_parameters(ratios):
    reason = refused(Ladder(sizes=6, ratios=ratios, seeds=3).points(), Cause.ONE_LINE)
    assert "D ∝ N^1.00" in reason
    assert f"D/N from {ratios[0]:.3g} to {ratios[-1]:.3g}" in reason


def test_tokens_as_another_power_of_parameters():
    points = [dataclasses.replace(p, tokens=0.1 * p.parameters**1.3) for p in grid_points()]
    assert "D ∝ N^1.30" in refused(points, Cause.ONE_LINE)


def test_one_mixer_of_two_with_tokens_in_proportion_to_parameters():
    points = [p for p in Ladder(seeds=3).points() if p.mixer == "attention" or p.tokens == 20 * p.parameters]
    assert "tokens of lattice" in refused(points, Cause.ONE_LINE)


def test_two_ratios_are_enough():
    assert isinstance(fit_joint(Ladder(sizes=6, ratios=(10.0, 20.0), noise=1e-4).points()), Fit)


def test_a_mixer_with_a_single_size_beside_one_with_all():
    points = Ladder(sizes=6, noise=1e-4).points()
    size = points[-1].parameters
    kept = [point for point in points if point.mixer == "attention" or point.parameters == size]
    assert isinstance(fit_joint(kept), Fit)


def test_losses_that_fall_faster_than_to_any_irreducible_loss():
    bent = [dataclasses.replace(p, loss=p.loss * (1 - 1e-3 * math.log(p.parameters / 1e7) ** 2)) for p in pure()]
    assert "the best E is zero" in refused(bent, Cause.AT_BOUND)


def pure() -> list[Point]:
    """A power law without an irreducible loss, but for what the search takes as a term."""
    return grid(Law(1e-6, 40, 60, 0.15, 0.18))


def test_losses_that_rise_with_size():
    points = [dataclasses.replace(p, loss=p.loss * (p.parameters / 1e7) ** 0.1) for p in grid_points()]
    refused(points, Cause.AT_BOUND)


def test_losses_that_are_all_the_same():
    refused([dataclasses.replace(point, loss=2.5) for point in grid_points()], Cause.AT_BOUND)


def test_a_mixer_that_does_not_get_better_with_size():
    law = Law(1.8, 400, 1500, 0.35, 0.38)
    flat = [dataclasses.replace(p, loss=float(law(4e7, p.tokens))) for p in grid(law, mixer="flat")]
    points = [p for m in ("a", "b", "c") for p in grid(law, mixer=m)] + flat
    assert "A of flat is zero" in refused(points, Cause.AT_BOUND)


def test_an_exponent_beyond_the_search():
    sizes = np.geomspace(1, 4, 6)
    law = Law(1.8, 1.0, 1500, 2.5, 0.38)
    points = [Point("a", n, d, float(law(n, d)), 0, f"{n}") for n in sizes for d in (1e8, 2e8, 4e8)]
    assert "α is at the edge" in refused(points, Cause.AT_BOUND)


def test_separate_fits_are_refused_one_by_one():
    points = Ladder(sizes=6, noise=1e-3).points()
    kept = [p for p in points if p.mixer == "attention" or p.parameters < 1e8]
    kept = [p for p in kept if p.mixer == "attention" or p.tokens == 10 * p.parameters]
    fits = fit_separate(kept)
    assert isinstance(fits["attention"], Fit)
    assert isinstance(fits["lattice"], Refusal)
