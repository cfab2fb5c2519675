"""Fits of L = E + a x^-b recover what was planted, and refuse what is no power law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_scale.scaling.fit import MINIMUM_POINTS, fit_power_law


@settings(deadline=None, max_examples=50)
@given(
    irreducible=st.floats(0.5, 3.0),
    first=st.floats(0.2, 4.0),
    exponent=st.floats(0.05, 1.0),
    start=st.floats(1e3, 1e20),
    points=st.integers(MINIMUM_POINTS, 9),
)
def test_a_planted_law_is_recovered(irreducible, first, exponent, start, points):
    """`first` is the reducible part of the loss at the smallest size."""
    x = start * np.geomspace(1, 1000, points)
    scale = first * start**exponent
    law = fit_power_law(x, irreducible + scale * x**-exponent)
    assert law is not None
    assert law.irreducible == pytest.approx(irreducible, rel=1e-3)
    assert law.exponent == pytest.approx(exponent, rel=1e-3)
    assert law.scale == pytest.approx(scale, rel=1e-2)
    assert law.residual < 1e-6
    assert law.points == points


def test_noise_moves_the_law_little():
    x = np.geomspace(1e6, 1e10, 12)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(12))
    law = fit_power_law(x, (1.7 + 400 * x**-0.34) * noise)
    assert law is not None
    assert law.irreducible == pytest.approx(1.7, rel=0.02)
    assert law.exponent == pytest.approx(0.34, rel=0.1)
    assert 5e-4 < law.residual < 4e-3


def test_a_law_without_an_irreducible_part_is_not_driven_below_zero():
    """Curved downwards on log-log axes: the unconstrained optimum has E < 0."""
    x = np.geomspace(1e6, 1e9, 6)
    law = fit_power_law(x, 40 * x**-0.15 * np.array([0.99, 1.0, 1.01, 1.01, 1.0, 0.99]))
    assert law is not None
    assert law.irreducible == 0.0
    assert law.exponent == pytest.approx(0.15, rel=0.05)


@pytest.mark.parametrize(
    ("x", "loss"),
    [
        ([1e6, 1e7, 1e8], [3.0, 2.5, 2.2]),  # too few
        ([1e6, 1e6, 1e6, 1e7, 1e8], [3.0, 3.1, 3.0, 2.5, 2.2]),  # too few different ones
        ([1e6, 1e7, 1e8, 1e9], [2.0, 2.5, 3.0, 3.5]),  # it rises
        ([1e6, 1e7, 1e8, 1e9], [2.0, 2.0, 2.0, 2.0]),  # it stays
        ([1e6, 1e7, 1e8, 1e9], [3.0, 2.9, 2.6, 1.5]),  # it falls ever faster
        ([1e6, 1e7, 1e8, 1e9], [3.0, 2.5, np.nan, 2.1]),
        ([0.0, 1e7, 1e8, 1e9], [3.0, 2.5, 2.3, 2.1]),
    ],
)
def test_what_is_no_power_law_is_not_fitted(x, loss):
    assert fit_power_law(np.array(x), np.array(loss)) is None


def test_the_fit_does_not_depend_on_the_order_of_the_points():
    x = np.geomspace(1e6, 1e9, 5)
    loss = 1.8 + 90 * x**-0.25
    fits = fit_power_law(x, loss), fit_power_law(x[::-1], loss[::-1])
    forward, backward = (fit.exponent for fit in fits if fit is not None)
    assert backward == pytest.approx(forward, rel=1e-6)
