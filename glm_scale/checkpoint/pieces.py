"""Where the numbers of a logical parameter lie: boxes of its whole shape, whoever holds them.

A rank holds *pieces*: runs of consecutive numbers, in row-major order, of the part of a parameter that its tensor
coordinate has. On disk a parameter is cut into boxes, which know nothing of ranks. A run is at most 2 · dimensions − 1
of them: the end of a first row, whole rows, the beginning of a last row, and so on inwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

__all__ = ["Box", "Piece", "boxes", "boxes_of_run"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """A rectangular part of a tensor: where it begins, and its size, in every dimension."""

    offsets: Shape
    sizes: Shape

    @property
    def numel(self) -> int:
        """How many numbers are in it."""
        return prod(self.sizes)


@dataclass(frozen=True)
class Piece:
    """A run of a parameter's numbers that this rank holds.

    `shape`: of the whole parameter; `part`: the box of it that is this rank's tensor part; the run begins at `start` of
    that part. `tensors`: the run itself, fp32 and flat, by kind ("weight" for the master weight, and its moments).
    """

    name: str
    shape: Shape
    part: Box
    start: int
    tensors: Mapping[str, Tensor]

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return next(iter(self.tensors.values())).numel()

    def boxes(self) -> Iterator[tuple[Box, slice]]:
        """The boxes of the whole parameter that the run covers, and where in the run each lies."""
        return boxes_of_run(self.part, self.start, self.numel)


def boxes_of_run(part: Box, start: int, count: int) -> Iterator[tuple[Box, slice]]:
    """The boxes of the whole that `count` numbers of a part, from `start` on, cover, and where among them each lies."""
    at = 0
    for box in boxes(part.sizes, start, start + count):
        offsets = tuple(a + b for a, b in zip(part.offsets, box.offsets, strict=True))
        yield Box(offsets, box.sizes), slice(at, at + box.numel)
        at += box.numel


def boxes(shape: Shape, start: int, stop: int) -> Iterator[Box]:
    """The boxes of numbers start … stop − 1 of a tensor of this shape, in order."""
    if start >= stop:
        return
    if len(shape) <= 1:
        yield Box((start,) if shape else (), (stop - start,) if shape else ())
        return
    inner, row = shape[1:], prod(shape[1:])
    first, last = start // row, stop // row
    if start % row or first == last:
        end = min(stop, (first + 1) * row)
        yield from _within(first, inner, start - first * row, end - first * row)
        first += 1
    if first < last:
        yield Box((first, *(0 for _ in inner)), (last - first, *inner))
    if stop % row and last >= first:
        yield from _within(last, inner, 0, stop - last * row)


def _within(index: int, inner: Shape, start: int, stop: int) -> Iterator[Box]:
    for box in boxes(inner, start, stop):
        yield Box((index, *box.offsets), (1, *box.sizes))
