"""What finished runs of a ladder say of their mixers: a law of size and tokens, and what each costs for one loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glm_scale.ladder.members import Ladder, Member, is_finished
from glm_scale.scaling.curves import load_run
from glm_scale.scaling.laws import (
    Bootstrap,
    Multiplier,
    Point,
    Refusal,
    bootstrap,
    compute_multiplier,
    cost_multiplier,
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

__all__ = ["Answer", "Trained", "answer", "trained"]


@dataclass(frozen=True)
class Trained:
    """A finished run: what it became, and at what cost.

    `flops`: of training it, with what it began with; `seconds` likewise. `cache`: bytes of one document of the length
    of the sequences, None if the run does not say.
    """

    member: Member
    parameters: int
    tokens: int
    loss: float
    flops: float
    seconds: float
    cache: int | None

    @property
    def mixer(self) -> str:
        """The spelling of its mixers."""
        return self.member.config.model.mixer_name

    @property
    def point(self) -> Point:
        """Runs that share a beginning share noise."""
        seed = self.member.config.training.seed
        return Point(self.mixer, self.parameters, self.tokens, self.loss, seed, self.member.trunk or self.member.name)


@dataclass(frozen=True)
class Answer:
    """Runs, and sentences about their mixers, from `law` if the runs determine one. `multipliers`: by unit."""

    runs: tuple[Trained, ...]
    law: Bootstrap | Refusal
    multipliers: tuple[Multiplier | Refusal, ...]
    sentences: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """For other programs to read."""
        points = [asdict(run.point) | {"flops": run.flops, "seconds": run.seconds} for run in self.runs]
        found = (
            {name: asdict(law) for name, law in self.law.fit.laws.items()} if isinstance(self.law, Bootstrap) else {}
        )
        return {"points": points, "laws": found, "sentences": list(self.sentences)}


def trained(ladder: Ladder) -> list[Trained]:
    """The finished runs; of those that differ in the learning rate alone the one with the least loss."""
    best: dict[tuple[Any, ...], Trained] = {}
    for run in filter(None, map(_trained, ladder.members)):
        ratio = run.member.budget.ratio if run.member.budget else None
        key = run.mixer, run.member.parameters or run.parameters, ratio, run.member.config.training.seed
        if key not in best or run.loss < best[key].loss:
            best[key] = run
    return list(best.values())


def answer(runs: Sequence[Trained], reference: str) -> Answer:
    """Every other mixer beside `reference`, which is one of theirs."""
    fit = fit_joint([run.point for run in runs])
    law = fit if isinstance(fit, Refusal) else bootstrap(fit)
    if isinstance(fit, Refusal) or isinstance(law, Refusal):
        reason = law.reason if isinstance(law, Refusal) else ""
        return Answer(tuple(runs), law, (), (f"no law: {reason}",))
    others = [mixer for mixer in law.fit.table.mixers if mixer != reference]
    multipliers = [found for mixer in others for found in _multipliers(law, runs, mixer, reference)]
    sentences = [
        *map(describe_multiplier, multipliers),
        *(describe_factors(law, mixer, reference) for mixer in others),
        describe_law(law),
        describe_lack_of_fit(lack_of_fit(fit)),
        describe_held_out(leave_largest_out(fit)),
    ]
    return Answer(tuple(runs), law, tuple(multipliers), tuple(sentences))


def _trained(member: Member) -> Trained | None:
    if not is_finished(member):
        return None
    run = load_run(member.run)
    if run.validation_loss is None or run.provisional:
        return None
    parameters, cache = run.summary.non_embedding_parameters, run.summary.cache_bytes
    return Trained(member, parameters, run.tokens, run.validation_loss, run.flops, run.seconds, cache)


def _multipliers(law: Bootstrap, runs: Sequence[Trained], mixer: str, reference: str) -> Iterable[Multiplier | Refusal]:
    both = {name: [run for run in runs if run.mixer == name] for name in (mixer, reference)}
    flops = {name: _a_token(own, lambda run: run.flops / run.tokens) for name, own in both.items()}
    yield compute_multiplier(law, mixer, reference, flops)
    if all(run.seconds for own in both.values() for run in own):
        seconds = {name: _a_token(own, lambda run: run.seconds / run.tokens) for name, own in both.items()}
        yield cost_multiplier(law, mixer, reference, seconds, "seconds of training", flops)
    if all(run.cache for own in both.values() for run in own):
        caches = {name: _a_model(own, lambda run: float(run.cache or 0)) for name, own in both.items()}
        yield cost_multiplier(law, mixer, reference, caches, "cache", flops)


def _a_token(runs: Sequence[Trained], of: Callable[[Trained], float]) -> Callable[[float, float], float]:
    """What N parameters take for D tokens, if a token takes a power of N."""
    each = _power_of_size(runs, of)
    return lambda parameters, tokens: tokens * each(parameters)


def _a_model(runs: Sequence[Trained], of: Callable[[Trained], float]) -> Callable[[float, float], float]:
    each = _power_of_size(runs, of)
    return lambda parameters, tokens: each(parameters)


def _power_of_size(runs: Sequence[Trained], of: Callable[[Trained], float]) -> Callable[[float], float]:
    """Through what was found at the sizes, as a straight line of logarithms; rising, if there is but one size."""
    sizes = np.log([run.parameters for run in runs])
    values = np.log([of(run) for run in runs])
    slope, at_one = np.polyfit(sizes, values, 1) if len(set(sizes)) > 1 else (1.0, float(np.mean(values - sizes)))
    return lambda parameters: math.exp(at_one + slope * math.log(parameters))
