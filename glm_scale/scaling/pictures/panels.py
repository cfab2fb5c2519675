"""From runs, and what they say of scaling, to what is drawn of them over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glm_scale.scaling.answer import Answer
from glm_scale.scaling.comparison import Comparison
from glm_scale.scaling.curves import Curve, TrainedRun
from glm_scale.scaling.endpoints import Endpoint, endpoints_of
from glm_scale.scaling.laws import Refusal
from glm_scale.scaling.pictures.law_lines import joined, law_lines, residuals_of
from glm_scale.scaling.pictures.names import Anchor, named
from glm_scale.scaling.pictures.quantities import LOSSES, Across, Cost, Distance, Loss
from glm_scale.scaling.pictures.ranges import axes_for
from glm_scale.scaling.pictures.rate_panel import rate_panel
from glm_scale.scaling.pictures.shapes import Canvas, Line, Panel, Points, Role
from glm_scale.scaling.pictures.token_panels import token_panel
from glm_scale.scaling.pictures.words import words_of
from glm_scale.scaling.style import style_of

__all__ = ["Subject", "panel_of"]

# The start of training falls from ln(vocabulary), the same for all, and would flatten the rest.
_SHOWN_FROM = 0.02
_CURVE_POINTS = 240
_POINT, _LARGEST, _SMALLEST = 0.85, 1.8, 0.6
"""Diameters of points, in heights of letters; the last two where the area shows a speed."""


@dataclass(frozen=True)
class Subject:
    """What figures are of: runs, and what they say of scaling; None of runs that are not meant to differ in size."""

    comparison: Comparison
    answer: Answer | None = None


def panel_of(subject: Subject, across: Across, loss: Loss, canvas: Canvas) -> Panel | None:
    """Losses over a cost, those of runs that differ in the learning rate, or those of tokens by what tells them apart,
    which are known in nats alone; None if no run says what it took, or what its loss is on this scale."""
    if isinstance(across, Cost):
        return _over_cost(subject, across, loss, canvas)
    if isinstance(across, Distance):
        return token_panel(subject.comparison, across, canvas) if loss == LOSSES[0] else None
    return rate_panel(subject.comparison, across, loss, canvas)


def _over_cost(subject: Subject, cost: Cost, loss: Loss, canvas: Canvas) -> Panel | None:
    comparison, answer = subject.comparison, subject.answer
    ends = [end for end in endpoints_of(comparison.runs) if cost.of(end) and loss.of_endpoint(end)]
    curves = [line for run in comparison.runs for line in _curves(run, cost, loss, validation=answer is None)]
    if not ends and not curves:
        return None
    laws = list(law_lines(answer, cost, loss)) if answer else []
    lines = [*curves, *(line for line, _ in laws)]
    if answer and not laws:
        lines += joined(answer.runs, cost, loss)
    points = list(_points(ends, cost, loss, answer, canvas))
    x, y = axes_for(lines, points, cost, loss, canvas)
    if cost.pays_off and len(ends) > 1:
        lines.append(_frontier(points, x.high))
    note = _note(cost, subject, ends, bool(laws), bool(curves))
    panel = Panel(x, y, note, tuple(lines), tuple(band for _, band in laws), tuple(points))
    anchors = list(_anchors(subject, cost, loss, laws=[line for line, _ in laws]))
    column = cost.along is not None or (answer is not None and not cost.pays_off)
    panel = named(panel, anchors, canvas, column=column, room=column or answer is not None)
    below = residuals_of(answer, panel.x, points) if answer and laws else None
    return replace(panel, residuals=below)


def _curves(run: TrainedRun, cost: Cost, loss: Loss, validation: bool) -> Iterator[Line]:
    """The smoothed training loss of a run, and its validation loss, but for the start of training."""
    scale = loss.of_run(run)
    if cost.along is None or scale is None:
        return
    curves: dict[Role, Curve] = {"training": run.train.smoothed(), "validation": run.validation}
    for role, curve in curves.items():
        thin = curve.thinned(_CURVE_POINTS)
        x = cost.along(thin)
        shown = (x > 0) & (x >= _SHOWN_FROM * x[-1]) if len(x) else np.zeros(0, bool)
        if shown.any() and (validation or role == "training"):
            yield Line(role, x[shown], scale * thin.loss[shown], style_of(run.mixer), run.mixer, run.name)


def _points(
    ends: Sequence[Endpoint], cost: Cost, loss: Loss, answer: Answer | None, canvas: Canvas
) -> Iterator[Points]:
    """Final losses by mixer, faint where another run counts in their place or beats them at no greater cost."""
    counted = {run.run for run in answer.runs} if answer else {end.run for end in ends}
    beaten = _beaten(ends, cost) if cost.pays_off else set()
    speeds = [end.tokens_per_second for end in ends]
    by_speed = cost.pays_off and all(speeds)
    fastest = max((speed for speed in speeds if speed), default=1.0)
    for mixer in dict.fromkeys(end.mixer for end in ends):
        own = [end for end in ends if end.mixer == mixer]
        shares = [(end.tokens_per_second or 0.0) / fastest for end in own]
        sizes = [max(_LARGEST * share**0.5, _SMALLEST) if by_speed else _POINT for share in shares]
        yield Points(
            x=np.array([cost.of(end) for end in own], dtype=np.float64),
            y=np.array([loss.at(end) for end in own]),
            sizes=canvas.font * np.array(sizes),
            faint=np.array([end.run in beaten or end.run not in counted for end in own]),
            hover=tuple(words_of(end) for end in own),
            style=style_of(mixer),
            mixer=mixer,
        )


def _beaten(ends: Sequence[Endpoint], cost: Cost) -> set[str]:
    """Runs for which another one has a lower loss at no greater cost."""
    return {
        end.run for end in ends if any(o.loss < end.loss and (cost.of(o) or 0) <= (cost.of(end) or 0) for o in ends)
    }


def _frontier(points: Sequence[Points], until: float) -> Line:
    """The least loss for each amount of a cost, as steps from one run to the next."""
    places = sorted((float(x), float(y)) for group in points for x, y in zip(group.x, group.y, strict=True))
    steps: list[tuple[float, float]] = []
    for x, y in places:
        if not steps or y < steps[-1][1]:
            steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    steps.append((until, steps[-1][1]))
    across, up = np.array(steps).T
    return Line("frontier", across, up)


def _anchors(subject: Subject, cost: Cost, loss: Loss, laws: Sequence[Line]) -> Iterator[Anchor]:
    """Where names belong: of mixers at the end of their law or at their dearest run, else of every run at its end."""
    if subject.answer:
        ended: dict[str, tuple[float, float]] = {}
        for line in laws:
            here, there = (float(line.x[-1]), float(line.y[-1])), ended.get(line.mixer)
            ended[line.mixer] = here if there is None else max(here, there, key=_far_and_low)
        for mixer in dict.fromkeys(run.mixer for run in subject.answer.runs):
            own = [(cost.of(run) or 0.0, loss.at(run)) for run in subject.answer.runs if run.mixer == mixer]
            places = [place for place in own if all(place)]
            if mixer in ended or places:
                yield Anchor(mixer, mixer, *(ended.get(mixer) or max(places, key=_far_and_low)))
        return
    for run in subject.comparison.runs:
        end, scale = Endpoint.of(run), loss.of_run(run)
        state = "" if run.status == "finished" else f" ({run.status})"
        text = f"{subject.comparison.label(run)}{state}"
        curve = run.validation if len(run.validation) else run.train
        if end and cost.of(end) and scale:
            yield Anchor(text, run.mixer, float(cost.of(end) or 0.0), scale * end.loss)
        elif cost.along and scale and len(curve) and cost.along(curve)[-1] > 0:
            yield Anchor(text, run.mixer, float(cost.along(curve)[-1]), scale * float(curve.loss[-1]))


def _far_and_low(place: tuple[float, float]) -> tuple[float, float]:
    """For the place furthest to the right, as far as one sees; of these the lowest."""
    return float(f"{place[0]:.1e}"), -place[1]


def _note(cost: Cost, subject: Subject, ends: Sequence[Endpoint], laws: bool, curves: bool) -> str:
    """How the panel is to be read."""
    by_speed = cost.pays_off and all(end.tokens_per_second for end in ends)
    said = ["points: final losses, area: tokens/s of training" if by_speed else "points: final losses"]
    if cost.pays_off and len(ends) > 1:
        said.append("steps: the best at no greater cost")
    if laws:
        of = "of each size" if cost.key == "tokens" else "at the best size" if cost.along else "of each budget"
        said.append(f"curves: the law {of}, with 90 % bands")
    elif subject.answer:
        refused = isinstance(subject.answer.law, Refusal)
        said.append("no law, for the reason given below" if refused else "no law: the cost does not grow with the size")
        said.append("dotted: one budget, joined by size")
    if curves:
        said.append("light: training, smoothed" if subject.answer else "lines: validation, light: training, smoothed")
    missing = len(subject.comparison.runs) - len(ends)
    if missing and cost.along is None:
        said.append(f"{missing} of {len(subject.comparison.runs)} runs have not finished, or do not say it")
    return "; ".join(said)
