"""The processes of a launch: how they are started, what they died of, and how they are stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from glm_scale.processes.failures import Death, last_words
from glm_scale.processes.ports import reserved_port
from glm_scale.processes.relay import Relay
from glm_scale.processes.reports import hang_path, stacks_path
from glm_scale.processes.watchdog import LINE, LOGS

__all__ = ["POLL", "RankProcesses"]

POLL = 0.05
_KILLED = 5.0
"""Seconds for a killed process to be gone; one that waits for a device may not go at all."""
_TAIL = 1 << 16
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class RankProcesses:
    """`count` copies of `command`, each in a session of its own; those that still live at the end are killed.

    `ended` are the ranks that have ended, in order of time, with their exit codes as subprocess gives them.
    """

    def __init__(self, command: Sequence[str], count: int, logs: Path) -> None:
        self.command = command
        self.count = count
        self.logs = logs
        self.ended: dict[int, int] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log_starts: list[int] = []
        self._line: int | None = None

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.callback(self.ask)
            stack.callback(self._tidy)
            port = stack.enter_context(reserved_port()).getsockname()[1]
            theirs, self._line = os.pipe()
            read, write = os.pipe()
            try:
                for rank in range(self.count):
                    self._start(rank, port, theirs, write)
            finally:
                os.close(theirs)
                os.close(write)
            # Only now, since a process with threads must not fork.
            self.relay = Relay(read, self._log(0))
            self._stack = stack.pop_all()
        return self

    def _start(self, rank: int, port: int, line: int, stderr: int) -> None:
        for stale in (hang_path(self.logs, rank), stacks_path(self.logs, rank)):
            stale.unlink(missing_ok=True)
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": self.count,
            "LOCAL_WORLD_SIZE": self.count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            LOGS: self.logs.absolute(),
            LINE: line,
        }
        threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.count))}
        with self._log(rank).open("ab") as log:
            self._log_starts.append(log.tell())
            process = subprocess.Popen(
                self.command,
                env=threads | dict(os.environ) | {name: str(value) for name, value in variables.items()},
                stdin=None if rank == 0 else subprocess.DEVNULL,
                stdout=None if rank == 0 else log,
                stderr=stderr if rank == 0 else log,
                pass_fds=[line],
                # Ctrl-C in a terminal goes to the launcher alone, which passes it on.
                start_new_session=True,
                preexec_fn=_dying_with(os.getpid()),
            )
        self._processes.append(process)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def living(self) -> list[int]:
        """Looks anew."""
        for rank, process in enumerate(self._processes):
            if rank not in self.ended and process.poll() is not None:
                self.ended[rank] = process.returncode
        return [rank for rank in range(len(self._processes)) if rank not in self.ended]

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Whether `until` came true in time; does not wait longer than a rank lives."""
        deadline = time.monotonic() + seconds
        while not (happened := until()) and self.living and time.monotonic() < deadline:
            time.sleep(POLL)
        return happened

    def failed(self, expected: Collection[int]) -> list[int]:
        """Those that ended, in order of time, with a code other than 0 and the `expected` ones."""
        return [rank for rank, code in self.ended.items() if code and code not in expected]

    def pid(self, rank: int) -> int:
        """The process id of a rank."""
        return self._processes[rank].pid

    def death(self, rank: int) -> Death:
        """Of a rank that has ended."""
        if rank == 0:
            self.relay.finish()
        with self._log(rank).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_starts[rank], size - _TAIL))
            text = file.read().decode(errors="replace")
        return Death(rank, self.ended[rank], last_words(text))

    def send(self, number: signal.Signals, ranks: Sequence[int]) -> None:
        """A signal to ranks that live."""
        for rank in ranks:
            self._processes[rank].send_signal(number)

    def ask(self) -> None:
        """Ask all for a report, and let them end after it."""
        line, self._line = self._line, None
        if line is not None:
            os.close(line)

    def stop(self, grace: float) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL, for what the ranks have started too."""
        self.send(signal.SIGTERM, self.living)
        self.wait(lambda: not self.living, grace)
        self._kill()

    def _tidy(self) -> None:
        if self.living:
            self._kill()
        for rank in range(self.count):
            path = stacks_path(self.logs, rank)
            if path.exists() and not path.stat().st_size:
                path.unlink()

    def _kill(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.wait(lambda: not self.living, _KILLED)

    def _log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"


def _dying_with(launcher: int) -> Callable[[], None]:
    """What a process does before it becomes a rank: it is killed when the launcher, even by SIGKILL, ends."""

    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # it has ended already
            os._exit(1)

    return prepare
