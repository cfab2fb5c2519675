"""The process under which a private SLURM runs: first of its own PID namespace where that is allowed.

Run as a file, with two inherited descriptors, a connection that brings commands and a pidfd of the process that owns
the cluster, and the cluster's folder. At the command None, or when either is closed or ends, everything that was
started is killed and the folder removed, so that nothing survives a test run that was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36


def _start(arguments: list[str], environment: dict[str, str], output: str) -> None:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    os.posix_spawn(arguments[0], arguments, environment, file_actions=actions, setsid=True)


def _reap(*_: Any) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants() -> set[int]:
    """All, because the orphans among them have become children of this process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {os.getpid()}


def _end(folder: str) -> None:
    # A process may have forked between the look and the kill.
    deadline = time.monotonic() + 5
    while (living := _descendants()) and time.monotonic() < deadline:
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        _reap()
    shutil.rmtree(folder, ignore_errors=True)


def _serve(commands: Connection, owner: int, folder: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, _reap)
    try:
        commands.send("ready")
        while owner not in select.select([commands.fileno(), owner], [], [])[0]:
            if (command := commands.recv()) is None:
                break
            _start(*command)
            commands.send("started")
    except (EOFError, OSError):
        pass
    finally:
        _end(folder)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
