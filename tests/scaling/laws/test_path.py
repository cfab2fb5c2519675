"""The models of least training FLOPs, beside the allocation that is found for one budget at a time."""

import numpy as np
import pytest

from glm_scale.scaling.laws import Law, PowerOfSize, compute_optimal, optimal

LAW = Law(1.8, 400, 900, 0.35, 0.4)


@pytest.mark.parametrize("exponent", [1.0, 0.8, 1.2])
def test_every_model_on_the_path_is_the_best_for_its_flops(exponent: float) -> None:
    flops = PowerOfSize(6.0, exponent)
    path = compute_optimal(LAW, np.geomspace(1e6, 1e9, 4), flops)
    for size, tokens, loss, compute in zip(path.parameters, path.tokens, path.loss, path.flops, strict=True):
        best = optimal(LAW, float(compute), lambda n, d: float(flops(n)) * d)
        assert (best.parameters, best.tokens) == pytest.approx((size, tokens), rel=2e-3)
        assert best.loss == pytest.approx(loss, rel=1e-6)


def test_flops_that_do_not_grow_with_the_size_have_no_best_one() -> None:
    with pytest.raises(ValueError, match="do not grow with the size"):
        compute_optimal(LAW, np.ones(1), PowerOfSize(6.0, 0.0))


def test_a_power_of_the_size_goes_through_its_points_and_is_proportional_if_there_is_one() -> None:
    power = PowerOfSize.through([1e6, 1e8], [3e3, 3e4])
    assert (power.exponent, float(power(1e8))) == pytest.approx((0.5, 3e4))
    alone = PowerOfSize.through([1e6, 1e6], [2e6, 2e6])
    assert (alone.scale, alone.exponent) == pytest.approx((2.0, 1.0))
