"""Bytes that a rank sends, counted as ring algorithms send them, and who they go to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from glm_scale.parallel.sequence.costs import Collective

__all__ = ["Axis", "Exchange", "all_gather", "all_reduce", "reduce_scatter", "total"]

Axis = Literal["tensor", "sequence", "replicas"]
"""Ranks with other parts of the weights, with other tokens of the same sequences, with the same weights."""


@dataclass(frozen=True)
class Exchange:
    """What a rank sends over one axis by one collective, in `calls` of them."""

    axis: Axis
    collective: Collective
    sent: float
    calls: int = 1

    def times(self, count: int) -> Exchange:
        """The same exchange so many times."""
        return Exchange(self.axis, self.collective, self.sent * count, self.calls * count)


def all_reduce(axis: Axis, ranks: int, size: float, calls: int = 1) -> Exchange:
    """Of `size` bytes in `calls` calls together."""
    return Exchange(axis, "all_reduce", 2 * (ranks - 1) / ranks * size, calls)


def all_gather(axis: Axis, ranks: int, shard: float, calls: int = 1) -> Exchange:
    """Of a shard of so many bytes on each rank."""
    return Exchange(axis, "all_gather", (ranks - 1) * shard, calls)


def reduce_scatter(axis: Axis, ranks: int, size: float, calls: int = 1) -> Exchange:
    """Of `size` bytes on each rank, of which it keeps one part."""
    return Exchange(axis, "reduce_scatter", (ranks - 1) / ranks * size, calls)


def total(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """One for every axis and collective that sends anything."""
    found: dict[tuple[Axis, Collective], Exchange] = {}
    for exchange in exchanges:
        if exchange.sent:
            key = exchange.axis, exchange.collective
            before = found.get(key, Exchange(*key, 0.0, 0))
            found[key] = Exchange(*key, before.sent + exchange.sent, before.calls + exchange.calls)
    return list(found.values())
