"""How far apart the tensors of two checkpoints are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Distance", "ParameterDifference", "tensor_differences"]

# Elements that are compared at a time, in fp64.
_BLOCK = 1 << 22

Tensors = Iterator[tuple[str, Mapping[str, Tensor]]]


class Distance(NamedTuple):
    """`largest`: max |b − a|. `relative`: ‖b − a‖ / ‖a‖."""

    largest: float
    relative: float


@dataclass(frozen=True)
class ParameterDifference:
    """One parameter of both. `distances`: of the kinds that are not equal bit for bit. `remark`: why they cannot be
    compared, if so.
    """

    name: str
    distances: dict[str, Distance]
    remark: str | None = None

    @property
    def equal(self) -> bool:
        """Whether the two are equal bit for bit."""
        return not self.distances and self.remark is None


def tensor_differences(first: Tensors, second: Tensors) -> Iterator[ParameterDifference]:
    """Every parameter of either. Where both yield the same names in the same order, two parameters are held at most."""
    waiting: tuple[dict[str, Mapping[str, Tensor]], ...] = {}, {}
    streams = first, second
    open_sides = [0, 1]
    while open_sides:
        for side in tuple(open_sides):
            if (item := next(streams[side], None)) is None:
                open_sides.remove(side)
                continue
            name, kinds = item
            if (other := waiting[1 - side].pop(name, None)) is None:
                waiting[side][name] = kinds
            else:
                yield _compare(name, *((other, kinds) if side else (kinds, other)))
    for side, which in enumerate(("first", "second")):
        yield from (ParameterDifference(name, {}, f"only in the {which}") for name in waiting[side])


def _compare(name: str, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> ParameterDifference:
    shapes = [tuple(next(iter(kinds.values())).shape) for kinds in (first, second)]
    if shapes[0] != shapes[1]:
        return ParameterDifference(name, {}, f"shapes {list(shapes[0])} and {list(shapes[1])}")
    if other := first.keys() ^ second.keys():
        return ParameterDifference(name, {}, f"{', '.join(sorted(other))} only in one: of another optimizer")
    distances = {kind: _distance(first[kind], second[kind]) for kind in first}
    return ParameterDifference(name, {kind: value for kind, value in distances.items() if value is not None})


def _distance(first: Tensor, second: Tensor) -> Distance | None:
    """None if they are equal bit for bit."""
    a, b = first.contiguous().flatten(), second.contiguous().flatten()
    if torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
        return None
    largest, apart, size = torch.zeros(3, dtype=torch.float64)
    for x, y in zip(a.split(_BLOCK), b.split(_BLOCK), strict=True):
        x, y = x.double(), y.double()
        # Unlike max(), torch.maximum keeps a NaN.
        largest = torch.maximum(largest, (y - x).abs().max())
        apart, size = apart + (y - x).square().sum(), size + x.square().sum()
    return Distance(float(largest), float((apart / size).sqrt()) if apart or size else 0.0)
