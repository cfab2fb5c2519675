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
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from glm_data.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT = 4  # items per worker: enough to keep it busy, few enough to keep memory flat


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
        pending: deque[_Worker] = deque()  # each worker answers in order, so the order of sending says whom to ask
        for number, item in enumerate(items):
            if len(pending) == _IN_FLIGHT * workers:
                yield pending.popleft().receive()
            worker = pool[number % workers]
            worker.send(item)
            pending.append(worker)
        while pending:
            yield pending.popleft().receive()
    finally:
        for worker in pool:
            worker.kill()


class _Worker:
    """A process that answers each item with a result or an exception."""

    def __init__(self, function: Callable):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, item: Any) -> None:
        try:
            self._connection.send(item)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> Any:
        try:
            result, exception = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if exception is not None:
            raise exception
        return result

    def _died(self) -> DataError:
        self._process.join(timeout=5)
        return DataError(
            f"A worker process ended unexpectedly (exit code {self._process.exitcode}), most often because memory ran "
            "out. Run the same command again to continue, with fewer --workers."
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


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
