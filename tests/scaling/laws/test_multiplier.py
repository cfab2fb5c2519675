"""What a mixer costs beside another at equal loss."""

from __future__ import annotations

import dataclasses
import math

import pytest

from glm_scale.scaling.laws import (
    Bootstrap,
    Cause,
    Fit,
    Law,
    Multiplier,
    Refusal,
    bootstrap,
    cheapest,
    compute_multiplier,
    cost_multiplier,
    fit_joint,
    flops_ratio,
    reached,
)
from tests.scaling.laws.ladders import Ladder

LADDER = Ladder(sizes=6, noise=0.002)


@pytest.fixture(scope="module")
def draws() -> Bootstrap:
    fit = fit_joint(LADDER.points())
    assert isinstance(fit, Fit)
    found = bootstrap(fit, 60)
    assert isinstance(found, Bootstrap)
    return found


def answered(result: Multiplier | Refusal) -> Multiplier:
    assert isinstance(result, Multiplier), result
    return result


def test_a_mixer_whose_parameters_and_tokens_count_half_needs_four_times_the_flops():
    law = Law(1.8, 400, 1500, 0.35, 0.38)
    half = Law(1.8, 400 * 0.5**-0.35, 1500 * 0.5**-0.38, 0.35, 0.38)
    laws = {"half": half, "whole": law}
    assert flops_ratio(laws, "half", "whole", 2.4) == pytest.approx(4)
    assert flops_ratio(laws, "whole", "half", 2.1) == pytest.approx(1 / 4)
    assert flops_ratio(laws, "half", "whole", 2.4, {"half": 3.0}) == pytest.approx(2)
    assert flops_ratio(laws, "half", "whole", 2.4, {"half": lambda n, d: 3 * n * d}) == pytest.approx(2)


def test_laws_with_other_exponents_have_a_ratio_that_depends_on_the_loss():
    laws = {"a": Law(1.8, 400, 1500, 0.35, 0.38), "b": Law(1.7, 500, 1500, 0.35, 0.36)}
    ratios = [flops_ratio(laws, "a", "b", loss) for loss in (3.0, 2.0)]
    assert ratios[0] != pytest.approx(ratios[1], rel=0.1)
    assert math.isnan(flops_ratio(laws, "a", "b", 1.75))


def test_the_planted_multiplier_is_found_with_its_interval(draws):
    found = answered(compute_multiplier(draws, "lattice", "attention"))
    planted = flops_ratio(LADDER.laws, "lattice", "attention", found.loss)
    assert found.ratio.includes(planted)
    assert found.ratio.low < found.ratio.value < found.ratio.high
    assert found.resolved
    assert found.unit == "FLOPs"


def test_it_is_given_at_the_loss_that_both_have_reached(draws):
    points = LADDER.points()
    means = {}
    for mixer in ("attention", "lattice"):
        most = max(p.flops for p in points if p.mixer == mixer)
        losses = [p.loss for p in points if p.mixer == mixer and p.flops == most]
        assert len(losses) == LADDER.seeds
        means[mixer] = sum(losses) / len(losses)
    assert reached(points, ["attention", "lattice"]) == max(means.values())
    assert answered(compute_multiplier(draws, "lattice", "attention")).loss == max(means.values())


def test_the_other_way_round_it_is_the_inverse(draws):
    one = answered(compute_multiplier(draws, "lattice", "attention")).ratio
    other = answered(compute_multiplier(draws, "attention", "lattice")).ratio
    assert other.value == pytest.approx(1 / one.value)
    assert (other.low, other.high) == pytest.approx((1 / one.high, 1 / one.low), rel=0.01)


def test_a_mixer_beside_itself_is_not_resolved(draws):
    found = answered(compute_multiplier(draws, "lattice", "lattice"))
    assert dataclasses.astuple(found.ratio) == (1.0, 1.0, 1.0)
    assert not found.resolved


def test_flops_of_its_own_scale_the_multiplier(draws):
    plain = answered(compute_multiplier(draws, "lattice", "attention")).ratio
    cheaper = answered(compute_multiplier(draws, "lattice", "attention", {"lattice": 3.0})).ratio
    assert dataclasses.astuple(cheaper) == pytest.approx([x / 2 for x in dataclasses.astuple(plain)])


def test_a_loss_that_no_size_reaches_is_refused(draws):
    refusal = compute_multiplier(draws, "lattice", "attention", loss=1.0)
    assert isinstance(refusal, Refusal)
    assert refusal.cause is Cause.UNREACHABLE
    assert "1 is not above the irreducible 1.8" in refusal.reason


def test_other_costs_are_compared_where_both_are_trained_best(draws):
    costs = {"attention": lambda n, d: 2.0 * n, "lattice": lambda n, d: 0.01 * n}
    found = answered(cost_multiplier(draws, "lattice", "attention", costs, "bytes of cache", loss=2.5))
    laws = draws.fit.laws
    own, other = (cheapest(laws[name], 2.5).parameters for name in ("lattice", "attention"))
    assert found.ratio.value == pytest.approx(0.005 * own / other)
    assert found.unit == "bytes of cache"
    assert found.loss == 2.5
    assert found.ratio.low < found.ratio.value < found.ratio.high
