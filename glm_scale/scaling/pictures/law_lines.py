"""A law as it is drawn: over costs of training the models of least FLOPs, over tokens those of each size, and over what
follows from the size those of each budget; with the bootstrap's bands, and residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from glm_scale.scaling.answer import Answer, Costs
from glm_scale.scaling.endpoints import Endpoint
from glm_scale.scaling.laws import Bootstrap, Law, compute_optimal
from glm_scale.scaling.pictures.quantities import Cost, Loss
from glm_scale.scaling.pictures.shapes import Axis, Band, Line, Panel, Points
from glm_scale.scaling.pictures.ticks import linear_ticks
from glm_scale.scaling.style import style_of

__all__ = ["joined", "law_lines", "residuals_of"]

_PLACES = 32
"""Along a curve of a law."""
_SIZES = 240
_BEYOND = 1e4
"""How far beyond the sizes that were trained a path is followed, so that it covers all that they cost."""

_Curve = Callable[[Mapping[str, Law]], np.ndarray]
"""Losses at the places of a curve, of laws by mixer."""


def law_lines(answer: Answer, cost: Cost, loss: Loss) -> Iterator[tuple[Line, Band]]:
    """Of each mixer, from the least to the most that its runs took. Nothing where there is no law, or where the cost
    does not grow with the size or is not known of all runs."""
    if not isinstance(answer.law, Bootstrap):
        return
    for mixer, own in _by_mixer(answer.runs):
        scale = loss.of_endpoint(own[0])
        if scale is None or not all(cost.of(run) for run in own):
            continue
        style = style_of(mixer)
        for x, curve in _curves(mixer, own, answer.costs[mixer], cost):
            band = answer.law.band(lambda laws, curve=curve: np.log(curve(laws)))  # type: ignore[misc]
            value, low, high = (scale * np.exp(edge) for edge in (band.value, band.low, band.high))
            yield Line("law", x, value, style, mixer), Band(x, low, high, style, mixer)


def _curves(mixer: str, own: Sequence[Endpoint], costs: Costs, cost: Cost) -> Iterator[tuple[np.ndarray, _Curve]]:
    """Places along the cost [P] and the law's losses there, for each curve of a mixer."""
    if cost.key == "tokens":
        for group in _alike(own, lambda run: run.parameters):
            size, tokens = float(np.mean([run.parameters for run in group])), _between(run.tokens for run in group)
            if len(tokens):
                yield tokens, lambda laws, size=size, tokens=tokens: laws[mixer](size, tokens)  # type: ignore[misc]
    elif cost.along is None:
        each = cost.on_size(costs)
        for group, per_parameter in _budgets(own):
            sizes = _between(run.parameters for run in group)
            if len(sizes) and each is not None and (np.diff(each(sizes)) > 0).all():
                budget = float(np.mean([run.tokens / run.parameters**per_parameter for run in group]))
                tokens = budget * sizes**per_parameter
                yield each(sizes), lambda laws, sizes=sizes, tokens=tokens: laws[mixer](sizes, tokens)  # type: ignore[misc]
    elif costs.flops.exponent > 0:
        yield from _optimal(mixer, own, costs, cost)


def _optimal(mixer: str, own: Sequence[Endpoint], costs: Costs, cost: Cost) -> Iterator[tuple[np.ndarray, _Curve]]:
    """The models of least training FLOPs."""
    trained = [run.parameters for run in own]
    sizes = np.geomspace(min(trained) / _BEYOND, max(trained) * _BEYOND, _SIZES)
    x = _between(cost.of(run) or np.nan for run in own)
    each = cost.on_size(costs)
    if len(x) and each is not None:

        def curve(laws: Mapping[str, Law]) -> np.ndarray:
            path = compute_optimal(laws[mixer], sizes, costs.flops)
            return np.asarray(np.exp(np.interp(np.log(x), np.log(each(sizes) * path.tokens), np.log(path.loss))))

        yield x, curve


def joined(endpoints: Sequence[Endpoint], cost: Cost, loss: Loss) -> Iterator[Line]:
    """Final losses of a mixer's sizes at one budget, joined where no law can be drawn: means over seeds."""
    for mixer, own in _by_mixer([run for run in endpoints if cost.of(run) and loss.of_endpoint(run)]):
        for group, _ in _budgets(own):
            places = [
                np.mean([(cost.of(run) or 0.0, loss.at(run)) for run in alike], axis=0)
                for alike in _alike(group, lambda run: run.parameters)
            ]
            if len(places) > 1:
                x, y = np.array(places).T
                yield Line("joined", x, y, style_of(mixer), mixer)


def residuals_of(answer: Answer, x: Axis, points: Sequence[Points]) -> Panel | None:
    """How far losses lie above the law at their own sizes and tokens, in percent; None without a law.

    points: what is drawn of the losses, for the place, the look and the words of each.
    """
    if not isinstance(answer.law, Bootstrap):
        return None
    laws = answer.law.fit.laws
    off = {run.run: 100 * (run.loss / float(laws[run.mixer](run.parameters, run.tokens)) - 1) for run in answer.runs}
    shown = []
    for group in points:
        names = [words[0] for words in group.hover]
        kept = [place for place, name in enumerate(names) if name in off]
        y = np.array([off[names[place]] for place in kept])
        hover = tuple((*group.hover[place], f"{off[names[place]]:+.2f} % beside the law") for place in kept)
        sizes, solid = np.full(len(kept), 0.7 * group.sizes.min()), np.zeros(len(kept), bool)
        shown.append(Points(group.x[kept], y, sizes, solid, hover, group.style, group.mixer))
    reach = 1.2 * max(float(np.abs(group.y).max()) for group in shown if len(group.y)) or 1.0
    ticks = tuple((tick, f"{tick:+.3g} %" if tick else "0") for tick in linear_ticks(-reach, reach, most=3))
    zero = Line("zero", np.array([x.low, x.high]), np.zeros(2))
    return Panel(x, Axis("residual", -reach, reach, ticks, log=False), lines=(zero,), points=tuple(shown))


def _by_mixer(runs: Sequence[Endpoint]) -> Iterator[tuple[str, list[Endpoint]]]:
    for mixer in dict.fromkeys(run.mixer for run in runs):
        yield mixer, [run for run in runs if run.mixer == mixer]


def _budgets(own: Sequence[Endpoint]) -> list[tuple[list[Endpoint], int]]:
    """Runs by budget, and 1 if a budget is a number of tokens per parameter, 0 if it is one of tokens: whichever more
    runs have in common."""
    by_tokens = _alike(own, lambda run: run.tokens)
    by_ratio = _alike(own, lambda run: run.tokens / run.parameters)
    power = int(len(by_ratio) < len(by_tokens))
    return [(group, power) for group in (by_ratio if power else by_tokens)]


def _alike(runs: Sequence[Endpoint], of: Callable[[Endpoint], float]) -> list[list[Endpoint]]:
    """Groups of runs, ascending, whose neighbours in a quantity are within 3 %: what rounding to batches leaves."""
    groups: list[list[Endpoint]] = []
    for run in sorted(runs, key=of):
        if groups and of(run) <= 1.03 * of(groups[-1][-1]):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _between(values: Iterable[float]) -> np.ndarray:
    """Places from the least to the greatest, evenly on a logarithmic axis; none if these are alike."""
    known = list(values)
    low, high = min(known), max(known)
    return np.geomspace(low, high, _PLACES) if high > 1.03 * low else np.zeros(0)
