"""How far mixers are apart: loss at equal compute with its interval, what each takes, and what else differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from rich.markup import escape
from rich.table import Table

from glm_scale.scaling.answer import Answer
from glm_scale.scaling.comparison import quantity
from glm_scale.scaling.differences import SAME_PARAMETERS, SAME_TOKENS, alike
from glm_scale.scaling.endpoints import Endpoint
from glm_scale.scaling.laws import LEVEL, Bootstrap, Interval, Law, Multiplier, compute_optimal

__all__ = ["Gaps", "gaps", "render_gaps"]

_HEADINGS = ("mixer", "runs", "parameters", "Δ loss", "90 % interval", "FLOPs", "time", "cache")
_UNITS = ("FLOPs", "seconds of training", "cache")
_SAME_FLOPS = 0.01
_NONE = "–"
_SIZES = 400
_BEYOND = 1e4


@dataclass(frozen=True)
class Gaps:
    """Texts under headings, the best mixer first, and what to know of them; the best is `rows[0]`."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def gaps(endpoints: Sequence[Endpoint], answer: Answer | None) -> Gaps | None:
    """Mixers beside the one of least loss, or beside `answer.reference` if the runs are meant to differ in size.

    None where there are not two mixers with final losses.
    """
    mixers = list(dict.fromkeys(end.mixer for end in endpoints))
    if len(mixers) < 2:
        return None
    by_mixer = {mixer: [end for end in endpoints if end.mixer == mixer] for mixer in mixers}
    if answer is None:
        return _of_one_size(by_mixer)
    return _by_law(by_mixer, answer) if isinstance(answer.law, Bootstrap) else _without_law(by_mixer, answer)


