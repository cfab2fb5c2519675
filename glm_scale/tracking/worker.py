"""The process that mirrors a run to MLflow: `python -m glm_scale.tracking.worker`, started by Tracker and `track sync`.

A process of its own, not a thread of the trainer: importing MLflow takes seconds of the interpreter, a request to
a dead server cannot be interrupted, MLflow's time limits are environment variables, and only a process that
outlives the trainer can report that the trainer was killed.

It reads one JSON object on its standard input (`glm_scale.tracking.state.Order`), then a line "stop SECONDS", or
the end of the file. On standard output it writes what there is to be known, one line each, "LEVEL text", of which
ERROR is for the user at once; if not everything has been received, the last one is "MISSED text" and says why.
Libraries speak on standard error.
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
from typing import TYPE_CHECKING

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.reach import check_store, explain
from glm_scale.tracking.state import MISSED, Order, TrackingState, open_state

if TYPE_CHECKING:
    from glm_scale.tracking.mirror import Mirror

_POLL_S = 1.0
_LONGEST_PAUSE_S = 60.0
# After its trainer was killed, a worker has this long to deliver what is left.
_ORPHAN_PATIENCE_S = 20.0

_logger = logging.getLogger("glm_scale.tracking")


def mirror(run: RunDirectory, state: TrackingState, stop: Callable[[float], float | None]) -> bool:
    """Mirror until told to stop; whether everything was received.

    `stop(seconds)` waits that long for a request to stop; it returns for how many seconds to go on trying, or None.
    What keeps being wrong when the request comes, or will not pass by itself, is tried only once more.
    """
    mirrored: Mirror | None = None
    deadline: float | None = None
    pause, failures, hopeless = 0.0, 0, False
    while True:
        if deadline is not None:
            time.sleep(pause)
        elif (patience := stop(pause)) is not None:
            deadline, hopeless = time.monotonic() + patience, failures > 0
        try:
            if mirrored is None or not mirrored.connected:
                check_store(state.uri, _answer_seconds())
            mirrored = mirrored or _mirror_of(run, state)
            mirrored.catch_up()
            if failures:
                _logger.info("MLflow at %s answers again; what it missed was replayed", state.uri)
            pause, failures = _POLL_S, 0
            if deadline is not None:
                run.settle()
                mirrored.finish()
                return True
        except Exception as error:
            if mirrored is not None:
                mirrored.disconnect()
            failures += 1
            trouble = explain(error, state.uri)
            if failures == 1 and deadline is None:
                _logger.error("MLflow at %s does not take this run: %s. It is tried again", state.uri, trouble)
            pause = min(_POLL_S * 2 ** (failures - 1), _LONGEST_PAUSE_S)
            if deadline is not None:
                pause = min(pause, _POLL_S)
                if hopeless or not trouble.passing or time.monotonic() + pause >= deadline:
                    print(MISSED, f"MLflow at {state.uri} does not take it: {trouble}", flush=True)
                    return False


def _mirror_of(run: RunDirectory, state: TrackingState) -> Mirror:
    # The import is part of what must not hold up the caller, and of what may fail.
    from glm_scale.tracking.mirror import Mirror

    return Mirror(run, state)


def _answer_seconds() -> float:
    """How long MLflow would wait for an answer of a server."""
    try:
        return float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    except (KeyError, ValueError):
        return 10.0


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
    """Mirror the run of the order on standard input; returns the exit code."""
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
            parent, patience = order.parent, order.patience
            return 0 if mirror(run, state, _stop_request(requests, parent) if parent else lambda _: patience) else 1
    except (UserError, OSError, ValueError) as error:
        if order.parent:
            _logger.error("MLflow does not receive this run: %s", error)
        print(MISSED, " ".join(str(error).split()), flush=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
