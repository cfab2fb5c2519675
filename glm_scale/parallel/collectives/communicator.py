"""What the ranks of one group exchange. The same calls run over torch.distributed and in `simulator`.

Every collective is started at once and awaited where its result is needed, so that work in between overlaps with it.
All ranks start the same collectives in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class Pending:
    """A result that is under way. What was sent may not be changed before it was awaited."""

    def __init__(self, finish: Callable[[], Tensor]) -> None:
        self._finish = finish

    def wait(self) -> Tensor:
        """The result, once it is there."""
        return self._finish()


class Communicator(ABC):
    """One rank of a group of `size`. Tensors are contiguous, and of one shape and dtype on all ranks."""

    rank: int
    size: int

    @abstractmethod
    def all_gather(self, x: Tensor) -> Pending:
        """`[size, *x.shape]`: every rank's x."""

    @abstractmethod
    def reduce_scatter(self, x: Tensor) -> Pending:
        """From `[size, …]` on every rank the sum over ranks of the part `x[rank]`."""

    @abstractmethod
    def all_to_all(self, x: Tensor) -> Pending:
        """`[size, …]` whose part r is what rank r had as its part `x[rank]`."""

    @abstractmethod
    def send(self, x: Tensor, to: int) -> Pending:
        """Messages from one rank to another arrive in the order in which they were sent."""

    @abstractmethod
    def receive(self, like: Tensor, source: int) -> Pending:
        """A message of the shape and dtype of `like`."""


class GroupCommunicator(Communicator):
    """Ranks of a torch process group; None: all processes."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self._under_way: list[tuple[Any, Tensor]] = []
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def all_gather(self, x: Tensor) -> Pending:
        found = x.new_empty(self.size, *x.shape)
        return self._pending(dist.all_gather_into_tensor(found.flatten(0, 1), x, self._group, async_op=True), found, x)

    def reduce_scatter(self, x: Tensor) -> Pending:
        found = torch.empty_like(x[0])
        work = dist.reduce_scatter_tensor(found, x.flatten(0, 1), group=self._group, async_op=True)
        return self._pending(work, found, x)

    def all_to_all(self, x: Tensor) -> Pending:
        found = torch.empty_like(x)
        return self._pending(dist.all_to_all_single(found, x, group=self._group, async_op=True), found, x)

    def send(self, x: Tensor, to: int) -> Pending:
        return self._pending(dist.isend(x, self._global(to), self._group), x, x)

    def receive(self, like: Tensor, source: int) -> Pending:
        found = torch.empty_like(like)
        return self._pending(dist.irecv(found, self._global(source), self._group), found, found)

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)

    def _pending(self, work: Any, found: Tensor, sent: Tensor) -> Pending:
        # Torch drops what nobody holds, sent or not. Who sends a message may forget it, and it still has to arrive.
        self._under_way = [(other, x) for other, x in self._under_way if not other.is_completed()]
        self._under_way.append((work, sent))

        def finish() -> Tensor:
            work.wait()
            return found

        return Pending(finish)
