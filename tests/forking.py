"""A server that has done all imports and forks processes: ranks of a run, or commands. They start in milliseconds, as
fresh as any process.

It has made no process group and started no thread, so a child finds what a process finds that has just been started.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from glm_scale.processes.ports import reserved_port

IMPORTS = (
    "deepspeed",
    "megatron.core.parallel_state",
    "glm_data",
    "glm_launch.cli.app",
    "glm_scale.run.train",
    "tests.commands",
    "tests.faults.rank",
)
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The server as the tests see it; it and its children end with the process that started it."""

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        )
        theirs.close()

    def start(self, work: Callable[..., int], arguments: tuple[Any, ...], count: int, logs: Path) -> Processes:
        """`work(*arguments)`, which returns an exit code, on ranks 0 … count − 1, which print to `logs`/rank-N.out.

        `work` is a function of a module that the server imports.
        """
        logs.mkdir(parents=True, exist_ok=True)
        reserved = reserved_port()
        places = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
        places["MASTER_PORT"] = reserved.getsockname()[1]
        self._pipe.send(("start", (work, arguments, count, places, logs)))
        pids = self._pipe.recv()
        return Processes(self, reserved, pids, [os.pidfd_open(pid) for pid in pids])

    def exit_code(self, pid: int) -> int:
        """Of a child that has ended."""
        self._pipe.send(("reap", (pid,)))
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.wait()


@dataclass
class Processes:
    """The ranks of one run. `ended` are exit codes by rank, −9 for SIGKILL."""

    server: ForkServer
    port: socket.socket
    pids: list[int]
    handles: list[int]
    ended: dict[int, int] = field(default_factory=dict)

    @property
    def living(self) -> list[int]:
        return [rank for rank in range(len(self.pids)) if rank not in self.ended]

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False, poll: float | None = None) -> bool:
        """Whether `until` came true, or all have ended, before the time was over.

        It is asked whenever a process ends, and every `poll` seconds.
        """
        deadline = time.monotonic() + seconds
        while self.living and not until() and (left := deadline - time.monotonic()) > 0:
            living = self.living
            pause = left if poll is None else min(left, poll)
            ready, _, _ = select.select([self.handles[rank] for rank in living], [], [], pause)
            for rank in living:
                if self.handles[rank] in ready:
                    self.ended[rank] = self.server.exit_code(self.pids[rank])
        return not self.living or until()

    def send(self, number: signal.Signals, ranks: Collection[int]) -> None:
        """A signal to those of the ranks that live."""
        for rank in set(ranks) & set(self.living):
            # A child that has ended and was not asked for yet is a zombie, which takes signals without harm.
            signal.pidfd_send_signal(self.handles[rank], number)

    def close(self) -> None:
        """Kill those that still live."""
        self.send(signal.SIGKILL, self.living)
        self.wait(10)
        for handle in self.handles:
            os.close(handle)
        self.port.close()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _serve(pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    for name in IMPORTS:
        importlib.import_module(name)
    _compile_communication_op()
    gc.collect()
    gc.freeze()
    server = os.getpid()
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        if command == "reap":
            pipe.send(os.waitstatus_to_exitcode(os.waitpid(arguments[0], 0)[1]))
            continue
        work, given, count, places, logs = arguments
        pids = []
        for rank in range(count):
            if (pid := os.fork()) == 0:
                pipe.close()
                _become(rank, server, places, logs)
                _run(work, given)
            pids.append(pid)
        pipe.send(pids)


def _compile_communication_op() -> None:
    """Else the first run that is started does it, which takes minutes on a slow machine, more than tests wait."""

    def compiled() -> int:
        import torch

        from glm_scale.training import distributed

        distributed.load(torch.device("cpu"))
        return 0

    if (pid := os.fork()) == 0:
        _run(compiled, ())
    os.waitpid(pid, 0)


def _become(rank: int, server: int, places: dict[str, Any], logs: Path) -> None:
    """What a launcher does to a process before it is a rank."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    os.environ |= {name: str(value) for name, value in {**places, "RANK": rank, "LOCAL_RANK": rank}.items()}
    output = os.open(logs / f"rank-{rank}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _run(work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    code = 1
    try:
        code = work(*arguments)
        threading._shutdown()  # type: ignore[attr-defined]  # what waits for threads at the end of a process
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
