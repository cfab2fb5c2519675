"""What one mixer costs beside another where both reach the same loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from glm_scale.scaling.laws.allocation import Flops, cheapest
from glm_scale.scaling.laws.bootstrap import Bootstrap, Interval
from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.points import FLOPS_PER_TOKEN_AND_PARAMETER, Point
from glm_scale.scaling.laws.refusal import Cause, Refusal

Cost = Callable[[float, float], float]
"""What N parameters trained on D tokens cost, in any unit: seconds of training, bytes of a decoder's cache."""


@dataclass(frozen=True)
class Multiplier:
    """`mixer` takes `ratio` times the `unit` that `reference` takes for a loss of `loss`, each at the size and tokens
    of least training FLOPs."""

    mixer: str
    reference: str
    unit: str
    loss: float
    ratio: Interval

    @property
    def resolved(self) -> bool:
        """Whether the interval tells which of the two costs less."""
        return not self.ratio.includes(1.0)


def compute_multiplier(
    bootstrap: Bootstrap,
    mixer: str,
    reference: str,
    flops: Mapping[str, Flops] | None = None,
    loss: float | None = None,
) -> Multiplier | Refusal:
    """How many times the training FLOPs of `reference` `mixer` needs for the same loss.

    `flops`: of each mixer, 6·N·D where it is not among them. `loss`: by default what both have reached with their
    largest runs. With the same κ it would be the same at every loss, as all mixers share E, α and β.
    """
    flops = flops or {}
    at = reached(bootstrap.fit.table.points, (mixer, reference)) if loss is None else loss
    ratio = _interval(bootstrap, at, lambda laws: flops_ratio(laws, mixer, reference, at, flops))
    return ratio if isinstance(ratio, Refusal) else Multiplier(mixer, reference, "FLOPs", at, ratio)


def cost_multiplier(
    bootstrap: Bootstrap,
    mixer: str,
    reference: str,
    costs: Mapping[str, Cost],
    unit: str,
    flops: Mapping[str, Flops] | None = None,
    loss: float | None = None,
) -> Multiplier | Refusal:
    """How many times what `reference` costs `mixer` costs at the same loss, both at the allocation of least training
    FLOPs: a model is trained once, whatever else is then asked of it. `flops` and `loss`: see `compute_multiplier`."""
    flops = flops or {}
    at = reached(bootstrap.fit.table.points, (mixer, reference)) if loss is None else loss

    def cost(laws: Mapping[str, Law], name: str) -> float:
        place = cheapest(laws[name], at, flops.get(name, FLOPS_PER_TOKEN_AND_PARAMETER))
        return costs[name](place.parameters, place.tokens)

    ratio = _interval(bootstrap, at, lambda laws: cost(laws, mixer) / cost(laws, reference))
    return ratio if isinstance(ratio, Refusal) else Multiplier(mixer, reference, unit, at, ratio)


def flops_ratio(
    laws: Mapping[str, Law], mixer: str, reference: str, loss: float, flops: Mapping[str, Flops] | None = None
) -> float:
    """The training FLOPs of `mixer` over those of `reference` for the same loss, each at its best allocation; of any
    two laws, also of separate fits. Not a number where one of them cannot reach the loss."""
    flops = flops or {}
    own, other = (
        cheapest(laws[name], loss, flops.get(name, FLOPS_PER_TOKEN_AND_PARAMETER)).flops for name in (mixer, reference)
    )
    return own / other


def reached(points: Iterable[Point], mixers: Iterable[str]) -> float:
    """The loss that each of these mixers has reached in its runs of most FLOPs: the highest, of means over seeds."""
    points = list(points)
    losses = []
    for mixer in mixers:
        own = [point for point in points if point.mixer == mixer]
        most = max(point.flops for point in own)
        largest = [point.loss for point in own if point.flops == most]
        losses.append(sum(largest) / len(largest))
    return max(losses)


def _interval(bootstrap: Bootstrap, loss: float, quantity: Callable[[Mapping[str, Law]], float]) -> Interval | Refusal:
    irreducible = max(law.irreducible for law in bootstrap.fit.laws.values())
    if loss <= irreducible:
        reason = f"a loss of {loss:.4g} is not above the irreducible {irreducible:.4g}; ask for a higher one"
        return Refusal(Cause.UNREACHABLE, reason)
    return bootstrap.interval(quantity)
