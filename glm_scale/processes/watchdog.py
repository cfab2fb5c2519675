"""In each rank: notices that training no longer moves, writes down where the rank stands, and ends it.

A rank that hangs usually stands in a collective, in C++, so all of it is done by a thread. Under the launcher, ranks
that do not hang themselves are asked for a report too, and the launcher compares them. Without it, as under SLURM, the
report goes to stderr as well, and rank 0 compares those that lie in the folder, if the ranks share one.

Standard library alone; of torch, what the rank has imported by itself is asked.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from glm_data.files import write_atomically
from glm_scale.processes.diagnosis import describe, diagnose
from glm_scale.processes.environment import launched
from glm_scale.processes.reports import Frame, Group, Report, hang_path, read_report, stacks_path, trace_path

__all__ = ["HANG_EXIT_CODE", "LINE", "LOGS", "Watchdog", "collective_timeout"]

HANG_EXIT_CODE = 75
"""How a rank ends that hung, and a launcher whose ranks did. EX_TEMPFAIL of sysexits.h: worth another try."""

LOGS, LINE = "GLM_SCALE_LAUNCHER_LOGS", "GLM_SCALE_LAUNCHER_LINE"
"""Variables of the launcher: the folder of reports, and a pipe whose end asks for a report."""

_LINGER = 15.0
"""Seconds from the report to the end: a rank that ends makes others fail, which have to report first."""


class Watchdog:
    """While active, ends the process when `step` was not called for `timeout` seconds, with a report in `logs`.

    Enter it before the process group is made, which it tells where to leave NCCL's flight recorder. Under the launcher
    the report goes to the launcher's folder instead.
    """

    def __init__(self, timeout: float, logs: Path) -> None:
        self.timeout = timeout
        self.launched = LOGS in os.environ
        self.logs = Path(os.environ.get(LOGS, logs))
        place = launched()
        self.rank, self.size = (place.rank, place.size) if place else (0, 1)
        self._line = int(os.environ[LINE]) if self.launched else None
        self._last = "the start", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        for stale in (hang_path(self.logs, self.rank), trace_path(self.logs, self.rank)):
            stale.unlink(missing_ok=True)
        for name, value in _recorder_settings(self.logs, self.timeout).items():
            os.environ.setdefault(name, value)
        if self.launched:
            # Works even where the thread cannot: in code that does not let go of the interpreter. It stays when the
            # watchdog ends, since others may hang while they wait for this rank.
            faulthandler.register(signal.SIGQUIT, stacks_path(self.logs, self.rank).open("w", encoding="utf-8"))
        self._last = "the start", time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def step(self, what: int | str) -> None:
        """A sign of life: training has come to step `what`, or does what it says. Costs a microsecond."""
        self._last = f"step {what}" if isinstance(what, int) else what, time.monotonic()

    def _watch(self) -> None:
        # Time is what this thread has seen pass: a machine that was suspended has not made training late.
        interval = min(0.5, self.timeout / 4)
        seen, quiet = self._last, 0.0
        while not self._ended.wait(interval):
            last = self._last
            quiet = quiet + interval if last is seen else 0.0
            seen = last
            if quiet >= self.timeout or self._is_asked():
                self._report()
                return

    def _is_asked(self) -> bool:
        """Whether the launcher has closed its end of the line, or is gone."""
        return self._line is not None and bool(select.select([self._line], [], [], 0)[0])

    def _report(self) -> None:
        # First of all, so that the process ends even if the folder does not answer either.
        end = threading.Timer(_LINGER, os._exit, [HANG_EXIT_CODE])
        end.daemon = True
        end.start()
        heartbeat, when = self._last
        report = Report(
            self.rank, socket.gethostname(), os.getpid(), heartbeat, time.monotonic() - when, _groups(), _threads()
        )
        if not self.launched:
            print(report, file=sys.stderr, flush=True)
        write_atomically(hang_path(self.logs, self.rank), report.to_json())
        _dump_flight_recorder(self.logs, self.rank)
        if self.rank == 0 and not self.launched:
            self._compare()

    def _compare(self) -> None:
        time.sleep(_LINGER / 2)
        ranks = range(self.size)
        found = {rank: report for rank in ranks if (report := read_report(hang_path(self.logs, rank)))}
        silent = {rank: "has left no report here" for rank in ranks if rank not in found}
        print(describe(diagnose(found, silent), found), file=sys.stderr, flush=True)


def collective_timeout(timeout: float) -> timedelta:
    """What to give process groups: longer than the watchdog's `timeout` (seconds), whose report has to come first."""
    return timedelta(seconds=2 * timeout + 60)


def _threads() -> dict[str, tuple[Frame, ...]]:
    """The stacks of all threads but this one, the main thread first."""
    main, own = threading.main_thread().ident, threading.get_ident()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = {}
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        name = names.get(ident, "unknown")
        if ident != own:
            walk = [Frame(at.f_code.co_filename, line, at.f_code.co_name) for at, line in traceback.walk_stack(frame)]
            shown = (at for at in reversed(walk) if not at.file.startswith("<frozen importlib"))  # as in tracebacks
            stacks[f"{name} ({ident})" if name in stacks else name] = tuple(shown)
    return stacks


def _distributed() -> Any:
    """torch.distributed if process groups run. It is not imported: the main thread may hang while it imports."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _groups() -> tuple[Group, ...]:
    groups = []
    with contextlib.suppress(Exception):
        dist = _distributed()
        for group in list(dist.distributed_c10d._world.pg_map) if dist else ():
            started = None
            with contextlib.suppress(Exception):  # not every backend counts
                started = int(group._get_sequence_number_for_group())
            name = group.group_desc if group.group_desc not in ("", "undefined") else group.group_name
            groups.append(Group(name, tuple(dist.get_process_group_ranks(group)), started))
    return tuple(groups)


def _recorder_settings(logs: Path, timeout: float) -> dict[str, str]:
    """Variables of torch: record NCCL's collectives, leave them in `logs`, and let no monitor end the rank earlier."""
    seconds = collective_timeout(timeout).total_seconds()
    return {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(trace_path(logs, "")),
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": f"{seconds:.0f}",
    }


def _dump_flight_recorder(logs: Path, rank: int) -> None:
    """What NCCL did last, for `python -m torch.distributed.flight_recorder.fr_trace -p nccl_trace_rank_ LOGS`."""
    with contextlib.suppress(Exception):
        dist = _distributed()
        if dist and "nccl" in dist.get_backend():
            trace = sys.modules["torch._C._distributed_c10d"]._dump_nccl_trace()
            trace_path(logs, rank).write_bytes(trace)
