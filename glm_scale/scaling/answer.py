"""What finished runs say of their mixers: a law of size and tokens, and what each costs for one loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from glm_scale.errors import UserError
from glm_scale.scaling.endpoints import Endpoint, best_rates
from glm_scale.scaling.laws import (
    Bootstrap,
    Cause,
    HeldOut,
    LackOfFit,
    Multiplier,
    PowerOfSize,
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

__all__ = ["Answer", "Costs", "answer", "reference_of"]

_USUAL_REFERENCE = "attention"


@dataclass(frozen=True)
class Costs:
    """Of a mixer, as powers of its size: FLOPs and seconds of a trained token, bytes of the cache, FLOPs of a decoded
    token. None where not all of its runs say it; FLOPs are then not numbers."""

    flops: PowerOfSize
    seconds: PowerOfSize | None
    cache: PowerOfSize | None
    decode_flops: PowerOfSize | None

    @classmethod
    def of(cls, runs: Sequence[Endpoint]) -> Costs:
        """Through what was found at the sizes of a mixer's runs, of which there is one at least."""
        sizes = [run.parameters for run in runs]

        def fitted(costs: Iterable[float | None]) -> PowerOfSize | None:
            known = [cost for cost in costs if cost]
            return PowerOfSize.through(sizes, known) if len(known) == len(sizes) and all(sizes) else None

        return cls(
            fitted(run.flops / max(run.tokens, 1) for run in runs) or PowerOfSize(math.nan, math.nan),
            fitted(run.seconds and run.seconds / max(run.tokens, 1) for run in runs),
            fitted(run.cache for run in runs),
            fitted(run.decode_flops for run in runs),
        )


@dataclass(frozen=True)
class Answer:
    """Runs, and sentences about their mixers, from `law` if the runs determine one. `multipliers`: by mixer and unit,
    beside `reference`; `costs`: by mixer. `lack_of_fit`, `held_out`: how good the law is; None without one."""

    runs: tuple[Endpoint, ...]
    reference: str
    costs: Mapping[str, Costs]
    law: Bootstrap | Refusal
    multipliers: tuple[Multiplier | Refusal, ...]
    sentences: tuple[str, ...]
    lack_of_fit: LackOfFit | None = None
    held_out: HeldOut | Refusal | None = None

    def values(self) -> dict[str, Any]:
        """For other programs to read."""
        laws = self.law.fit.laws if isinstance(self.law, Bootstrap) else {}
        return {
            "points": [asdict(run) for run in self.runs],
            "reference": self.reference,
            "laws": {mixer: asdict(law) for mixer, law in laws.items()},
            "refusal": self.law.reason if isinstance(self.law, Refusal) else None,
            "multipliers": [asdict(found) for found in self.multipliers if isinstance(found, Multiplier)],
            "sentences": list(self.sentences),
        }


def reference_of(mixers: Iterable[str], asked: str | None = None) -> str:
    """The mixer that the others are compared with: `asked`, else attention, else the first.

    Raises UserError if `asked` is none of them.
    """
    known = list(dict.fromkeys(mixers))
    if asked is not None and asked not in known:
        raise UserError(f"--reference {asked!r} has no finished run; there are {', '.join(known)}")
    return asked or (_USUAL_REFERENCE if _USUAL_REFERENCE in known else known[0])


def answer(endpoints: Iterable[Endpoint], reference: str) -> Answer:
    """Every other mixer beside `reference`, which is one of theirs; of several learning rates the best counts."""
    runs = tuple(best_rates(endpoints))
    mixers = list(dict.fromkeys(run.mixer for run in runs))
    costs = {mixer: Costs.of([run for run in runs if run.mixer == mixer]) for mixer in mixers}
    fit = fit_joint([run.point for run in runs])
    law = fit if isinstance(fit, Refusal) else bootstrap(fit)
    if isinstance(fit, Refusal) or isinstance(law, Refusal):
        reason = law.reason if isinstance(law, Refusal) else ""
        return Answer(runs, reference, costs, law, (), (f"no law: {reason}",))
    others = [mixer for mixer in law.fit.table.mixers if mixer != reference]
    multipliers = [found for mixer in others for found in _multipliers(law, costs, mixer, reference)]
    lack, held_out = lack_of_fit(fit), leave_largest_out(fit)
    sentences = [
        *map(describe_multiplier, multipliers),
        *(describe_factors(law, mixer, reference) for mixer in others),
        describe_law(law),
        describe_lack_of_fit(lack),
        describe_held_out(held_out),
    ]
    return Answer(runs, reference, costs, law, tuple(multipliers), tuple(sentences), lack, held_out)


def _multipliers(
    law: Bootstrap, costs: Mapping[str, Costs], mixer: str, reference: str
) -> Iterable[Multiplier | Refusal]:
    both = {name: costs[name] for name in (mixer, reference)}
    for name, cost in both.items():
        if not cost.flops.exponent > 0:
            reason = (
                f"the training FLOPs of {name} are not known of all runs, or do not grow with its size, so that no "
                "size is the best for a loss; leave those runs out"
            )
            yield Refusal(Cause.INVALID, reason)
            return
    flops = {name: _of_training(cost.flops) for name, cost in both.items()}
    yield compute_multiplier(law, mixer, reference, flops)
    for field, unit, per_token in (
        ("seconds", "seconds of training", True),
        ("cache", "cache", False),
        ("decode_flops", "FLOPs per decoded token", False),
    ):
        known = {name: getattr(cost, field) for name, cost in both.items()}
        if all(known.values()):
            taken = {name: _of_training(cost) if per_token else _of_model(cost) for name, cost in known.items()}
            yield cost_multiplier(law, mixer, reference, taken, unit, flops)


def _of_training(each: PowerOfSize) -> Callable[[float, float], float]:
    """What N parameters take for D tokens, if a token takes a power of N."""
    return lambda parameters, tokens: tokens * float(each(parameters))


def _of_model(each: PowerOfSize) -> Callable[[float, float], float]:
    return lambda parameters, tokens: float(each(parameters))
