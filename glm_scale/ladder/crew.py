"""The processes that train the runs of a ladder: up to so many at a time, each with its share of this machine.

Signals that would end us are their business: they save and end, then we do.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from glm_scale.processes import ENDING, NEIGHBOURS
from glm_scale.training.signals import REQUEUE_EXIT_CODE

__all__ = ["STOPPED", "Crew", "gpus_here", "share"]

STOPPED = {REQUEUE_EXIT_CODE, *(-number for number in ENDING), *(128 + number for number in ENDING)}
"""Exit codes of a process that was asked to end, ours too."""
_LAST_LINES = 2.0
"""Seconds for what a process has written to be read once it has ended; what it has started may keep its stdout."""


class Crew:
    """`size` processes at a time. One that is alone has our terminal; several tell in lines what they do.

    The main thread gives it its signals (`forward`); `place` and `run` are for other threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.ended = False
        """Whether nothing more is to be started: there was a signal, or somebody has said so."""
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(size):
            self._places.put(place)
        self._living: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[int]:
        """One of `size` places, once there is one."""
        place = self._places.get()
        try:
            yield place
        finally:
            self._places.put(place)

    def run(self, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """The exit code of a command, as subprocess gives it; one of `STOPPED` if nothing is to be started any more."""
        alone = self.size == 1
        with self._lock:
            if self.ended:
                return REQUEUE_EXIT_CODE
            process = subprocess.Popen(
                command, env={**os.environ, **variables}, stdin=None if alone else subprocess.DEVNULL,
                stdout=None if alone else subprocess.PIPE, encoding="utf-8", errors="replace",
            )  # fmt: skip
            self._living.add(process)
        reading = threading.Thread(target=_tell, args=(process,), daemon=True)
        reading.start()
        code = process.wait()
        reading.join(_LAST_LINES)
        with self._lock:
            self._living.discard(process)
        if code in STOPPED and not self.ended:
            # It alone was stopped. With a signal to us all would have been.
            self._end(signal.SIGTERM)
        return code

    def forward(self, number: signal.Signals) -> None:
        """A signal that has reached us, for all processes; nothing more is started."""
        # The terminal sends Ctrl-C to all of us; anything else reaches us alone.
        self._end(None if number == signal.SIGINT else number)

    def _end(self, number: signal.Signals | None) -> None:
        with self._lock:
            self.ended = True
            if number is not None:
                for process in self._living:
                    process.send_signal(number)


def share(place: int, crew: int, ranks: int, gpus: Sequence[str]) -> dict[str, str]:
    """What the process at one of `crew` places, which trains on so many ranks, is told of its share of this machine.

    gpus: those of this machine, as CUDA_VISIBLE_DEVICES names them; without any it trains on CPUs. The GPUs are dealt
    out in turn, so that none has two runs before each has one.
    """
    if crew == 1:
        return {}
    told = {NEIGHBOURS: str(crew - 1)}
    if "OMP_NUM_THREADS" not in os.environ:
        told["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // (crew * ranks)))
    if gpus:
        told[NEIGHBOURS] = str(-(-crew * ranks // len(gpus)) - 1)
        if ranks <= len(gpus):
            told["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[(place * ranks + rank) % len(gpus)] for rank in range(ranks))
    return told


def gpus_here() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Starts nothing on them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def _tell(process: subprocess.Popen[str]) -> None:
    """Write what a process of several says, line by line."""
    for line in process.stdout or ():
        print(line, end="", flush=True)
