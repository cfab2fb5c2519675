"""What ranks send one another when the tokens of a stage are spread over them, and about how long that takes.

Bytes are exact and of each rank, counted as in `simulator`: an all-gather passes on P − 1 times what a rank brings, a
reduce-scatter and an all-to-all (P − 1) / P of what it is given, a message itself. Time is an estimate, made to choose
a strategy: all ranks come to the same one, since it depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from glm_scale.parallel.sequence.strategies import SequenceStrategy

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send"]

Sent = Mapping[Collective, tuple[int, ...]]
"""Bytes that each rank sends, by collective."""


@dataclass(frozen=True)
class Link:
    """How fast a rank sends.

    The defaults are assumptions for GPUs of one host: of the 450 GB/s that NVLink 4 has in each direction collectives
    reach about 400, and what waits for a message waits about 5 µs more than its bytes take. flops_per_second: of the
    token mixing that ranks wait for, a recurrence with many live tokens (lattice:k^2+1 has 18e12 on an H200).
    """

    bytes_per_second: float = 400e9
    seconds_per_step: float = 5e-6
    flops_per_second: float = 20e12


@dataclass(frozen=True)
class Spread:
    """A stage's tokens over ranks: each has `batch` × `length` tokens of `heads` heads with `head_dim` values.

    itemsize: bytes of a number in activations.
    """

    ranks: int
    batch: int
    length: int
    heads: int
    head_dim: int
    itemsize: int

    @property
    def sum_size(self) -> int:
        """Bytes of a number in sums over activations."""
        return max(self.itemsize, 4)

    def each(self, sent: Callable[[int], int]) -> tuple[int, ...]:
        """A number of every rank, times the batch and the heads."""
        return tuple(self.batch * self.heads * sent(rank) for rank in range(self.ranks))


@dataclass(frozen=True)
class Traffic:
    """What a stage exchanges in one forward and one backward pass.

    steps: exchanges of both passes that wait for one another. fill: bytes that go from rank to rank, in both passes,
    before the last of a pipeline has anything to do. idle: what a rank waits for others or computes beside its share of
    the token mixing, in parts of that share.
    """

    forward_sent: Sent
    backward_sent: Sent
    steps: int
    fill: int = 0
    idle: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            _both(self.forward_sent, other.forward_sent),
            _both(self.backward_sent, other.backward_sent),
            self.steps + other.steps,
            self.fill + other.fill,
            self.idle + other.idle,
        )

    @property
    def forward(self) -> tuple[int, ...]:
        """Bytes that each rank sends in the forward pass."""
        return _total(self.forward_sent)

    @property
    def backward(self) -> tuple[int, ...]:
        """Bytes that each rank sends in the backward pass."""
        return _total(self.backward_sent)

    def sent(self, rank: int) -> int:
        """Bytes of both passes."""
        return self.forward[rank] + self.backward[rank]

    def seconds(self, link: Link | None = None, flops: float = 0.0) -> float:
        """Of both passes, with no work to hide them behind: others wait for the rank that sends the most.

        flops: a rank's share of the token mixing, both passes.
        """
        link = link or Link()
        critical = max(self.forward) + max(self.backward) + self.fill
        waiting = self.steps * link.seconds_per_step + self.idle * flops / link.flops_per_second
        return critical / link.bytes_per_second + waiting


def _total(sent: Sent) -> tuple[int, ...]:
    return tuple(map(sum, zip(*sent.values(), strict=True)))


def _both(one: Sent, other: Sent) -> Sent:
    def added(kind: Collective) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(sent[kind] for sent in (one, other) if kind in sent), strict=True)))

    return {kind: added(kind) for kind in dict.fromkeys([*one, *other])}


def cheapest(
    traffic: Mapping[SequenceStrategy, Traffic], flops: float = 0.0, link: Link | None = None
) -> SequenceStrategy:
    """The strategy that takes the least time; the first of those that take the same. flops: see `Traffic.seconds`."""
    return min(traffic, key=lambda strategy: traffic[strategy].seconds(link, flops))


def tokens_before_traffic(spread: Spread, numbers: int) -> Traffic:
    """Of `exchange.tokens_before`, for so many numbers of every sequence."""
    sent = spread.batch * numbers * spread.itemsize
    each, last = range(spread.ranks), spread.ranks - 1
    return Traffic(
        {"send": tuple(sent * (rank < last) for rank in each)},
        {"send": tuple(sent * (rank > 0) for rank in each)},
        steps=2,
    )


def heads_for_tokens(spread: Spread, row_bytes: list[int]) -> Traffic:
    """All-to-alls of tensors with these bytes for a token and head, one after the other."""
    given = spread.batch * spread.length * spread.heads * sum(row_bytes)
    sent = (given // spread.ranks * (spread.ranks - 1),) * spread.ranks
    return Traffic({"all_to_all": sent}, {"all_to_all": sent}, steps=2 * len(row_bytes))


class Waiting(TypedDict):
    """What `Traffic` has beside bytes."""

    steps: int
    fill: int
    idle: float


def pipeline(spread: Spread, message: int, groups: int) -> Traffic:
    """A message from every rank to the next one and back, in groups of heads: each rank waits for the one before."""
    last = spread.ranks - 1
    return Traffic(
        {"send": spread.each(lambda rank: message * (rank < last))},
        {"send": spread.each(lambda rank: message * (rank > 0))},
        **waiting(spread, message, groups),
    )


def waiting(spread: Spread, message: int, groups: int) -> Waiting:
    """Of two passes through all ranks: the last one gets the first group of P − 1 messages in a row, and has nothing to
    do before."""
    hops = max(spread.ranks - 2, 0)
    fill = 2 * spread.batch * spread.heads * message * hops // groups
    return {"steps": 2 * (hops + groups), "fill": fill, "idle": (spread.ranks - 1) / groups}
