"""The same on this machine: a supervisor in the background starts the ranks, and starts them again where that helps.

python -m glm_launch.local RUN
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from glm_launch.after import begin, end
from glm_launch.records import LaunchFolder, Submission
from glm_launch.snapshot import snapshot_code, snapshot_config
from glm_launch.task import ATTEMPT
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.locking import FileLock, is_held
from glm_scale.processes import launch
from glm_scale.run_directory import RunDirectory
from glm_scale.startup import prepare

__all__ = ["start", "stop", "supervise"]

_START = 20.0
"""Seconds for a supervisor to take its lock."""


def start(config: RunConfig, processes: int, *, retries: int, retry_delay: float) -> Submission:
    """Start a supervisor that outlives this command and its terminal. Raises UserError if it does not come up."""
    folder = LaunchFolder(RunDirectory(config.run_root / config.name).create())
    folder.path.mkdir(exist_ok=True)
    folder.cancelled.unlink(missing_ok=True)
    snapshot_config(config, folder.config)
    code = folder.path / "code"
    snapshot_code(code)
    paths = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH", "")]))
    submission = Submission(
        kind="local", job="0", host=socket.gethostname(), folder=folder.path, tasks_per_node=processes,
        working_directory=Path.cwd(), submitted=time.time(), retries=retries, retry_delay=retry_delay,
    )  # fmt: skip
    folder.write_submission(submission)
    before = len(folder.attempts())
    with folder.supervisor_log.open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "glm_launch.local", str(folder.run.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
    submission = submission.model_copy(update={"job": str(supervisor.pid)})
    folder.write_submission(submission)
    deadline = time.monotonic() + _START
    while not is_held(folder.supervisor_lock):
        if supervisor.poll() is not None and len(folder.attempts()) == before:
            raise UserError(f"the supervisor of {folder.run.path} ended at once; why is in {folder.supervisor_log}")
        if supervisor.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return submission


def stop(folder: LaunchFolder, submission: Submission) -> None:
    """Ask the supervisor to end the run. Raises UserError if it is on another machine."""
    if submission.host != socket.gethostname():
        raise UserError(f"{folder.run.path} is supervised on {submission.host}; run this command there")
    if is_held(folder.supervisor_lock):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(submission.job), signal.SIGTERM)


def supervise(folder: LaunchFolder, submission: Submission) -> int:
    """Attempt after attempt until the run has come to its end, one way or the other. Returns 0 unless it failed."""
    with FileLock(folder.supervisor_lock, "supervising"):
        while not folder.cancelled.exists():
            number = begin(folder, submission.job, submission.host)
            code = _attempt(folder, submission, number)
            decision = end(folder, submission, code)
            print(f"attempt {number}: {decision.action} {decision.why}", flush=True)
            if decision.action != "restart":
                return int(decision.action == "give up")
            _sleep(folder, decision.delay)
    return 0


def _attempt(folder: LaunchFolder, submission: Submission, number: int) -> int:
    os.environ[ATTEMPT] = str(number)
    logs = folder.attempt(number)
    logs.mkdir(parents=True, exist_ok=True)
    return launch([sys.executable, "-m", "glm_launch.task", str(folder.run.path)], submission.tasks_per_node, logs=logs)


def _sleep(folder: LaunchFolder, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not folder.cancelled.exists():
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def main() -> int:
    """Supervise a run on this machine; returns the exit code."""
    prepare()
    folder = LaunchFolder(RunDirectory(sys.argv[1]))
    submission = folder.submission()
    assert submission is not None
    # Between two attempts there is nobody to pass them on to.
    signal.signal(signal.SIGTERM, _note_only)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return supervise(folder, submission)


def _note_only(number: int, frame: FrameType | None) -> None:
    print(f"{signal.Signals(number).name}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
