"""Where names stand on a sheet: beside what they name, and none on another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

__all__ = ["Box", "Text", "beside", "box_of", "in_column", "spread", "width_of"]

_LINE = 1.3
"""Height of a line of text, in heights of its letters."""
_LETTER = 0.68
"""Width of a bold letter, in heights; few words are wider."""
_GAP = 0.75
"""Between a place and its name, in heights of letters."""


class Text(NamedTuple):
    """A name and the place that it belongs to, in units of the canvas."""

    text: str
    x: float
    y: float


class Box(NamedTuple):
    """A rectangle on the canvas."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Whether both cover a place."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top


def width_of(text: str, font: float) -> float:
    """About as wide as the text will be, rather wider."""
    return _LETTER * font * (len(text) + 0.5)


def box_of(text: str, left: float, middle: float, font: float) -> Box:
    """What a name covers that begins at `left`."""
    return Box(left, middle - _LINE * font / 2, left + width_of(text, font), middle + _LINE * font / 2)


def in_column(texts: Sequence[Text], left: float, height: float, font: float) -> list[tuple[float, float]]:
    """Left ends and middles of names that stand below one another at `left`, each as near to the height of its place as
    may be, between 0 and `height`; in the order of `texts`."""
    order = sorted(range(len(texts)), key=lambda index: (texts[index].y, texts[index].x))
    room, line = height - _LINE * font, _LINE * font
    spacing = min(line, room / max(len(texts) - 1, 1))
    wanted = [min(max(texts[index].y, line / 2), height - line / 2) for index in order]
    placed = spread(wanted, spacing, line / 2, height - line / 2)
    middles = dict(zip(order, placed, strict=True))
    return [(left, middles[index]) for index in range(len(texts))]


def beside(
    texts: Sequence[Text], taken: Sequence[Box], width: float, height: float, font: float
) -> list[tuple[float, float]]:
    """Left ends and middles of names that stand around their places, where nothing is: neither what is `taken`, nor
    another name, nor the edge. As near as possible, and rather to the right than to the left, above or below."""
    placed: list[Box] = []
    found = []
    for text in texts:
        sides = [_left_and_middle(text, font, far, side) for far, side in product(_FAR, _SIDES)]
        boxes = [box_of(text.text, *side, font) for side in sides]
        inside = [
            index
            for index, box in enumerate(boxes)
            if box.left >= 0 and box.right <= width and box.bottom >= 0 and box.top <= height
        ]
        free = [index for index in inside if not any(boxes[index].meets(other) for other in (*placed, *taken))]
        apart = [index for index in inside if not any(boxes[index].meets(other) for other in placed)]
        chosen = (free or apart or inside or [0])[0]
        placed.append(boxes[chosen])
        found.append(sides[chosen])
    return found


_FAR = (1.0, 2.2, 3.6, 5.4, 7.5, 10.0, 13.0)
_SIDES = ((1, 0), (-1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 1), (-1, -1))


def _left_and_middle(text: Text, font: float, far: float, side: tuple[int, int]) -> tuple[float, float]:
    across, up = side
    width, gap = width_of(text.text, font), _GAP * font * far
    left = text.x + (gap if across > 0 else -gap - width if across < 0 else -width / 2)
    return left, text.y + up * gap * (1.4 if across == 0 else 1.0)


def spread(places: Sequence[float], spacing: float, low: float, high: float) -> list[float]:
    """Ascending `places` moved as little as may be so that neighbours are `spacing` apart, between `low` and `high` if
    there is room for them."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        # A group sits around the mean of what its members want; groups that touch become one.
        while len(groups) > 1 and _top(groups[-2], spacing, low, high) + spacing > _bottom(
            groups[-1], spacing, low, high
        ):
            last = groups.pop()
            groups[-1] += last
    return [_bottom(group, spacing, low, high) + index * spacing for group in groups for index in range(len(group))]


def _bottom(group: list[float], spacing: float, low: float, high: float) -> float:
    reach = (len(group) - 1) * spacing
    return max(min(sum(group) / len(group) - reach / 2, high - reach), low)


def _top(group: list[float], spacing: float, low: float, high: float) -> float:
    return _bottom(group, spacing, low, high) + (len(group) - 1) * spacing
