"""What is drawn of runs that differ in the learning rate: where the best rate is, and whether it moves with the size.

As figures of muP have it (Yang et al. 2022, arXiv 2203.03466, Figure 1): a line for each size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from glm_scale.scaling.comparison import Comparison, quantity
from glm_scale.scaling.endpoints import Endpoint, endpoints_of
from glm_scale.scaling.pictures.names import Anchor, named
from glm_scale.scaling.pictures.quantities import Loss, Rate
from glm_scale.scaling.pictures.ranges import axes_for
from glm_scale.scaling.pictures.shapes import Canvas, Line, Panel, Points
from glm_scale.scaling.pictures.words import words_of
from glm_scale.scaling.style import style_of

__all__ = ["rate_panel"]

_BEST, _OTHER = 1.1, 0.6
"""Diameters of points, in heights of letters."""


class _Sweep(NamedTuple):
    """Runs of one mixer, size and budget at several rates, ascending; `losses`: means over seeds on the scale shown."""

    runs: list[Endpoint]
    rates: np.ndarray
    losses: np.ndarray

    @property
    def best(self) -> float:
        """The rate of the least mean."""
        return float(self.rates[self.losses.argmin()])


def rate_panel(comparison: Comparison, rate: Rate, loss: Loss, canvas: Canvas) -> Panel | None:
    """Final losses over the peak of the learning rate, a line for each mixer, size and budget, its best rate marked.
    None if no runs differ in the rate alone."""
    sweeps = list(_sweeps(endpoints_of(comparison.runs), loss))
    if not sweeps:
        return None
    lines = [Line("joined", s.rates, s.losses, style_of(s.runs[0].mixer), s.runs[0].mixer) for s in sweeps]
    points = [_points(sweep, loss, canvas) for sweep in sweeps]
    x, y = axes_for(lines, points, rate, loss, canvas)
    panel = Panel(x, y, _note(sweeps), tuple(lines), (), tuple(points))
    return named(panel, list(_anchors(sweeps)), canvas, column=True, room=True)


def _sweeps(ends: Sequence[Endpoint], loss: Loss) -> Iterator[_Sweep]:
    told = [end for end in ends if end.rate and loss.of_endpoint(end)]
    for mixer, parameters, tokens in dict.fromkeys((end.mixer, end.parameters, end.tokens) for end in told):
        own = [end for end in told if (end.mixer, end.parameters, end.tokens) == (mixer, parameters, tokens)]
        rates = sorted({end.rate for end in own if end.rate})
        if len(rates) > 1:
            means = [np.mean([loss.at(end) for end in own if end.rate == rate]) for rate in rates]
            yield _Sweep(own, np.array(rates), np.array(means))


def _points(sweep: _Sweep, loss: Loss, canvas: Canvas) -> Points:
    best = np.array([end.rate == sweep.best for end in sweep.runs])
    return Points(
        x=np.array([end.rate for end in sweep.runs]),
        y=np.array([loss.at(end) for end in sweep.runs]),
        sizes=canvas.font * np.where(best, _BEST, _OTHER),
        faint=~best,
        hover=tuple(words_of(end) for end in sweep.runs),
        style=style_of(sweep.runs[0].mixer),
        mixer=sweep.runs[0].mixer,
    )


def _anchors(sweeps: Sequence[_Sweep]) -> Iterator[Anchor]:
    """At the ends of lines; sizes and budgets are named where a mixer has several."""
    for sweep in sweeps:
        end = sweep.runs[0]
        own = [other.runs[0] for other in sweeps if other.runs[0].mixer == end.mixer]
        sizes = {other.parameters for other in own}
        more = [
            quantity(end.parameters) if len(sizes) > 1 else "",
            f"{quantity(end.tokens)} tokens" if len(own) > len(sizes) else "",
        ]
        text = ", ".join(filter(None, (end.mixer, *more)))
        yield Anchor(text, end.mixer, float(sweep.rates[-1]), float(sweep.losses[-1]))


def _note(sweeps: Sequence[_Sweep]) -> str:
    edges = [sweep for sweep in sweeps if sweep.best in (sweep.rates[0], sweep.rates[-1])]
    said = "points: final losses; large: the best rate of each mixer, size and budget"
    if edges:
        said += f"; {len(edges)} of {len(sweeps)} are at an end of the grid, and may not be the best there are"
    return said
