"""Running a function over a stream in worker processes, results in order, without losing or leaking processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
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
    executor = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(function,),
    )
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(executor.submit(_apply, item))
            if len(pending) >= _IN_FLIGHT * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process ended unexpectedly, most often because memory ran out. Run the same command again to "
            "continue, with fewer --workers."
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


# What a worker process runs, set once when it starts: a function with a tokenizer is too large to send with each item.
_worker_function: Callable | None = None


def _start_worker(function: Callable) -> None:
    global _worker_function
    _worker_function = function
    # Ctrl-C reaches the whole process group; the parent decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes nothing: without this, its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _apply(item: Any) -> Any:
    assert _worker_function is not None
    return _worker_function(item)
