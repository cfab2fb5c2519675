"""The objective's value and derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from glm_scale.scaling.laws.objective import HUBER, Objective
from glm_scale.scaling.laws.points import Table
from glm_scale.scaling.laws.search import start
from tests.scaling.laws.ladders import Ladder

STEP = 1e-7


@pytest.fixture
def objective() -> Objective:
    return Objective.of(Table.of(Ladder(mixers=3).points()))


@pytest.fixture(params=[(0.3, 0.4), (0.9, 0.1)])
def solution(objective: Objective, request: pytest.FixtureRequest) -> np.ndarray:
    """Near the optimum, and far from it."""
    return start(objective, *request.param)


def test_it_is_the_sum_of_squares_below_the_bound_and_of_sizes_above(objective, solution):
    residuals = np.abs(objective.residuals(solution))
    expected = np.where(residuals <= HUBER, residuals**2 / 2, HUBER * (residuals - HUBER / 2)).sum()
    assert objective(solution)[0] == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_that_of_the_value(objective, solution):
    numeric = approx_fprime(solution, lambda x: objective(x)[0], STEP)
    assert objective(solution)[1] == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_the_hessian_is_the_derivative_of_the_gradient(objective, solution):
    numeric = approx_fprime(solution, lambda x: objective(x)[1], STEP)
    assert objective.hessian(solution) == pytest.approx(numeric, rel=1e-3, abs=1e-5)


def test_the_jacobian_is_the_derivative_of_the_residuals(objective, solution):
    numeric = approx_fprime(solution, objective.residuals, STEP)
    assert objective.jacobian(solution) == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_every_point_counts_in_full_however_many_there_are(solution):
    """A mean over points would have the same value for all of them twice."""
    points = Ladder(mixers=3).points()
    once, twice = (Objective.of(Table.of(some)) for some in (points, points + points))
    assert twice(solution)[0] == pytest.approx(2 * once(solution)[0], rel=1e-9)
