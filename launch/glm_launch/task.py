"""What every process of a job does: takes its place among the ranks, trains, and says how it ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from glm_launch.causes import kind_of_error
from glm_launch.records import LaunchFolder, RankReport
from glm_scale.errors import UserError
from glm_scale.processes.environment import VARIABLES, launched
from glm_scale.run_directory import RunDirectory
from glm_scale.startup import prepare
from glm_scale.training.signals import REQUEUE_EXIT_CODE

__all__ = ["ATTEMPT", "TrainTask", "main"]

ATTEMPT = "GLM_LAUNCH_ATTEMPT"
"""Environment variable: the number of the attempt that a process belongs to."""

_MISTAKE = 2
"""Exit code of a run that cannot be trained until somebody mends it."""

_SAY_STOPPED = "--say-stopped"

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class TrainTask:
    """Called by submitit in every task of a job; goes on with the run from its newest checkpoint, and when that has
    finished with its `followers`, one after the other.

    It has no `checkpoint()` for submitit to call from a signal handler of one rank: the training loop saves by a vote
    of all ranks, and the batch script requeues the job when all have ended.
    """

    run: Path
    followers: tuple[Path, ...] = ()

    def __call__(self) -> str:
        """Returns the status of the run. Raises what training raised, after it was written down."""
        noted = noted_signals()
        prepare()
        from submitit.helpers import TorchDistributedEnvironment

        # Every process sees all GPUs of its node and takes its own: peers reach one another's memory only that way.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if self.followers:
            return train_family((self.run, *self.followers), noted)
        return train_and_tell(self.run, noted)


def train_family(runs: Sequence[Path], noted: list[int]) -> str:
    """Train runs one after the other, each in a process of its own: a process joins others but once, and what a run has
    held of a GPU is given back when its process ends.

    What becomes of them is reported as that of the first. A follower that cannot be trained keeps no other from it; one
    that is stopped stops the job, which comes back to it.
    """
    first = LaunchFolder(RunDirectory(runs[0]))
    for run in runs:
        code = subprocess.run([sys.executable, "-m", "glm_launch.task", str(run), _SAY_STOPPED]).returncode
        if code == REQUEUE_EXIT_CODE or (code and noted):
            reason = f"signal {signal.Signals(noted[0]).name}" if noted else "its time limit"
            _report(first, status="stopped", reason=reason)
            return "stopped"
        if code and run == runs[0]:
            raise subprocess.CalledProcessError(code, f"training of {run}")  # which has reported why
        if code not in (0, _MISTAKE):
            error = subprocess.CalledProcessError(code, f"training of {run}")
            _report_failure(first, error)
            raise error
    return "finished"


def train_and_tell(run: Path, earlier: list[int]) -> str:
    """Train from the snapshot of the configuration, and leave a report for whoever decides what comes next.

    An alone process has no group to join, and so no variables of a launcher.
    """
    folder = LaunchFolder(RunDirectory(run))
    here = launched()
    if here and here.size == 1:
        for name in VARIABLES:
            os.environ.pop(name, None)
    try:
        from glm_scale.config import load_config
        from glm_scale.run.train import train

        outcome = train(load_config(folder.config), earlier=earlier)
    except BaseException as error:
        _report_failure(folder, error)
        raise
    status = "finished" if outcome.status == "finished" else "stopped"
    _report(folder, status=status, reason=outcome.stopped_by)
    return status


def _report_failure(folder: LaunchFolder, error: BaseException) -> None:
    said = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    _report(folder, status="failed", error=said, kind=kind_of_error(error))


def _report(folder: LaunchFolder, **said: Any) -> None:
    """What becomes of this rank's part in the attempt."""
    here = launched()
    rank = here.rank if here else 0
    report = RankReport(rank=rank, host=socket.gethostname(), time=time.time(), **said)
    folder.write_report(int(os.environ[ATTEMPT]), report)


def main() -> int:
    """A rank that the launcher of this machine has started, or `train_family`: `python -m glm_launch.task RUN`."""
    prepare()  # first: it may start the interpreter again
    noted = noted_signals()
    run, *how = sys.argv[1:]
    try:
        status = train_and_tell(Path(run), noted)
    except Exception as error:
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", _MISTAKE)
    return REQUEUE_EXIT_CODE if status == "stopped" and _SAY_STOPPED in how else 0


def noted_signals() -> list[int]:
    """From now on requests to stop go into the list, until the training loop can heed them itself.

    submitit's own handlers would requeue the job from rank 0, before the others have saved. Blocking the signals would
    not do: threads that are there already would take them.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    for number in _STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, note)
    return noted


if __name__ == "__main__":
    sys.exit(main())
