"""Variances of trunks and points are estimated without bias, and noise that is drawn has them."""

from __future__ import annotations

import numpy as np
import pytest

from glm_scale.scaling.laws.noise import Components, Noise

TRUNKS, BRANCHES, REPEATS = 20, 4, 400
TRUNK = np.repeat(np.arange(TRUNKS), BRANCHES)
MIXER = np.repeat([0, 1], TRUNKS * BRANCHES // 2)


def jacobian() -> np.ndarray:
    """Of a fit with six unknowns, some of which vary between trunks alone."""
    random = np.random.default_rng(0)
    between = random.standard_normal((TRUNKS, 3))[TRUNK]
    return np.concatenate([between, random.standard_normal((len(TRUNK), 3))], axis=1)


def left_by_a_fit(by_trunk: float, by_point: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = by_trunk**0.5 * random.standard_normal(TRUNKS)[TRUNK] + by_point**0.5 * random.standard_normal(len(TRUNK))
    fitted = np.linalg.qr(jacobian())[0]
    return np.asarray(noise - fitted @ (fitted.T @ noise))


def test_components_are_right_on_average():
    fitted = np.linalg.qr(jacobian())[0]
    found = [Components.of(left_by_a_fit(4.0, 1.0, seed), fitted, TRUNK) for seed in range(REPEATS)]
    # Four standard errors: means of trunks have a variance of 4.25 and some 17 degrees of freedom, points 57.
    assert np.mean([x.by_trunk for x in found]) == pytest.approx(4.0, abs=4 * 4.25 * (2 / 17 / REPEATS) ** 0.5)
    assert np.mean([x.by_point for x in found]) == pytest.approx(1.0, rel=4 * (2 / 57 / REPEATS) ** 0.5)
    assert 16 < found[0].freedom < 18


@pytest.mark.parametrize(("by_trunk", "by_point"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_component_that_is_absent_is_never_negative(by_trunk, by_point):
    fitted = np.linalg.qr(jacobian())[0]
    found = [Components.of(left_by_a_fit(by_trunk, by_point, seed), fitted, TRUNK) for seed in range(REPEATS)]
    assert min(min(x.by_trunk, x.by_point) for x in found) >= 0
    assert np.mean([x.by_trunk + x.by_point for x in found]) == pytest.approx(1.0, abs=4 * (2 / 17 / REPEATS) ** 0.5)


def test_trunks_without_branches_have_all_of_the_noise():
    residuals = np.random.default_rng(0).standard_normal(12)
    fitted = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 3)))[0]
    residuals -= fitted @ (fitted.T @ residuals)
    found = Components.of(residuals, fitted, np.arange(12))
    assert found.by_point == 0
    assert found.by_trunk == pytest.approx(residuals @ residuals / 9)
    assert found.freedom == pytest.approx(9)


def test_drawn_noise_has_the_size_of_what_it_was_estimated_from():
    residuals = left_by_a_fit(4.0, 1.0, seed=3)
    components = Components.of(residuals, np.linalg.qr(jacobian())[0], TRUNK)
    noise = Noise.of(residuals, jacobian(), TRUNK, MIXER)
    random = np.random.default_rng(0)
    drawn = np.array([noise.draw(random) for _ in range(4000)]).reshape(-1, TRUNKS, BRANCHES)
    # Scaled by what a chi-square with so many degrees of freedom makes of a variance.
    more = components.freedom / (components.freedom - 2)
    assert drawn.var() == pytest.approx(more * (components.by_trunk + components.by_point), rel=0.05)
    assert (drawn[:, :, 0] * drawn[:, :, 1]).mean() == pytest.approx(more * components.by_trunk, rel=0.05)
    assert drawn.mean() == pytest.approx(0, abs=0.05)


def test_each_mixer_has_noise_of_its_own():
    residuals = left_by_a_fit(4.0, 1.0, seed=3) * np.where(MIXER == 0, 1.0, 0.01)
    noise = Noise.of(residuals, np.ones((len(TRUNK), 1)), TRUNK, MIXER)
    drawn = np.array([noise.draw(np.random.default_rng(seed)) for seed in range(100)])
    assert drawn[:, MIXER == 1].std() < 0.05 * drawn[:, MIXER == 0].std()
