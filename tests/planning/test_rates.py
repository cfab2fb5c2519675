"""What lies between measured points."""

import math

import pytest

from glm_scale.planning.rates import Point, between


def test_a_measured_point_is_itself() -> None:
    points = [Point((8.0, 2.0), 3.0), Point((9.0, 2.0), 5.0)]
    assert between(points, (8.0, 2.0)) == 3.0


def test_halfway_on_a_logarithmic_scale_is_the_geometric_mean() -> None:
    assert between([Point((2.0,), 4.0), Point((8.0,), 9.0)], (4.0,)) == pytest.approx(6.0)


def test_weights_are_the_inverse_fourth_power_of_distances() -> None:
    # Two distances of one factor and of two: weights 1 and 1/16.
    found = between([Point((1.0,), math.e), Point((8.0,), 1.0)], (2.0,))
    assert math.log(found) == pytest.approx(1 / (1 + 1 / 16))


def test_far_outside_it_stays_between_what_was_measured() -> None:
    assert 1 < between([Point((1.0,), 1.0), Point((2.0,), 2.0)], (1e6,)) < 2


def test_nothing_lies_between_no_points() -> None:
    with pytest.raises(ValueError, match="nothing"):
        between([], (1.0,))
