"""What a job does before its processes start and when they have ended: keeps the history, and decides what comes next.

    attempt=$(python -m glm_launch.after begin FOLDER)
    srun …
    python -m glm_launch.after end FOLDER $?

FOLDER holds the list of runs of the submission; of an array, each job takes its own. The exit code of `end` is that of
the job: 0 unless it failed for good. This module imports nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from glm_launch.causes import REQUEUED, Cause, cause_of_attempt
from glm_launch.records import Attempt, Beginning, End, LaunchFolder, Submission
from glm_launch.restarts import Decision, decide
from glm_launch.slurm import job_details, minutes_of, release, requeue
from glm_scale.errors import UserError
from glm_scale.output import prepare_output
from glm_scale.run_directory import RunDirectory

__all__ = ["RUNS", "begin", "end", "newest_step", "runs_of"]

RUNS = "runs.txt"
"""In the folder of a submission: its runs, a line each."""

_EARLY = 60.0
"""Seconds by which SLURM may warn of a time limit too early."""

_PATIENCE, _PAUSE = 600.0, 5.0
"""Seconds in which SLURM's controller has to answer, and between two questions."""

_REQUEUED_SOON = 60.0
"""Seconds in which SLURM puts a job back into the queue that has asked for it."""


def runs_of(folder: Path) -> list[LaunchFolder]:
    """The runs of a submission, in the order of its list."""
    return [
        LaunchFolder(RunDirectory(line))
        for line in (folder / RUNS).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    ]


def begin(folder: LaunchFolder, job: str, nodes: str) -> int:
    """Note that an attempt begins; returns its number."""
    attempts = folder.attempts()
    number = attempts[-1].beginning.attempt + 1 if attempts else 1
    step = newest_step(folder)
    folder.note(Beginning(attempt=number, time=time.time(), job=job, nodes=nodes, step=step))
    return number


def end(folder: LaunchFolder, submission: Submission, code: int, scheduler: Cause | None = None) -> Decision:
    """Note how the attempt that runs has ended, and what is decided."""
    *before, attempt = folder.attempts()
    number = attempt.beginning.attempt
    step = newest_step(folder)
    cause = cause_of_attempt(
        code,
        folder.reports(number),
        processes=submission.processes,
        made_steps=_made_steps(folder, attempt),
        scheduler=Cause("cancelled", "cancelled") if folder.cancelled.exists() else scheduler,
    )
    decision = decide(cause, step, before, retries=submission.retries, retry_delay=submission.retry_delay)
    words = f"{cause.words} ({decision.why})" if decision.why else cause.words
    folder.note(
        End(
            attempt=number, time=time.time(), kind=cause.kind, cause=words, step=step,
            decided=decision.action, delay=decision.delay,
        )
    )  # fmt: skip
    if decision.action == "give up":
        folder.run.conclude("failed")
    elif cause.kind == "cancelled":
        folder.run.conclude("cancelled")
    return decision


def newest_step(folder: LaunchFolder) -> int:
    """The step of the newest checkpoint that was saved whole; 0 if there is none."""
    return max(folder.run.saved_steps(), default=0)


def _made_steps(folder: LaunchFolder, attempt: Attempt) -> bool:
    """Whether something was measured since the attempt began."""
    metrics = folder.run.metrics
    return metrics.exists() and metrics.stat().st_mtime > attempt.beginning.time


def what_slurm_did(details: Mapping[str, str], now: float) -> Cause | None:
    """Why SLURM ends a job, or has asked it to end; None if it did not. `details`: as `job_details` gives them.

    SLURM does not tell a cancelled job from one whose time is over while its script still runs: both are COMPLETING.
    """
    if details.get("PreemptTime", "None") not in ("None", ""):
        return Cause("stopped", "preempted")
    if _is_requeued(details):
        return Cause("stopped", REQUEUED)
    left = _seconds_left(details, now)
    if details.get("JobState", "").startswith(("COMPLETING", "CANCELLED")) and left > 0:
        return Cause("cancelled", "cancelled")
    if left < float(os.environ.get("GLM_LAUNCH_LEAD", "0")) + _EARLY:
        return Cause("stopped", "time limit")
    return None


def _is_requeued(details: Mapping[str, str]) -> bool:
    return int(details.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _seconds_left(details: Mapping[str, str], now: float) -> float:
    """Of the time limit. What SLURM calls the end of a job is, once it ends it, the time at which it does so."""
    try:
        begin = datetime.fromisoformat(details.get("StartTime", "Unknown")).timestamp()
        return begin + 60 * minutes_of(details.get("TimeLimit", "UNLIMITED")) - now
    except ValueError:
        return float("inf")


def main() -> int:
    """What the batch script calls; returns the exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m glm_launch.after", description=__doc__)
    parser.add_argument("what", choices=["begin", "end"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    asked = parser.parse_args()
    prepare_output()
    folder = runs_of(asked.folder)[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    job = os.environ["SLURM_JOB_ID"]
    if asked.what == "begin":
        if folder.cancelled.exists():
            print(f"{folder.run.path} was cancelled", file=sys.stderr)
            return 1
        print(begin(folder, job, os.environ.get("SLURM_JOB_NODELIST", "")))
        return 0
    submission = folder.submission()
    assert submission is not None
    return _carry_out(end(folder, submission, asked.code, what_slurm_did(job_details(job), time.time())), job)


def _carry_out(decision: Decision, job: str) -> int:
    print(f"{decision.action}{f': {decision.why}' if decision.why else ''}", flush=True)
    if decision.action != "restart":
        return int(decision.action == "give up")
    if _is_requeued(job_details(job)):
        return 0
    try:
        _insist(lambda: _requeue_once(job, hold=decision.delay > 0))
        if decision.delay > 0:
            _insist(lambda: release(job, decision.delay))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # If this script came to its end before the job is in the queue again, the job might pass for completed.
    deadline = time.monotonic() + _REQUEUED_SOON
    while not _is_requeued(job_details(job)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return 1


def _requeue_once(job: str, *, hold: bool) -> None:
    """An answer that did not arrive does not mean that nothing was done."""
    if not _is_requeued(job_details(job)):
        requeue(job, hold=hold)


def _insist(ask: Callable[[], None]) -> None:
    """Ask SLURM until it does: a controller that restarts must not cost the run. Raises UserError if it never does."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return ask()
        except UserError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


if __name__ == "__main__":
    sys.exit(main())
