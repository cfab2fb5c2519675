"""The size and tokens of least FLOPs: the closed form against others, and FLOPs of any form against the closed one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glm_scale.scaling.laws import Law, cheapest, optimal

LAW = Law(1.8, 400, 1500, 0.35, 0.38)


@pytest.mark.parametrize("compute", [1e16, 1e19, 1e24])
@pytest.mark.parametrize("factor", [6.0, 11.5])
def test_no_other_size_has_a_lower_loss_at_the_same_flops(compute, factor):
    best = optimal(LAW, compute, factor)
    assert factor * best.parameters * best.tokens == pytest.approx(compute)
    others = best.parameters * np.geomspace(0.1, 10, 2001)
    losses = LAW(others, compute / factor / others)
    assert best.loss <= losses.min() * (1 + 1e-12)
    assert best.loss == pytest.approx(losses.min(), rel=1e-9)


@pytest.mark.parametrize("loss", [1.81, 2.4, 5.0])
def test_the_cheapest_way_to_a_loss_is_the_optimum_of_its_flops(loss):
    cheap = cheapest(LAW, loss)
    best = optimal(LAW, cheap.flops)
    assert (best.parameters, best.tokens, best.loss) == pytest.approx((cheap.parameters, cheap.tokens, loss), rel=1e-9)


def test_flops_as_a_function_give_what_the_closed_form_gives():
    closed, searched = cheapest(LAW, 2.4, 7.0), cheapest(LAW, 2.4, lambda n, d: 7.0 * n * d)
    assert searched.flops == pytest.approx(closed.flops, rel=1e-9)
    assert searched.parameters == pytest.approx(closed.parameters, rel=1e-3)
    closed, searched = optimal(LAW, 1e20, 7.0), optimal(LAW, 1e20, lambda n, d: 7.0 * n * d)
    assert searched.loss == pytest.approx(closed.loss, rel=1e-9)
    assert searched.parameters == pytest.approx(closed.parameters, rel=1e-3)


def test_flops_that_attention_adds_per_token_make_larger_models_better():
    def flops(parameters: float, tokens: float) -> float:
        return 6 * (parameters + 3e3 * math.sqrt(parameters)) * tokens

    best, plain = optimal(LAW, 1e18, flops), optimal(LAW, 1e18)
    assert flops(best.parameters, best.tokens) == pytest.approx(1e18, rel=1e-9)
    assert best.loss > plain.loss
    assert best.parameters / best.tokens > plain.parameters / plain.tokens


@pytest.mark.parametrize("loss", [1.8, 1.0])
def test_a_loss_that_is_out_of_reach_takes_no_number_of_flops(loss):
    assert math.isnan(cheapest(LAW, loss).flops)
    assert math.isnan(cheapest(LAW, loss, lambda n, d: n * d).flops)


@pytest.mark.parametrize("compute", [0.0, -1.0, math.nan, math.inf])
def test_no_budget_has_no_optimum(compute):
    with pytest.raises(ValueError, match="positive finite"):
        optimal(LAW, compute)
