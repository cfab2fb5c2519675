"""Where on a law a budget is spent best: the size and the tokens of least training FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit

from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.points import FLOPS_PER_TOKEN_AND_PARAMETER

Flops = float | Callable[[float, float], float]
"""Training FLOPs: κ in κ·N·D, or a function of N and D that grows with both."""

# Log odds of the size's part of what is above E; an optimum beyond would need exponents 2,000 times apart.
_ODDS = 8.0
# Between these factors of a first guess, as logarithms, lies the reducible loss that a budget buys.
_AROUND = 12.0


@dataclass(frozen=True)
class Allocation:
    """A size, tokens, the loss that they reach and the training FLOPs that they take."""

    parameters: float
    tokens: float
    loss: float
    flops: float


def optimal(law: Law, compute: float, flops: Flops = FLOPS_PER_TOKEN_AND_PARAMETER) -> Allocation:
    """The allocation of `compute` training FLOPs with the least loss.

    In closed form for κ·N·D (Hoffmann et al. 2022, arXiv:2203.15556, equation 4). Raises ValueError if no allocation
    takes this many FLOPs.
    """
    if not (math.isfinite(compute) and compute > 0):
        raise ValueError(f"compute is {compute:g} FLOPs; an allocation takes a positive finite number")
    per_product = FLOPS_PER_TOKEN_AND_PARAMETER if callable(flops) else flops
    product = compute / per_product
    alpha, beta = law.parameters_exponent, law.tokens_exponent
    balance = (alpha * law.parameters_scale / (beta * law.tokens_scale)) ** (1 / (alpha + beta))
    parameters = balance * product ** (beta / (alpha + beta))
    tokens = product / parameters
    loss = float(law(parameters, tokens))
    if not callable(flops):
        return Allocation(parameters, tokens, loss, compute)

    def excess(log_reducible: float) -> float:
        return math.log(cheapest(law, law.irreducible + math.exp(log_reducible), flops).flops / compute)

    guess = math.log(loss - law.irreducible)
    return cheapest(law, law.irreducible + math.exp(brentq(excess, guess - _AROUND, guess + _AROUND)), flops)


def cheapest(law: Law, loss: float, flops: Flops = FLOPS_PER_TOKEN_AND_PARAMETER) -> Allocation:
    """The allocation that reaches `loss` with the least training FLOPs; not numbers where the loss is out of reach.

    All allocations that reach a loss are one family: how much of what is above E is due to the size. For κ·N·D the
    best share is β/(α + β), whatever the loss.
    """
    if not loss > law.irreducible:
        return Allocation(math.nan, math.nan, loss, math.nan)
    if callable(flops):
        best = minimize_scalar(
            lambda odds: math.log(flops(*law.reaching(loss, float(expit(odds))))),
            bounds=(-_ODDS, _ODDS),
            method="bounded",
        )
        parameters, tokens = law.reaching(loss, float(expit(best.x)))
        return Allocation(parameters, tokens, loss, flops(parameters, tokens))
    share = law.tokens_exponent / (law.parameters_exponent + law.tokens_exponent)
    parameters, tokens = law.reaching(loss, share)
    return Allocation(parameters, tokens, loss, flops * parameters * tokens)
