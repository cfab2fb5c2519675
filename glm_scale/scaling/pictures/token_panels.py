"""What is drawn of losses that were taken apart by token: where in a text one mixer predicts better than another.

What the groups and their errors are: `glm_scale.tracking.breakdown`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glm_scale.scaling.breakdown import Measured, comparable
from glm_scale.scaling.comparison import Comparison
from glm_scale.scaling.pictures.names import Anchor, named
from glm_scale.scaling.pictures.quantities import Distance
from glm_scale.scaling.pictures.shapes import Axis, Band, Canvas, Line, Panel
from glm_scale.scaling.pictures.ticks import linear_ticks, log_ticks
from glm_scale.scaling.style import style_of
from glm_scale.tracking.breakdown import Group, buckets

__all__ = ["token_panel"]

_SIGMAS = 1.645
"""Of a normal distribution, on either side: 90 %."""
_MARGIN = 0.08
_TICKS = 8


class _Curve(NamedTuple):
    """Of one mixer: numbers of tokens [P], and of the tokens at each the mean and its standard error in nats."""

    measured: Measured
    x: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def token_panel(comparison: Comparison, distance: Distance, canvas: Canvas) -> Panel | None:
    """Loss of tokens by a distance, of the best run of each mixer: of one mixer its own, of several how much more it is
    than that of the best of all. None if no loss was taken apart."""
    measured, _ = comparable(comparison)
    if not measured:
        return None
    best, *others = measured
    curves = [_curve(one, best if others else None, distance) for one in others or measured]
    if not all(len(curve.x) for curve in curves):
        return None
    x, y = _axes(curves, distance, canvas, from_zero=bool(others))
    lines = [Line("validation", c.x, c.mean, style_of(c.measured.run.mixer), c.measured.run.mixer) for c in curves]
    anchors = [Anchor(c.measured.run.mixer, c.measured.run.mixer, float(c.x[-1]), float(c.mean[-1])) for c in curves]
    if others:
        own = best.run.mixer
        lines.append(Line("zero", np.array([x.low, curves[0].x[-1]]), np.zeros(2), style_of(own), own))
        anchors.append(Anchor(own, own, float(curves[0].x[-1]), 0.0))
    panel = Panel(x, y, _note(best, others), tuple(lines), tuple(map(_band, curves)))
    return named(panel, anchors, canvas, column=True, room=True)


def _curve(one: Measured, best: Measured | None, distance: Distance) -> _Curve:
    groups: list[tuple[float, Group]] = []
    for name in buckets(one.breakdown.sequence_length):
        cells = tuple(cell + name for cell in distance.cells)
        group = one.breakdown.group(*cells)
        if group.count:
            # In the middle of the powers of two that it reaches over, as a logarithmic axis has it.
            groups.append((int(name) * math.sqrt(2), group - best.breakdown.group(*cells) if best else group))
    return _Curve(
        one,
        np.array([place for place, _ in groups]),
        np.array([group.loss for _, group in groups]),
        np.nan_to_num(np.array([group.error for _, group in groups])),
    )


def _band(curve: _Curve) -> Band:
    reach = _SIGMAS * curve.error
    mixer = curve.measured.run.mixer
    return Band(curve.x, curve.mean - reach, curve.mean + reach, style_of(mixer), mixer)


def _axes(curves: Sequence[_Curve], distance: Distance, canvas: Canvas, from_zero: bool) -> tuple[Axis, Axis]:
    across = np.concatenate([curve.x for curve in curves])
    up = np.concatenate([curve.mean + side * _SIGMAS * curve.error for curve in curves for side in (-1, 1)])
    low, high = float(across.min()) / math.sqrt(2), float(across.max()) * math.sqrt(2)
    bottom, top = (
        float(min(up.min(), 0.0 if from_zero else np.inf)),
        float(max(up.max(), 0.0 if from_zero else -np.inf)),
    )
    margin = _MARGIN * (top - bottom) or 0.01
    bottom, top = bottom - margin, top + margin
    ticks = linear_ticks(bottom, top)
    title = "validation loss above the best's (nats per token)" if from_zero else "validation loss (nats per token)"
    words = "{:+.6g}" if from_zero else "{:.6g}"
    most = min(max(2, int(canvas.width / (_TICKS * canvas.font))), _TICKS)
    return (
        Axis(distance.title, low, high, log_ticks(low, high, "count", most)),
        Axis(title, bottom, top, tuple((tick, words.format(tick) if tick else "0") for tick in ticks), log=False),
    )


def _note(best: Measured, others: Sequence[Measured]) -> str:
    """How the panel is to be read."""
    bands = f"bands: 90 %, over {len(best.breakdown.tokens)} parts of the text, other seeds are not in them"
    if not others:
        return f"the best run; {bands}"
    return f"the best run of each mixer, on the same tokens as {best.label}, which is the line at 0; {bands}"
