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
    """A result that is under way. It has to be awaited once, before what was sent may be changed."""

    def __init__(self, finish: Callable[[], Tensor]) -> None:
        self._finish = finish

    def wait(self) -> Tensor:
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
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def all_gather(self, x: Tensor) -> Pending:
        found = x.new_empty(self.size, *x.shape)
        return _pending(dist.all_gather_into_tensor(found.flatten(0, 1), x, self._group, async_op=True), found, x)

    def reduce_scatter(self, x: Tensor) -> Pending:
        found = torch.empty_like(x[0])
        return _pending(dist.reduce_scatter_tensor(found, x.flatten(0, 1), group=self._group, async_op=True), found, x)

    def all_to_all(self, x: Tensor) -> Pending:
        found = torch.empty_like(x)
        return _pending(dist.all_to_all_single(found, x, group=self._group, async_op=True), found, x)

    def send(self, x: Tensor, to: int) -> Pending:
        return _pending(dist.isend(x, self._global(to), self._group), x, x)

    def receive(self, like: Tensor, source: int) -> Pending:
        found = torch.empty_like(like)
        return _pending(dist.irecv(found, self._global(source), self._group), found, found)

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)


def _pending(work: Any, found: Tensor, sent: Tensor) -> Pending:
    def finish() -> Tensor:
        work.wait()
        return found

    pending = Pending(finish)
    pending.sent = sent  # type: ignore[attr-defined]  # must live until the work is done
    return pending
