"""Exact shortest paths: through how many rows information must pass on its way from an input to an output.

Convention: output i reaches input j by hops. Reading another row costs one hop, be it an output y_m through B or an
input x_m through A; reading one's own input costs nothing. So attention and the dense recurrence have paths of one hop,
local attention none beyond its window, the first-order SSM as many hops as the distance, and `offsets:f` the
fewest terms f(a_1) + … + f(a_d) that sum to the distance.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from glm_kernels.patterns import Lifetime, Offsets, Pattern
from glm_scale.mixers.structure import Structure

_UNREACHED = 1 << 30


def shortest_paths(structure: Structure, row: int) -> NDArray[np.float64]:
    """float64 `[row + 1]`: the fewest hops from the output at `row` to the input at each distance before it.

    Exact; inf where there is no path. The paths of `offsets:f` are the same from every row; those of lifetime
    patterns depend on it.
    """
    hops = _output_hops(structure.pattern, row)
    if structure.mixes_inputs:
        # One more hop reads an input through A from any row less than the band's width after it.
        hops = np.minimum(hops, 1 + _minimum_of_previous(hops, structure.band(row + 1) - 1))
    return np.where(hops >= _UNREACHED, np.inf, hops)


def _output_hops(pattern: Pattern | None, row: int) -> NDArray[np.int32]:
    """int32 `[row + 1]`: the fewest reads through B from `row` to the output at each distance before it."""
    if isinstance(pattern, Lifetime):
        return _lifetime_hops(pattern.last_readers(row + 1).tolist())
    if isinstance(pattern, Offsets):
        return _offset_hops(pattern.offsets(row + 1).tolist(), row)
    hops = np.full(row + 1, _UNREACHED, dtype=np.int32)
    hops[0] = 0
    return hops


def _offset_hops(offsets: list[int], row: int) -> NDArray[np.int32]:
    """The fewest offsets that sum to each distance: the coin problem, one offset at a time.

    An offset may be used any number of times; using it 1, 2, 4, … times in turn, each or not, makes every number.
    O(row · log(row / f)) for each offset f.
    """
    hops = np.full(row + 1, _UNREACHED, dtype=np.int32)
    hops[0] = 0
    for f in offsets:
        uses = 1
        while (shift := uses * f) <= row:
            np.minimum(hops[shift:], hops[:-shift] + uses, out=hops[shift:])
            uses *= 2
    return hops


def _lifetime_hops(last_readers: list[int]) -> NDArray[np.int32]:
    """Backwards from the last row: hops(j) = 1 + min of hops(i) over j's readers, the interval j < i ≤ last reader.

    `left` and `least` hold the rows (negated, so that they ascend) at which the minimum of hops(j+1 … i) falls, the
    nearest last: one binary search finds the minimum over an interval that begins at j + 1. O(n log n).
    """
    row = len(last_readers) - 1
    hops = np.zeros(row + 1, dtype=np.int32)
    left, least = [-row], [0]
    for j in range(row - 1, -1, -1):
        best = 1 + least[bisect_left(left, -last_readers[j])]
        while least and least[-1] >= best:
            left.pop()
            least.pop()
        left.append(-j)
        least.append(best)
        hops[row - j] = best
    return hops


def _minimum_of_previous(values: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """The minimum over the `width` entries before each entry, by spans of doubling width."""
    result = np.full_like(values, _UNREACHED)
    if width < 1:
        return result
    span, covered = values, 1  # span[i] = min(values[i − covered + 1 … i])
    while covered < width:
        step = min(covered, width - covered)
        wider = span.copy()
        wider[step:] = np.minimum(span[step:], span[:-step])
        span, covered = wider, covered + step
    result[1:] = span[:-1]
    return result
