"""What lies between measured points: positive numbers over sizes, both on logarithmic scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Point", "between", "distance"]

_POWER = 4
"""Of distances. With 2, as is usual, many far points would outweigh the one that is near."""


@dataclass(frozen=True)
class Point:
    """What was measured at some sizes, all positive."""

    sizes: tuple[float, ...]
    value: float


def between(points: Sequence[Point], sizes: tuple[float, ...]) -> float:
    """The value at other sizes: the mean of logarithms, weighted by the inverse fourth power of distances.

    That of a point at the point itself (Shepard 1968). Beyond the outermost points it stays near theirs, so give it
    what varies slowly: FLOP/s, not seconds. Raises ValueError without points.
    """
    if not points:
        raise ValueError("there is nothing to interpolate between")
    weights = []
    for point in points:
        far = distance(point.sizes, sizes)
        if far < 1e-9:
            return point.value
        weights.append(far**-_POWER)
    logarithms = (weight * math.log(point.value) for weight, point in zip(weights, points, strict=True))
    return math.exp(sum(logarithms) / sum(weights))


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Of two sizes, in factors of e."""
    return math.sqrt(sum(math.log(x / y) ** 2 for x, y in zip(a, b, strict=True)))
