"""The process that mirrors a run to MLflow: `python -m glm_scale.tracking.worker`, started by Tracker and `track sync`.

A process of its own, not a thread of the trainer: importing MLflow takes seconds of the interpreter, a request to
a dead server cannot be interrupted, MLflow's time limits are environment variables, and only a process that
outlives the trainer can report that the trainer was killed.

It reads one JSON object on its standard input (`glm_scale.tracking.state.Order`), then a line "stop SECONDS", or
the end of the file. On standard output it writes what the user should know, one line each, "LEVEL text"; libraries
speak on standard error.
Exit code: 0 if everything has been received, 1 if not, 2 if the run cannot be mirrored.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from io import FileIO, RawIOBase

from glm_scale.errors import UserError
from glm_scale.runs import RunDirectory
from glm_scale.tracking.config import resolve_uri, store_folder
from glm_scale.tracking.state import Order, TrackingState

_POLL_S = 1.0
_LONGEST_PAUSE_S = 60.0
# After its trainer was killed, a worker has this long to deliver what is left.
_ORPHAN_PATIENCE_S = 20.0

_logger = logging.getLogger("glm_scale.tracking")


def open_state(run: RunDirectory, order: Order) -> TrackingState:
    """The state to go on from: what tracking.json says, unless the order names another store or experiment."""
    state = TrackingState.read(run)
    if state is not None and order.uri in (state.requested_uri, state.uri) and order.experiment == state.experiment:
        return state
    return TrackingState(requested_uri=order.uri, uri=resolve_uri(order.uri, order.base), experiment=order.experiment)


def mirror(run: RunDirectory, state: TrackingState, stop: Callable[[float], float | None]) -> bool:
    """Mirror until told to stop; whether everything was received.

    `stop(seconds)` waits that long for a request to stop; it returns for how many seconds to go on trying, or None.
    """
    # The import is part of what must not hold up the caller.
    from glm_scale.tracking.mirror import Mirror, first_line

    mirrored = Mirror(run, state)
    deadline: float | None = None
    pause, failures = 0.0, 0
    while True:
        if deadline is not None:
            time.sleep(pause)
        elif (patience := stop(pause)) is not None:
            deadline = time.monotonic() + patience
        try:
            mirrored.catch_up()
            if failures:
                _logger.info("MLflow at %s answers again; what it missed was replayed", state.uri)
            pause, failures = _POLL_S, 0
            if deadline is not None:
                run.settle()
                mirrored.finish()
                return True
        except Exception as error:
            mirrored.disconnect()
            failures += 1
            if failures == 1:
                _logger.warning("MLflow at %s cannot be reached and is tried again: %s", state.uri, first_line(error))
            pause = min(_POLL_S * 2 ** (failures - 1), _LONGEST_PAUSE_S)
            if deadline is not None:
                pause = min(pause, _POLL_S)
                if time.monotonic() + pause >= deadline:
                    return False


def _stop_request(requests: RawIOBase, parent: int) -> Callable[[float], float | None]:
    """Waits for word on standard input. A parent that died cannot close the pipe if its workers hold it too."""

    def stop(seconds: float) -> float | None:
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            readable, _, _ = select.select([requests], [], [], max(0.0, min(left, _POLL_S)))
            if readable and (request := requests.readline().split()):
                return float(request[1])
            if readable or os.getppid() != parent:
                return _ORPHAN_PATIENCE_S
            if left <= 0:
                return None

    return stop


def main() -> int:
    # A scheduler that ends a job signals every process of it; this one ends when the trainer has had its last word.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logging.raiseExceptions = False  # standard output is a pipe to a process that may die
    speaker = logging.StreamHandler(sys.stdout)
    speaker.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _logger.addHandler(speaker)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    # Unbuffered: a request to stop that came along with the order must not hide from `select` in a buffer.
    requests = FileIO(sys.stdin.fileno(), closefd=False)
    order = Order.model_validate_json(requests.readline())
    run = RunDirectory(order.run)
    try:
        # A worker whose trainer was killed a moment ago may still be at work here.
        with run.tracking_lock(patience=2 * _ORPHAN_PATIENCE_S if order.parent else 1.0):
            state = open_state(run, order)
            state.complete = False
            state.write(run)
            if (folder := store_folder(state.uri)) is not None:
                # MLflow puts the artifacts of a new sqlite store into ./mlruns: keep them beside the database.
                folder.mkdir(parents=True, exist_ok=True)
                os.chdir(folder)
            parent, patience = order.parent, order.patience
            return 0 if mirror(run, state, _stop_request(requests, parent) if parent else lambda _: patience) else 1
    except (UserError, OSError) as error:
        _logger.warning("%s", error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
