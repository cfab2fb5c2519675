"""Results in sentences, for the terminal and for reports."""

from __future__ import annotations

from glm_scale.scaling.laws.adequacy import HeldOut, LackOfFit
from glm_scale.scaling.laws.bootstrap import LEVEL, Bootstrap, Interval
from glm_scale.scaling.laws.fit import factors
from glm_scale.scaling.laws.multiplier import Multiplier
from glm_scale.scaling.laws.refusal import Refusal

_SIGNIFICANT = 0.05


def describe_law(bootstrap: Bootstrap) -> str:
    """E, α and β with their intervals, and how many draws these are from."""
    mixer = bootstrap.fit.table.mixers[0]
    quantities = {
        "E": bootstrap.interval(lambda laws: laws[mixer].irreducible),
        "α": bootstrap.interval(lambda laws: laws[mixer].parameters_exponent),
        "β": bootstrap.interval(lambda laws: laws[mixer].tokens_exponent),
    }
    shown = ", ".join(f"{name} {_ranged(interval)}" for name, interval in quantities.items())
    draws = f"{len(bootstrap.draws) + bootstrap.refused} draws"
    refused = f", of which {bootstrap.refused} were refused" if bootstrap.refused else ""
    return f"L = E + A/N^α + B/D^β with {shown} ({LEVEL:.0%} intervals of {draws}{refused})"


def describe_factors(bootstrap: Bootstrap, mixer: str, reference: str) -> str:
    """What a parameter and a token of a mixer are worth beside those of another, and whether that is resolved."""
    by_size = bootstrap.interval(lambda laws: factors(laws, mixer, reference).parameters)
    by_data = bootstrap.interval(lambda laws: factors(laws, mixer, reference).tokens)
    shown = (
        f"a parameter of {mixer} counts for {_ranged(by_size)} of {reference}'s{_unless_resolved(by_size)}",
        f"a token for {_ranged(by_data)}{_unless_resolved(by_data)}",
    )
    return ", ".join(shown)


def describe_multiplier(result: Multiplier | Refusal) -> str:
    """What a mixer costs beside another at equal loss, and whether that is resolved."""
    if isinstance(result, Refusal):
        return f"no answer: {result.reason}"
    ratio = result.ratio
    needs = (
        f"{result.mixer} needs {_number(ratio.value)}× [{_number(ratio.low)}, {_number(ratio.high)}] "
        f"{result.reference}'s {result.unit} for a loss of {_number(result.loss)}"
    )
    return needs if result.resolved else f"{needs}: which of the two needs less is not resolved"


def describe_lack_of_fit(lack: LackOfFit) -> str:
    """Whether residuals are larger than seeds explain, and where the largest is."""
    worst = lack.worst
    at = (
        f"the largest residual is {lack.worst_residual:+.2%}, of {worst.run} ({worst.mixer}, seed {worst.seed}, "
        f"{worst.tokens:.3g} tokens)"
    )
    spread = f"residuals spread by {lack.residual_spread:.2%}"
    if lack.seed_spread is None or lack.ratio is None or lack.p_value is None:
        return f"{spread}; whether that is more than noise cannot be told without runs that differ by seed alone; {at}"
    beside = f"{spread}, seeds by {lack.seed_spread:.2%}; variance ratio {lack.ratio:.2f}, p = {lack.p_value:.2g}"
    verdict = "the law does not fit" if lack.p_value < _SIGNIFICANT else "no lack of fit is seen"
    return f"{verdict}: {beside}; {at}"


def describe_held_out(result: HeldOut | Refusal) -> str:
    """How well the largest runs are predicted by the others."""
    if isinstance(result, Refusal):
        return f"the largest runs cannot be predicted from the others: {result.reason}"
    runs = "runs of the largest size" if result.largest == "size" else "runs of most FLOPs"
    errors = result.errors
    mean, worst = sum(errors) / len(errors), max(errors, key=abs)
    return f"the {len(errors)} {runs} are predicted by the others to within {worst:+.2%}, {mean:+.2%} on average"


def _ranged(interval: Interval | Refusal) -> str:
    if isinstance(interval, Refusal):
        return f"without an interval ({interval.reason})"
    return f"{_number(interval.value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _unless_resolved(interval: Interval | Refusal) -> str:
    return " (not resolved)" if isinstance(interval, Interval) and interval.includes(1.0) else ""


def _number(value: float) -> str:
    """Three digits, trailing zeros kept, so that the ends of an interval look alike."""
    return f"{value:#.3g}".rstrip(".")
