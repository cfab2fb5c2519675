"""What ranks do in tests of the launcher: `python -m tests.processes.programs NAME`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from glm_scale.processes import Watchdog, collective_timeout

RANK = int(os.environ["RANK"])
TIMEOUT = 2.0
FOR_EVER = 1000.0
"""Seconds: longer than any test waits, so that nothing ends which is not ended."""


def connect() -> None:
    """RankProcesses come here when they have imported torch, which takes some longer than others."""
    from torch import distributed as dist

    dist.init_process_group("gloo", timeout=collective_timeout(60))
    add()


def add() -> float:
    import torch
    from torch import distributed as dist

    x = torch.ones(1)
    dist.all_reduce(x)
    return float(x)


def disconnect() -> None:
    """Without it torch sometimes aborts at exit."""
    from torch import distributed as dist

    dist.destroy_process_group()


def adds() -> None:
    """Every rank has its variables and finds the others."""
    connect()
    print(f"sum {add():.0f}, threads {os.environ['OMP_NUM_THREADS']}", flush=True)
    print("a remark", file=sys.stderr, flush=True)
    disconnect()


def raises() -> None:
    """Rank 1 fails, which the others, who are connected to it, see as a lost connection."""
    connect()
    if RANK == 1:
        try:
            raise KeyError("what led to it")
        except KeyError:
            raise ValueError("a mistake in rank 1") from None
    add()


def first_raises() -> None:
    """Rank 0 fails, whose stderr is the terminal."""
    if RANK == 0:
        raise ValueError("a mistake in rank 0")
    time.sleep(FOR_EVER)


def refuses() -> None:
    """An error that the user can mend, as the command line shows it."""
    if RANK == 1:
        print("error: vocab_size is too small", file=sys.stderr)
        sys.exit(2)
    time.sleep(FOR_EVER)


def is_killed() -> None:
    connect()
    if RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    add()


def exits_and_others_ignore() -> None:
    """Rank 1 ends without a word, and the others do not end when they are asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if RANK == 1:
        os._exit(3)
    time.sleep(FOR_EVER)


def skips_collective() -> None:
    """Rank 2 leaves out the second one, and goes on to something else."""
    connect()
    with Watchdog(TIMEOUT, Path("unused")) as watchdog:
        for step in range(3):
            watchdog.step(step)
            if RANK == 2 and step == 1:
                be_busy_elsewhere()
            add()


def be_busy_elsewhere() -> None:
    time.sleep(FOR_EVER)


def waits_elsewhere() -> None:
    """As many collectives on all ranks, but rank 1 is in another."""
    from torch import distributed as dist

    connect()
    with Watchdog(TIMEOUT, Path("unused")):
        if RANK == 1:
            dist.broadcast_object_list([None], src=0)
        else:
            add()


def keeps_interpreter() -> None:
    """No thread of rank 1 can run any more."""
    with Watchdog(TIMEOUT, Path("unused")):
        Path(f"ready-{RANK}").touch()
        while RANK == 0 and not Path("ready-1").exists():
            time.sleep(0.05)
        if RANK == 1:
            library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
            library.pthread_mutex_lock(mutex)
            # For ever: a sleep would end when the rank is asked for its stack.
            library.pthread_mutex_lock(mutex)
        time.sleep(FOR_EVER)


def hangs_alone() -> None:
    with Watchdog(0.2, Path("reports")) as watchdog:
        watchdog.step(7)
        be_busy_elsewhere()


def waits_for_signals() -> None:
    """Notes every signal, and ends with the second, or with the first if it is no SIGINT, in good order."""
    received = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        with Path(f"signals-{RANK}").open("a") as file:
            print(signal.Signals(number).name, file=file)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    Path(f"ready-{RANK}").write_text(str(os.getpid()))
    while not (received and received[-1] != signal.SIGINT) and len(received) < 2:
        time.sleep(0.02)
    sys.exit(128 + received[-1])


if __name__ == "__main__":
    program: Callable[[], None] = globals()[sys.argv[1]]
    program()
