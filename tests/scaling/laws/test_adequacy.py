"""Whether a law fits is told by the spread between seeds and by runs that were left out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from glm_scale.scaling.laws import Fit, HeldOut, Point, Refusal, fit_joint, lack_of_fit, leave_largest_out
from tests.scaling.laws.ladders import Ladder


def fitted(points: list[Point]) -> Fit:
    fit = fit_joint(points)
    assert isinstance(fit, Fit), fit
    return fit


def test_losses_of_the_law_show_no_more_lack_of_fit_than_chance_has():
    """Branches of a trunk err alike, which an F-distribution would take for lack of fit."""
    ladder = Ladder(sizes=6, seeds=3, noise=0.004, shared=0.8)
    found = [lack_of_fit(fitted(ladder.points(seed))) for seed in range(60)]
    p_values = np.array([lack.p_value for lack in found], dtype=np.float64)
    # By chance more than 10 of 60 are below 0.05 less than twice in 10,000 times.
    assert (p_values < 0.05).sum() <= 10
    assert (p_values < 0.5).sum() >= 15
    assert np.mean([lack.ratio for lack in found]) == pytest.approx(1.0, abs=0.3)


def test_the_spread_of_seeds_and_residuals_is_that_of_the_noise():
    lack = lack_of_fit(fitted(Ladder(mixers=3, sizes=6, seeds=3, noise=0.004, shared=0.2).points()))
    assert lack.seed_spread == pytest.approx(0.004, rel=0.15)
    assert lack.residual_spread == pytest.approx(0.004, rel=0.15)


def test_losses_of_another_law_show_lack_of_fit():
    points = Ladder(sizes=6, seeds=3, noise=0.002).points()
    waved = [dataclasses.replace(p, loss=p.loss * (1 + 0.01 * np.sin(2 * np.log(p.parameters)))) for p in points]
    lack = lack_of_fit(fitted(waved))
    assert lack.p_value is not None
    assert lack.p_value < 0.01
    assert lack.ratio is not None
    assert lack.ratio > 3


def test_without_seeds_lack_of_fit_cannot_be_told():
    lack = lack_of_fit(fitted(Ladder(sizes=6, seeds=1).points()))
    assert lack.p_value is None
    assert lack.ratio is None
    assert lack.seed_spread is None
    assert lack.residual_spread > 0


def test_copies_of_a_run_are_no_other_seeds():
    points = Ladder(sizes=6, seeds=1).points()
    copies = [dataclasses.replace(point, seed=1) for point in points]
    assert lack_of_fit(fitted(points + copies)).p_value is None


def test_the_worst_point_is_named():
    points = Ladder(noise=1e-4).points()
    points[5] = dataclasses.replace(points[5], loss=points[5].loss * 1.05)
    lack = lack_of_fit(fitted(points))
    assert lack.worst == points[5]
    assert lack.worst_residual == pytest.approx(-np.log(1.05), rel=0.05)


def test_the_largest_size_of_each_mixer_is_predicted_from_the_others():
    points = Ladder(sizes=6, noise=1e-4).points()
    largest = {m: max(p.parameters for p in points if p.mixer == m) for m in ("attention", "lattice")}
    held = leave_largest_out(fitted(points))
    assert isinstance(held, HeldOut)
    assert held.largest == "size"
    assert {(p.mixer, p.parameters) for p in held.points} == set(largest.items())
    assert len(held.points) == len(held.errors) == 12
    assert max(map(abs, held.errors)) < 0.005
    assert not set(held.points) & set(held.fit.table.points)


def test_an_error_is_how_far_the_prediction_is_above_the_loss():
    points = Ladder(sizes=6, noise=1e-5).points()
    most = max(p.parameters for p in points)
    better = [dataclasses.replace(p, loss=p.loss / 1.02) if p.parameters == most else p for p in points]
    held = leave_largest_out(fitted(better))
    assert isinstance(held, HeldOut)
    errors = [e for p, e in zip(held.points, held.errors, strict=True) if p.parameters == most]
    assert errors == pytest.approx([0.02] * len(errors), abs=0.001)


def test_with_three_sizes_the_runs_of_most_flops_are_left_out():
    held = leave_largest_out(fitted(Ladder(sizes=3, ratios=(10, 20, 40, 80), noise=1e-5).points()))
    assert isinstance(held, HeldOut)
    assert held.largest == "compute"
    assert len(held.points) == 4


def test_what_cannot_be_predicted_says_why():
    points = Ladder(mixers=1, sizes=3, seeds=1, noise=1e-5).points()
    held = leave_largest_out(fitted(points[:4] + points[6:]))
    assert isinstance(held, Refusal)
