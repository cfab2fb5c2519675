"""Names at the ends of lines, or beside points, in place of a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from glm_scale.scaling.pictures.shapes import Axis, Canvas, Label, Panel
from glm_scale.scaling.placement import Box, Text, beside, box_of, in_column, width_of
from glm_scale.scaling.style import style_of

__all__ = ["Anchor", "named"]

_MOST = 8
_LINE = 1.35
"""Height of a name, in heights of letters."""
_WIDEST = 0.4
"""Of the canvas, for names in a column."""
_CLEAR = 0.25
"""Around a point, in heights of letters."""
_NEAR = 1.7
"""What is no further from its place, in heights of letters, needs no line to it."""
_AWAY = 1.6
"""From the end of the last line to the column, in heights of letters."""


class Anchor(NamedTuple):
    """A name, its mixer and the place that it belongs to, in values of the axes."""

    text: str
    mixer: str
    x: float
    y: float


def named(panel: Panel, anchors: Sequence[Anchor], canvas: Canvas, *, column: bool, room: bool) -> Panel:
    """The panel with names: in a column right of everything, or each beside its place.

    room: the axis is made longer for them, as it has to be for a column. Of more than a few names each mixer has one,
    at its least loss; of more than there is room for the best have one.
    """
    if len(anchors) > _MOST and len({anchor.mixer for anchor in anchors}) > 1:
        least: dict[str, Anchor] = {}
        for anchor in sorted(anchors, key=lambda anchor: anchor.y):
            least.setdefault(anchor.mixer, anchor._replace(text=anchor.mixer))
        anchors = list(least.values())
    anchors = sorted(anchors, key=lambda anchor: anchor.y)[: math.floor(canvas.height / (_LINE * canvas.font))]
    letters = math.floor(_WIDEST * canvas.width / canvas.font / (width_of("xx", 1.0) - width_of("x", 1.0)))
    anchors = [anchor._replace(text=_cut(anchor.text, letters)) for anchor in anchors]
    if not anchors:
        return panel
    wide = max(width_of(anchor.text, canvas.font) for anchor in anchors) + _AWAY * canvas.font
    if room:
        panel = replace(panel, x=_longer(panel.x, wide / canvas.width))
    texts = [Text(anchor.text, *_place(panel, canvas, anchor.x, anchor.y)) for anchor in anchors]
    if column:
        ends = in_column(texts, canvas.width - wide + _AWAY * canvas.font, canvas.height, canvas.font)
    else:
        ends = beside(texts, _covered(panel, canvas), canvas.width, canvas.height, canvas.font)
    labels = []
    for anchor, text, (left, middle) in zip(anchors, texts, ends, strict=True):
        offset = left - text.x, middle - text.y
        box = box_of(text.text, left, middle, canvas.font)
        aside = max(box.left - text.x, text.x - box.right, box.bottom - text.y, text.y - box.top)
        leader = column or aside > _NEAR * canvas.font
        labels.append(Label(text.text, anchor.x, anchor.y, offset, leader, style_of(anchor.mixer), anchor.mixer))
    return replace(panel, labels=tuple(labels))


def _cut(text: str, letters: int) -> str:
    """Without its middle, as names of runs differ at their ends."""
    if len(text) <= letters:
        return text
    kept = max(letters - 1, 2)
    return f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"


def _longer(axis: Axis, share: float) -> Axis:
    """With a share of its length added beyond its high end, and its ticks as they are."""
    grown = 1 / (1 - share)
    if axis.log:
        return replace(axis, high=axis.low * (axis.high / axis.low) ** grown)
    return replace(axis, high=axis.low + (axis.high - axis.low) * grown)


def _place(panel: Panel, canvas: Canvas, x: float, y: float) -> tuple[float, float]:
    across, up = float(panel.x.share(x)), float(panel.y.share(y))
    return across * canvas.width, min(max(up, 0.0), 1.0) * canvas.height


def _covered(panel: Panel, canvas: Canvas) -> list[Box]:
    """Where points and lines are."""
    boxes = []
    for line in panel.lines:
        if line.role != "training":
            ends = [_place(panel, canvas, float(x), float(y)) for x, y in zip(line.x, line.y, strict=True)]
            boxes += [_around(start, end) for start, end in pairwise(ends)]
    for group in panel.points:
        for x, y, size in zip(group.x, group.y, group.sizes, strict=True):
            across, up = _place(panel, canvas, float(x), float(y))
            reach = size / 2 + _CLEAR * canvas.font
            boxes.append(Box(across - reach, up - reach, across + reach, up + reach))
    return boxes


def _around(start: tuple[float, float], end: tuple[float, float]) -> Box:
    (left, right), (bottom, top) = (sorted(pair) for pair in zip(start, end, strict=True))
    return Box(left - 1, bottom - 1, right + 1, top + 1)
