"""Ranks in one process, a thread each: the same code as over torch.distributed, for any number of ranks.

For tests in float64, and for counting what ranks send.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from glm_scale.parallel.collectives.communicator import Communicator, Pending
from glm_scale.parallel.collectives.counting import SentBytes

_Result = TypeVar("_Result")
_SECONDS = 60.0


def simulate(size: int, work: Callable[[SimulatedRank], _Result]) -> list[_Result]:
    """What `work` returns on each of `size` ranks. An error of one rank ends the others, and is raised."""
    meeting = _Meeting(size)

    def run(rank: int) -> _Result:
        try:
            return work(SimulatedRank(rank, meeting))
        except BaseException as error:
            meeting.fail(error)
            raise

    with ThreadPoolExecutor(size) as pool:
        running = [pool.submit(run, rank) for rank in range(size)]
    if meeting.failure is not None:
        raise meeting.failure
    return [one.result() for one in running]


class SimulatedRank(Communicator):
    """One rank of `simulate`. `sent`: bytes by collective."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self.size = rank, meeting.size
        self.sent = SentBytes(self.size)
        self._meeting = meeting
        self._started = 0

    def all_gather(self, x: Tensor) -> Pending:
        self.sent.whole("all_gather", x)
        return self._together("all_gather", x, torch.stack)

    def reduce_scatter(self, x: Tensor) -> Pending:
        self.sent.parts("reduce_scatter", x)
        return self._together("reduce_scatter", x, lambda all_x: torch.stack([y[self.rank] for y in all_x]).sum(0))

    def all_to_all(self, x: Tensor) -> Pending:
        self.sent.parts("all_to_all", x)
        return self._together("all_to_all", x, lambda all_x: torch.stack([y[self.rank] for y in all_x]))

    def send(self, x: Tensor, to: int) -> Pending:
        self.sent.message(x)
        self._meeting.post(self.rank, to, x.detach().clone())
        return Pending(lambda: x)

    def receive(self, like: Tensor, source: int) -> Pending:
        def finish() -> Tensor:
            found = self._meeting.message(source, self.rank)
            _must_agree("receive", [like, found])
            return found

        return Pending(finish)

    def _together(self, name: str, x: Tensor, combine: Callable[[list[Tensor]], Tensor]) -> Pending:
        number, self._started = self._started, self._started + 1
        self._meeting.bring(number, self.rank, name, x.detach().clone())

        def finish() -> Tensor:
            brought = self._meeting.everyones(number)
            names = sorted({name for name, _ in brought})
            if len(names) > 1:
                raise RuntimeError(f"collective {number} is {' on some ranks and '.join(names)} on others")
            tensors = [y for _, y in brought]
            _must_agree(name, tensors)
            return combine(tensors)

        return Pending(finish)


class _Meeting:
    """What the threads of all ranks share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.failure: BaseException | None = None
        self._changed = threading.Condition()
        self._brought: dict[int, dict[int, tuple[str, Tensor]]] = defaultdict(dict)
        self._taken: Counter[int] = Counter()
        self._messages: dict[tuple[int, int], deque[Tensor]] = defaultdict(deque)

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = self.failure or error
            self._changed.notify_all()

    def bring(self, number: int, rank: int, name: str, x: Tensor) -> None:
        with self._changed:
            self._brought[number][rank] = name, x
            self._changed.notify_all()

    def everyones(self, number: int) -> list[tuple[str, Tensor]]:
        with self._changed:
            self._until(lambda: len(self._brought[number]) == self.size, f"collective {number}")
            brought = [self._brought[number][rank] for rank in range(self.size)]
            self._taken[number] += 1
            if self._taken[number] == self.size:
                del self._brought[number], self._taken[number]
            return brought

    def post(self, source: int, to: int, x: Tensor) -> None:
        with self._changed:
            self._messages[source, to].append(x)
            self._changed.notify_all()

    def message(self, source: int, to: int) -> Tensor:
        with self._changed:
            self._until(lambda: bool(self._messages[source, to]), f"a message from rank {source} to rank {to}")
            return self._messages[source, to].popleft()

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        done = self._changed.wait_for(lambda: ready() or self.failure is not None, _SECONDS)
        if self.failure is not None:
            raise RuntimeError("another rank failed") from self.failure
        if not done:
            raise TimeoutError(f"{what} did not come together within {_SECONDS:.0f} s")


def _must_agree(name: str, tensors: list[Tensor]) -> None:
    kinds = {(tuple(x.shape), x.dtype) for x in tensors}
    if len(kinds) > 1:
        raise RuntimeError(f"{name}: ranks disagree about shape or dtype: {sorted(map(str, kinds))}")
