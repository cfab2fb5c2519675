"""What every process of a job does: takes its place among the ranks, trains, and says how it ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from glm_launch.causes import kind_of_error
from glm_launch.records import LaunchFolder, RankReport
from glm_scale.errors import UserError
from glm_scale.processes.environment import VARIABLES, launched
from glm_scale.run_directory import RunDirectory
from glm_scale.startup import prepare

if TYPE_CHECKING:
    from glm_scale.run.train import Outcome

__all__ = ["ATTEMPT", "TrainTask", "main"]

ATTEMPT = "GLM_LAUNCH_ATTEMPT"
"""Environment variable: the number of the attempt that a process belongs to."""

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
        return train_and_tell(self.run, noted, self.followers)


def train_and_tell(run: Path, earlier: list[int], followers: Sequence[Path] = ()) -> str:
    """Train from the snapshot of the configuration, and leave a report for whoever decides what comes next.

    An alone process has no group to join, and so no variables of a launcher. A follower that cannot be trained keeps no
    other from it; one that is stopped stops the job, which comes back to it.
    """
    folder = LaunchFolder(RunDirectory(run))
    here, attempt = launched(), int(os.environ[ATTEMPT])
    place = {"rank": here.rank if here else 0, "host": socket.gethostname()}
    if here and here.size == 1:
        for name in VARIABLES:
            os.environ.pop(name, None)
    try:
        outcome = _train(folder, earlier)
        for follower in map(LaunchFolder, map(RunDirectory, followers)):
            if outcome.status != "finished":
                break
            try:
                outcome = _train(follower, earlier)
            except UserError as error:
                print(f"error: {follower.run.name}: {error}", file=sys.stderr, flush=True)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        report = RankReport(**place, time=time.time(), status="failed", error=said, kind=kind_of_error(error))
        folder.write_report(attempt, report)
        raise
    status = "finished" if outcome.status == "finished" else "stopped"
    folder.write_report(attempt, RankReport(**place, time=time.time(), status=status, reason=outcome.stopped_by))
    return status


def _train(folder: LaunchFolder, earlier: list[int]) -> Outcome:
    from glm_scale.config import load_config
    from glm_scale.run.train import train

    return train(load_config(folder.config), earlier=earlier)


def main() -> int:
    """A rank that the launcher of this machine has started: `python -m glm_launch.task RUN`."""
    prepare()  # first: it may start the interpreter again
    noted = noted_signals()
    try:
        train_and_tell(Path(sys.argv[1]), noted)
    except Exception as error:
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    return 0


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
