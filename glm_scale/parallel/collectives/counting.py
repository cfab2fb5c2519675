"""How many bytes ranks send: those of ring algorithms. An all-gather passes on P − 1 shards of the size of one's own, a
reduce-scatter and an all-to-all (P − 1) / P of what they are given."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from glm_scale.parallel.collectives.communicator import Communicator, Pending

__all__ = ["Counted", "SentBytes"]


class SentBytes(Counter[str]):
    """Bytes by collective that a rank of `size` has sent."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def whole(self, collective: str, x: Tensor) -> None:
        """x has gone to every other rank, or was passed on as often."""
        self[collective] += (self._size - 1) * x.nbytes

    def parts(self, collective: str, x: Tensor) -> None:
        """Of `[size, …]` each other rank has been sent its part. Raises ValueError for other shapes."""
        if len(x) != self._size:
            raise ValueError(f"{collective} takes a part for each of {self._size} ranks, got {list(x.shape)}")
        self[collective] += (self._size - 1) * x[0].nbytes

    def message(self, x: Tensor) -> None:
        """x has gone to one other rank."""
        self["send"] += x.nbytes


class Counted(Communicator):
    """Another communicator, and what this rank has sent by it."""

    def __init__(self, ranks: Communicator) -> None:
        self._ranks, self.rank, self.size = ranks, ranks.rank, ranks.size
        self.sent = SentBytes(ranks.size)

    def all_gather(self, x: Tensor) -> Pending:
        self.sent.whole("all_gather", x)
        return self._ranks.all_gather(x)

    def reduce_scatter(self, x: Tensor) -> Pending:
        self.sent.parts("reduce_scatter", x)
        return self._ranks.reduce_scatter(x)

    def all_to_all(self, x: Tensor) -> Pending:
        self.sent.parts("all_to_all", x)
        return self._ranks.all_to_all(x)

    def send(self, x: Tensor, to: int) -> Pending:
        self.sent.message(x)
        return self._ranks.send(x, to)

    def receive(self, like: Tensor, source: int) -> Pending:
        return self._ranks.receive(like, source)
