"""Fits recover what was planted, agree with a published set of runs, and depend on nothing that should not matter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_scale.scaling.laws import Fit, Point, factors, fit_joint, fit_separate
from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.search import EXPONENTS, polish, start
from tests.scaling.laws.ladders import FACTORS, Ladder, hoffmann

SAME = 1e-5
"""Relative. What the gradient's tolerance leaves of two searches for one optimum."""


def fitted(points: list[Point]) -> Fit:
    fit = fit_joint(points)
    assert isinstance(fit, Fit), fit
    return fit


def assert_same(found: Law, expected: Law) -> None:
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), rel=100 * SAME)
    assert found.parameters_exponent == pytest.approx(expected.parameters_exponent, rel=SAME)


def test_the_runs_of_hoffmann_et_al_give_the_known_law():
    law = fitted(hoffmann()).laws["attention"]
    assert law.parameters_exponent == pytest.approx(0.3564, abs=0.002)
    assert law.tokens_exponent == pytest.approx(0.4081, abs=0.002)
    assert law.irreducible == pytest.approx(1.8551, abs=0.003)


def test_fifty_starts_lead_to_the_same_optimum():
    fit = fitted(hoffmann())
    random = np.random.default_rng(0)
    low, high = np.log(EXPONENTS).tolist()
    for alpha, beta in np.exp(random.uniform(low, high, size=(50, 2))):
        solution = polish(fit.objective, start(fit.objective, alpha, beta))
        assert solution is not None
        assert solution == pytest.approx(fit.solution, rel=SAME)


def test_no_small_step_improves_a_fit():
    fit = fitted(Ladder(mixers=3).points())
    least = fit.objective(fit.solution)[0]
    random = np.random.default_rng(0)
    for size in (1e-2, 1e-3, 1e-4):
        steps = size * random.standard_normal((200, len(fit.solution)))
        assert min(fit.objective(fit.solution + step)[0] for step in steps) >= least


@settings(deadline=None, max_examples=30)
@given(
    irreducible=st.floats(0.5, 3.0),
    shares=st.tuples(st.floats(0.2, 2.0), st.floats(0.2, 2.0)),
    exponents=st.tuples(st.floats(0.1, 0.8), st.floats(0.1, 0.8)),
)
def test_a_planted_law_is_recovered(irreducible, shares, exponents):
    """`shares`: of size and tokens in the loss of the smallest run."""
    alpha, beta = exponents
    law = Law(irreducible, shares[0] * 1e7**alpha, shares[1] * 1e8**beta, alpha, beta)
    places = [(1e7 * 2**size, 1e8 * 2**size * ratio) for size in range(6) for ratio in (1, 2, 4)]
    found = fitted([Point("ssm", n, d, float(law(n, d)), 0, f"{n}") for n, d in places]).laws["ssm"]
    assert found.irreducible == pytest.approx(irreducible, rel=0.01)
    assert (found.parameters_exponent, found.tokens_exponent) == pytest.approx(exponents, rel=0.01)


def test_mixers_share_exponents_and_have_the_planted_efficiency():
    ladder = Ladder(mixers=3, sizes=6, noise=1e-6)
    laws = fitted(ladder.points()).laws
    assert len({(law.irreducible, law.parameters_exponent, law.tokens_exponent) for law in laws.values()}) == 1
    for mixer, expected in FACTORS.items():
        found = factors(laws, mixer, "attention")
        assert (found.parameters, found.tokens) == pytest.approx(expected, rel=1e-3)


def test_separate_fits_have_exponents_of_their_own():
    points = Ladder(mixers=2, sizes=6, noise=1e-3).points()
    fits = fit_separate(points)
    assert list(fits) == ["attention", "lattice"]
    for mixer, fit in fits.items():
        assert isinstance(fit, Fit)
        assert_same(fit.laws[mixer], fitted([point for point in points if point.mixer == mixer]).laws[mixer])


def test_the_order_of_points_does_not_matter():
    points = Ladder(mixers=3).points()
    shuffled = [points[index] for index in np.random.default_rng(1).permutation(len(points))]
    assert fitted(shuffled).solution.tobytes() == fitted(points).solution.tobytes()


@settings(deadline=None, max_examples=10)
@given(size=st.floats(1e-6, 1e6), data=st.floats(1e-6, 1e6))
def test_units_of_parameters_and_tokens_do_not_matter(size, data):
    points = Ladder().points()
    scaled = [dataclasses.replace(p, parameters=p.parameters * size, tokens=p.tokens * data) for p in points]
    for mixer, law in fitted(points).laws.items():
        other = fitted(scaled).laws[mixer]
        assert other.irreducible == pytest.approx(law.irreducible, rel=SAME)
        assert other.parameters_exponent == pytest.approx(law.parameters_exponent, rel=SAME)
        assert other.tokens_exponent == pytest.approx(law.tokens_exponent, rel=SAME)
        assert other.parameters_scale == pytest.approx(law.parameters_scale * size**law.parameters_exponent, rel=1e-3)


def test_one_run_that_is_far_off_moves_a_fit_little():
    points = Ladder(noise=0.001).points()
    spoilt = [dataclasses.replace(points[7], loss=1.3 * points[7].loss), *points[:7], *points[8:]]
    law, other = (fitted(some).laws["attention"] for some in (points, spoilt))
    assert other.parameters_exponent == pytest.approx(law.parameters_exponent, abs=0.02)
    assert other.irreducible == pytest.approx(law.irreducible, abs=0.05)
