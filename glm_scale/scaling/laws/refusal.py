"""Why points determine no law, found before a fit or in its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from glm_scale.scaling.laws.objective import Objective
from glm_scale.scaling.laws.points import Point, Table
from glm_scale.scaling.laws.search import EXPONENTS

SPARE_POINTS = 2
LEAST_PER_MIXER = 3
LEAST_DIFFERENT = 3
LEAST_SPREAD = 0.1
"""How far the tokens of a mixer must spread beside a line through its sizes, as a part of the spread of the sizes, both
as logarithms. There standard errors of α and β are three times those of ladders with D/N over a factor of four."""

LEAST_SHARE = 1e-3
"""A term of the law whose share of the loss is smaller everywhere is at its bound, zero."""


class Cause(Enum):
    """What a refusal is about, for callers that treat some of them in their own way."""

    INVALID = "invalid numbers"
    TOO_FEW = "too few points"
    ONE_LINE = "tokens that follow from sizes"
    AT_BOUND = "a solution at a bound"
    NO_OPTIMUM = "no optimum"
    UNREACHABLE = "a loss out of reach"
    UNSTABLE = "draws that are refused"


@dataclass(frozen=True)
class Refusal:
    """Returned in place of a result. `reason` is a clause for a scientist, with numbers and the way out."""

    cause: Cause
    reason: str


def invalid(points: Iterable[Point]) -> Refusal | None:
    """Of the points with a number that is not positive and finite, the first."""
    for point in points:
        for name, value in (("parameters", point.parameters), ("tokens", point.tokens), ("loss", point.loss)):
            if not (np.isfinite(value) and value > 0):
                reason = (
                    f"{point.run} ({point.mixer}, seed {point.seed}) has {name} {value:g}, and a law takes positive "
                    "finite numbers; leave it out or read it again"
                )
                return Refusal(Cause.INVALID, reason)
    return None


def undetermined(table: Table) -> Refusal | None:
    """Whether the numbers and the places of the points rule out a fit, whatever the losses are."""
    return _too_few(table) or _too_alike(table) or _one_line(table)


def _too_few(table: Table) -> Refusal | None:
    unknowns = 3 + 2 * len(table.mixers)
    needed = unknowns + SPARE_POINTS
    if len(table) < needed:
        reason = (
            f"{len(table)} points for {unknowns} unknowns (E, α, β, and A and B of each mixer); at least {needed} are "
            "needed: add sizes or branches with other numbers of tokens"
        )
        return Refusal(Cause.TOO_FEW, reason)
    mixer, count = min(Counter(point.mixer for point in table.points).items(), key=lambda item: item[1])
    if count < LEAST_PER_MIXER:
        reason = f"{mixer} has {count} of the {LEAST_PER_MIXER} points that its A and B take; add runs or leave it out"
        return Refusal(Cause.TOO_FEW, reason)
    return None


def _too_alike(table: Table) -> Refusal | None:
    axes = (
        ("sizes", "α", "parameters", [point.parameters for point in table.points]),
        ("numbers of tokens", "β", "tokens", [point.tokens for point in table.points]),
    )
    for name, exponent, unit, numbers in axes:
        by_mixer = [{x for x, m in zip(numbers, table.mixer, strict=True) if m == i} for i in range(len(table.mixers))]
        most = max(by_mixer, key=len)
        if len(most) < LEAST_DIFFERENT:
            values = " and ".join(f"{value:,.0f}" for value in sorted(most))
            reason = (
                f"no mixer has more than {len(most)} different {name} ({values} {unit}), and E and {exponent} take at "
                f"least {LEAST_DIFFERENT}; add others, a factor of two or more apart"
            )
            return Refusal(Cause.TOO_FEW, reason)
    return None


def _one_line(table: Table) -> Refusal | None:
    """A mixer whose tokens are a power of the size, D = k N^c. A/N^α and B/D^β are then two powers of one variable, and
    most of what one of them gains the other can give away (arXiv:2605.08541)."""
    for index, mixer in enumerate(table.mixers):
        own = table.mixer == index
        size = table.log_parameters[own] - table.log_parameters[own].mean()
        tokens = table.log_tokens[own] - table.log_tokens[own].mean()
        along = np.ptp(size)
        # With one size, or with one number of tokens, the other mixers can tell what the term that stays is.
        if along == 0 or np.ptp(tokens) < LEAST_SPREAD * along:
            continue
        slope = float(size @ tokens / (size @ size))
        across = np.ptp(tokens - slope * size)
        if across < LEAST_SPREAD * along:
            ratio = np.exp(table.log_tokens[own] - table.log_parameters[own])
            reason = (
                f"tokens of {mixer} follow from its size as D ∝ N^{slope:.2f} to within a factor of "
                f"{np.exp(across):.2f} (D/N from {ratio.min():.3g} to {ratio.max():.3g}), while sizes differ by a "
                f"factor of {np.exp(along):.3g}: what size and tokens do cannot be told apart; train sizes with "
                "different numbers of tokens, as by branches of their trunks, a factor of "
                f"{np.exp(LEAST_SPREAD * along):.2g} apart or more"
            )
            return Refusal(Cause.ONE_LINE, reason)
    return None


def at_bound(table: Table, objective: Objective, solution: np.ndarray) -> Refusal | None:
    """Whether a solution is as far as the search goes: a term that is zero, or an exponent at the edge."""
    low, high = EXPONENTS
    for name, exponent, over in (("α", solution[-2], "sizes"), ("β", solution[-1], "tokens")):
        if not low < exponent < high:
            reason = (
                f"the best {name} is at the edge of what is searched, {low:g} to {high:g}: the losses do not bend as a "
                f"power law does over these {over}; a wider range of them is needed"
            )
            return Refusal(Cause.AT_BOUND, reason)
    shares = objective.shares(solution)
    if shares[0].max() < LEAST_SHARE:
        reason = (
            "the best E is zero: the losses still fall as a pure power law, so that no irreducible loss can be told; "
            "larger sizes and more tokens are needed"
        )
        return Refusal(Cause.AT_BOUND, reason)
    for index, mixer in enumerate(table.mixers):
        of_mixer = shares[1:, table.mixer == index].max(axis=1)
        for share, scale, over in zip(of_mixer, ("A", "B"), ("parameters", "tokens"), strict=True):
            if share < LEAST_SHARE:
                reason = (
                    f"the best {scale} of {mixer} is zero: its loss does not fall with {over} as that of the others "
                    "does; look at its runs, or fit it alone"
                )
                return Refusal(Cause.AT_BOUND, reason)
    return None
