"""Fits of L(N, D) = E + A/N^α + B/D^β to the points of several mixers, jointly or each alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.objective import Objective
from glm_scale.scaling.laws.points import Point, Table
from glm_scale.scaling.laws.refusal import Cause, Refusal, at_bound, invalid, undetermined
from glm_scale.scaling.laws.search import search


@dataclass(frozen=True)
class Factors:
    """How efficient a mixer is beside a reference: with N parameters and D tokens it reaches the loss of the reference
    with `parameters` times N and `tokens` times D. Greater than 1: better."""

    parameters: float
    tokens: float


@dataclass(frozen=True)
class Fit:
    """Laws by mixer that share E, α and β, fitted to the points of a table.

    `solution` [K] and `objective` are what was minimised. `residuals` [P] are log predicted - log observed.
    """

    table: Table
    laws: Mapping[str, Law]
    objective: Objective
    solution: np.ndarray
    residuals: np.ndarray


def fit_joint(points: Iterable[Point]) -> Fit | Refusal:
    """One fit for all mixers: E, α and β in common, A and B of each.

    Minimises the sum over points of Huber(log predicted - log observed) (Hoffmann et al. 2022, arXiv:2203.15556,
    approach 3). The result depends neither on a start nor on the order of the points or their units. Refused are
    points that do not determine it, and a result with a term at zero or an exponent at the edge of the search.
    """
    points = list(points)
    if refusal := invalid(points):
        return refusal
    if not points:
        return Refusal(Cause.TOO_FEW, "there are no points to fit a law to")
    table = Table.of(points)
    if refusal := undetermined(table):
        return refusal
    objective = Objective.of(table)
    solution = search(objective)
    if solution is None:
        reason = "the search ran out of steps: losses far from any power law of sizes and tokens; look at the points"
        return Refusal(Cause.NO_OPTIMUM, reason)
    if refusal := at_bound(table, objective, solution):
        return refusal
    return Fit(table, laws_of(table, objective, solution), objective, solution, objective.residuals(solution))


def fit_separate(points: Iterable[Point]) -> dict[str, Fit | Refusal]:
    """A fit of each mixer's points alone, with E, α and β of its own."""
    by_mixer: dict[str, list[Point]] = {}
    for point in points:
        by_mixer.setdefault(point.mixer, []).append(point)
    return {mixer: fit_joint(own) for mixer, own in sorted(by_mixer.items())}


def laws_of(table: Table, objective: Objective, solution: np.ndarray) -> dict[str, Law]:
    """The laws that a solution [K] stands for, by mixer."""
    count = len(table.mixers)
    alpha, beta = float(solution[-2]), float(solution[-1])
    scales = np.exp(solution[1 : 1 + 2 * count] + np.repeat(np.array(objective.log_centres) * (alpha, beta), count))
    irreducible = float(np.exp(solution[0]))
    return {
        mixer: Law(irreducible, float(scales[index]), float(scales[count + index]), alpha, beta)
        for index, mixer in enumerate(table.mixers)
    }


def factors(laws: Mapping[str, Law], mixer: str, reference: str) -> Factors:
    """The efficiency of one mixer beside another, of laws that share E, α and β: A = A_reference · parameters^-α, and
    B = B_reference · tokens^-β."""
    law, other = laws[mixer], laws[reference]
    return Factors(
        (other.parameters_scale / law.parameters_scale) ** (1 / law.parameters_exponent),
        (other.tokens_scale / law.tokens_scale) ** (1 / law.tokens_exponent),
    )
