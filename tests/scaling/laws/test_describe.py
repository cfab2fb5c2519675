"""Results in sentences."""

from __future__ import annotations

import pytest

from glm_scale.scaling.laws import (
    Bootstrap,
    Cause,
    Fit,
    Interval,
    Multiplier,
    Refusal,
    bootstrap,
    fit_joint,
    lack_of_fit,
    leave_largest_out,
)
from glm_scale.scaling.laws.describe import (
    describe_factors,
    describe_held_out,
    describe_lack_of_fit,
    describe_law,
    describe_multiplier,
)
from tests.scaling.laws.ladders import Ladder

REFUSAL = Refusal(Cause.TOO_FEW, "3 points for 5 unknowns")


@pytest.fixture(scope="module")
def draws() -> Bootstrap:
    fit = fit_joint(Ladder(sizes=6, noise=0.002).points())
    assert isinstance(fit, Fit)
    found = bootstrap(fit, 40)
    assert isinstance(found, Bootstrap)
    return found


def multiplier(value: float, low: float, high: float) -> Multiplier:
    return Multiplier("lattice:2^k", "attention", "FLOPs", 2.4123, Interval(value, low, high))


def test_a_multiplier_that_is_resolved():
    expected = "lattice:2^k needs 1.31× [1.24, 1.39] attention's FLOPs for a loss of 2.41"
    assert describe_multiplier(multiplier(1.312, 1.2401, 1.388)) == expected


def test_a_multiplier_whose_interval_includes_one_resolves_nothing():
    text = describe_multiplier(multiplier(1.0312, 0.9512, 1.1))
    assert text.startswith("lattice:2^k needs 1.03× [0.951, 1.10] attention's FLOPs")
    assert text.endswith("which of the two needs less is not resolved")


def test_a_multiplier_that_was_refused():
    assert describe_multiplier(REFUSAL) == "no answer: 3 points for 5 unknowns"


def test_a_large_number_is_a_number():
    assert "123× [100, 1.00e+03]" in describe_multiplier(multiplier(123.4, 100.2, 1000.0))


def test_a_law_is_given_with_its_intervals(draws):
    text = describe_law(draws)
    assert text.startswith("L = E + A/N^α + B/D^β with E 1.8")
    assert text.endswith("(90% intervals of 40 draws)")
    assert text.count("[") == 3


def test_refused_draws_are_told(draws):
    some = Bootstrap(draws.fit, draws.draws, refused=1)
    assert describe_law(some).endswith("(90% intervals of 41 draws, of which 1 were refused)")
    most = Bootstrap(draws.fit, draws.draws, refused=60)
    assert "without an interval (60 of 100 draws" in describe_law(most)


def test_factors_say_what_is_not_resolved(draws):
    text = describe_factors(draws, "lattice", "attention")
    assert text.startswith("a parameter of lattice counts for 0.")
    assert "not resolved" not in text
    assert describe_factors(draws, "lattice", "lattice").count("(not resolved)") == 2


def test_lack_of_fit(draws):
    text = describe_lack_of_fit(lack_of_fit(draws.fit))
    assert text.startswith("no lack of fit is seen: residuals spread by 0.")
    assert "the largest residual is" in text


def test_lack_of_fit_without_seeds():
    fit = fit_joint(Ladder(sizes=6, seeds=1).points())
    assert isinstance(fit, Fit)
    assert "cannot be told without runs that differ by seed alone" in describe_lack_of_fit(lack_of_fit(fit))


def test_predictions_of_the_largest_runs(draws):
    text = describe_held_out(leave_largest_out(draws.fit))
    assert text.startswith("the 12 runs of the largest size are predicted by the others to within ")
    assert "on average" in text
    assert describe_held_out(REFUSAL).endswith("3 points for 5 unknowns")