def render_gaps(found: Gaps) -> Table:
    """For the terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for number, heading in enumerate(found.headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for number, row in enumerate(found.rows):
        table.add_row(*map(escape, row), style=None if number else "bold")
    return table


def _of_one_size(by_mixer: Mapping[str, Sequence[Endpoint]]) -> Gaps:
    """Final losses as they are: at equal compute only where the FLOPs happen to be equal."""
    order = sorted(by_mixer, key=lambda mixer: _mean(by_mixer[mixer], "loss"))
    best, same_tokens = by_mixer[order[0]], alike((end.tokens for own in by_mixer.values() for end in own), SAME_TOKENS)
    rows = []
    for mixer in order:
        own = by_mixer[mixer]
        difference = _mean(own, "loss") - _mean(best, "loss")
        shown = f"{_mean(own, 'loss'):.4f}" if own is best else f"{difference:+.4f}" if same_tokens else _NONE
        interval = _NONE if own is best or not same_tokens else _welch(own, best)
        rows.append((mixer, str(len(own)), _parameters(own, best), shown, interval, *_taken(own, best)))
    if not same_tokens:
        note = "tokens differ, so that differences of final losses say nothing of the mixers"
    elif alike((end.flops for own in by_mixer.values() for end in own), _SAME_FLOPS):
        note = f"Δ at equal tokens and equal training FLOPs, beside {order[0]}"
    else:
        note = (
            f"Δ at equal tokens, beside {order[0]}; training FLOPs differ as shown, and what the loss would be at "
            "equal compute needs a ladder of sizes and budgets"
        )
    return Gaps(_HEADINGS, tuple(rows), note)


def _by_law(by_mixer: Mapping[str, Sequence[Endpoint]], answer: Answer) -> Gaps:
    """Losses of the law at the greatest compute that all mixers have reached, each at its best size; costs at equal
    loss."""
    law, reference = answer.law, answer.reference
    assert isinstance(law, Bootstrap)
    compute = min(max(end.flops for end in own) for own in by_mixer.values())
    losses = {mixer: _loss_at(law.fit.laws, answer, mixer, compute) for mixer in by_mixer}
    ratios = {(m.mixer, m.unit): m.ratio for m in answer.multipliers if isinstance(m, Multiplier)}
    rows = []
    for mixer in sorted(by_mixer, key=lambda mixer: losses[mixer]):
        fixed = mixer == reference
        interval = law.interval(
            lambda laws, mixer=mixer: (
                _loss_at(laws, answer, mixer, compute) - _loss_at(laws, answer, reference, compute)
            )  # type: ignore[misc]
        )
        shown = f"{losses[mixer]:.4f}" if fixed else f"{losses[mixer] - losses[reference]:+.4f}"
        between = _ends(interval, "+.4f") if isinstance(interval, Interval) else f"none: {interval.reason}"
        costs = ("1×" if fixed else _ratio(ratios.get((mixer, unit))) for unit in _UNITS)
        own = by_mixer[mixer]
        sizes = _parameters(own, by_mixer[reference])
        rows.append((mixer, str(len(own)), sizes, shown, _NONE if fixed else between, *costs))
    note = (
        f"Δ at equal compute, {compute:.2g} training FLOPs, each mixer at its best size, beside {reference}; FLOPs, "
        f"time and cache at equal loss, as multiples of {reference}'s; intervals of {LEVEL:.0%} from a bootstrap over "
        "runs and seeds"
    )
    return Gaps(_HEADINGS, tuple(rows), note)


def _without_law(by_mixer: Mapping[str, Sequence[Endpoint]], answer: Answer) -> Gaps:
    order = sorted(by_mixer, key=lambda mixer: min(end.loss for end in by_mixer[mixer]))
    reference = by_mixer[answer.reference]
    rows = [
        (mixer, str(len(by_mixer[mixer])), _parameters(by_mixer[mixer], reference), *([_NONE] * 5)) for mixer in order
    ]
    return Gaps(_HEADINGS, tuple(rows), "no Δ at equal compute and no interval: the runs determine no law")


def _loss_at(laws: Mapping[str, Law], answer: Answer, mixer: str, compute: float) -> float:
    """The least loss for so many training FLOPs."""
    sizes = [run.parameters for run in answer.runs if run.mixer == mixer]
    if not answer.costs[mixer].flops.exponent > 0:
        return float("nan")
    path = compute_optimal(
        laws[mixer], np.geomspace(min(sizes) / _BEYOND, max(sizes) * _BEYOND, _SIZES), answer.costs[mixer].flops
    )
    return float(np.exp(np.interp(np.log(compute), np.log(path.flops), np.log(path.loss))))


def _welch(own: Sequence[Endpoint], other: Sequence[Endpoint]) -> str:
    """Of the difference of mean losses, from the spread of seeds."""
    if min(len(own), len(other)) < 2:
        return "none: one seed; repeat with other training.seed"
    from scipy.stats import ttest_ind

    found = ttest_ind([end.loss for end in own], [end.loss for end in other], equal_var=False)
    low, high = found.confidence_interval(LEVEL)
    return f"[{low:+.4f}, {high:+.4f}]"


def _taken(own: Sequence[Endpoint], best: Sequence[Endpoint]) -> list[str]:
    """What the runs took, in what those of the best took."""
    shown = []
    for name in ("flops", "seconds", "cache"):
        known = all(getattr(end, name) for end in (*own, *best))
        shown.append(f"{_mean(own, name) / _mean(best, name):.3g}×" if known else _NONE)
    return shown


def _parameters(own: Sequence[Endpoint], other: Sequence[Endpoint]) -> str:
    """Sizes, and how far they are from those of another mixer at the same place, if by more than is passed over."""
    sizes, others = (sorted({end.parameters for end in runs}) for runs in (own, other))
    shown = quantity(sizes[0]) if len(sizes) == 1 else f"{quantity(sizes[0])} – {quantity(sizes[-1])}"
    if len(sizes) != len(others):
        return shown
    off = max((a / b - 1 for a, b in zip(sizes, others, strict=True)), key=abs)
    return f"{shown} ({off:+.1%})" if abs(off) > SAME_PARAMETERS else shown


def _ratio(interval: Interval | None) -> str:
    return _NONE if interval is None else f"{interval.value:.3g}× {_ends(interval, '.3g')}"


def _ends(interval: Interval, form: str) -> str:
    return f"[{interval.low:{form}}, {interval.high:{form}}]"


def _mean(runs: Sequence[Endpoint], name: str) -> float:
    return fmean(float(getattr(run, name)) for run in runs)
