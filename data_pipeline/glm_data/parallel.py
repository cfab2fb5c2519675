"""Running a function over a stream in worker processes, results in order, without losing or leaking processes.

`concurrent.futures` would do, but for two things: its workers outlive a parent that is killed, and Ctrl-C at the wrong
moment leaves it waiting for ever. Here the parent runs no threads and its workers are killed whatever happens.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from operator import attrgetter
from typing import Any, TypeVar

from glm_data.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT = 4  # items per worker: enough to keep it busy, few enough to keep memory flat
_QUEUED = 2  # of them with a worker: the one that it works at and the next


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """`map(function, items)` in `workers` processes; with one worker, in this process.

    Results come in the order of the items and only a few items are in flight. The workers are spawned, as forking a
    process with threads is unsafe, and end with this process, even when it is killed.

    Args:
        function: picklable, with its state.
        items: consumed in this process, as results are taken.

    Raises:
        DataError: a worker process died; whatever `function` raises is raised here.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    pool: list[_Worker] = []
    try:
        pool.extend(_Worker(function) for _ in range(workers))
        yield from _in_order(pool, items)
    finally:
        for worker in pool:
            worker.kill()


def _in_order(pool: list["_Worker"], items: Iterable[Any]) -> Iterator[Any]:
    """Results in the order of the items. An item goes to whoever has least to do: no worker waits for a slower one."""
    pending: deque[_Worker] = deque()  # whom the next results come from: each worker answers in order
    for item in items:
        while len(pending) == _IN_FLIGHT * len(pool):
            yield pending.popleft().receive()
        while (worker := min(pool, key=attrgetter("unanswered"))).unanswered == _QUEUED:
            wait([worker.connection for worker in pool])
            for worker in pool:
                worker.collect()
        worker.send(item)
        pending.append(worker)
    while pending:
        yield pending.popleft().receive()


class _Worker:
    """A process that answers each item with a result or an exception."""

    def __init__(self, function: Callable):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()
        self.unanswered = 0
        self._answers: deque[tuple[Any, Exception | None]] = deque()

    def send(self, item: Any) -> None:
        self.unanswered += 1
        try:
            self.connection.send(item)
        except OSError as error:
            raise self._died() from error

    def collect(self) -> None:
        """Take the answers that are there."""
        while self.unanswered and self.connection.poll():
            self._take()

    def receive(self) -> Any:
        if not self._answers:
            self._take()
        result, exception = self._answers.popleft()
        if exception is not None:
            raise exception
        return result

    def _take(self) -> None:
        try:
            self._answers.append(self.connection.recv())
        except (EOFError, OSError) as error:
            raise self._died() from error
        self.unanswered -= 1

    def _died(self) -> DataError:
        self._process.join(timeout=5)
        return DataError(
            f"A worker process ended unexpectedly (exit code {self._process.exitcode}), most often because memory ran "
            "out. Run the same command again to continue, with fewer --workers."
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, function: Callable) -> None:
    """The life of a worker process."""
    # Ctrl-C reaches the whole process group, as does the end of a terminal; the parent decides what to do about it.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        # Always ready to receive, so the parent never waits to send while this process waits to answer.
        while True:
            try:
                items.put(connection.recv())
            except (EOFError, OSError):
                os._exit(0)  # the parent has ended, perhaps killed

    threading.Thread(target=listen, daemon=True).start()
    while True:
        item = items.get()
        result, exception = None, None
        try:
            result = function(item)
        except Exception as error:
            exception = error
        connection.send((result, exception))
