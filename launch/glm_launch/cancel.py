"""Ends runs for good, in SLURM or on this machine."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from glm_launch import local, slurm
from glm_launch.checks import is_active, pause_of, works
from glm_launch.records import LaunchFolder, Submission
from glm_scale.errors import UserError
from glm_scale.tracking.metrics_log import read_metrics

__all__ = ["cancel_run", "wait_for_end"]

_TOLD_EVERY = 30.0
"""Seconds between two words about a run that takes its time to end."""


def cancel_run(folder: LaunchFolder) -> str:
    """Ask whatever works on a run to save and end, and see to it that nothing starts it again.

    Returns what was done. Raises UserError where that is not possible from here.
    """
    submission = folder.submission()
    if submission is None or not is_active(folder, submission):
        if folder.run.is_locked():
            raise UserError(
                f"{folder.run.path} is trained by `glm-scale train` itself, {folder.run.lock_holder()}: stop it there "
                "by Ctrl-C, or by SIGTERM; it saves first"
            )
        return "nothing works on it"
    before = folder.cancelled.exists()
    if before and submission.kind == "local" and not _goes_on(folder):
        return "was cancelled before, and still saves"  # a second SIGTERM would end it before it has
    # First: whoever sees the job end decides by this whether it was meant to.
    folder.cancel()
    try:
        return _end(folder, submission)
    except UserError:
        if not before:
            folder.cancelled.unlink(missing_ok=True)  # it goes on, and must be started again if need be
        raise


def wait_for_end(folder: LaunchFolder, tell: Callable[[str], None]) -> str:
    """Wait until nobody works on a cancelled run any more; `tell` hears from time to time how it stands.

    Returns how the run stands then.
    """
    begin = told = time.monotonic()
    while works(folder):
        time.sleep(pause_of(folder))
        if time.monotonic() - told >= _TOLD_EVERY:
            told = time.monotonic()
            tell(f"is still saving, after {told - begin:.0f} s")
    saved = max(folder.run.saved_steps(), default=None)
    word = folder.run.status() if folder.run.exists() else "cancelled"
    return f"{word}, {'nothing was saved' if saved is None else f'saved at step {saved}'}"


def _goes_on(folder: LaunchFolder) -> bool:
    """Whether a run has not heard that it was cancelled, though it has trained since: the loop ends with its step."""
    asked = folder.cancelled.stat().st_mtime
    return sum(record.time > asked for record in read_metrics(folder.run.metrics, "train")) > 1


def _end(folder: LaunchFolder, submission: Submission) -> str:
    if submission.kind == "local":
        local.stop(folder, submission)
        done = f"process {submission.job} was asked to save and end"
    else:
        slurm.cancel(submission.job)
        done = f"job {submission.job} is cancelled"
    if folder.run.is_locked():
        return f"{done}, and saves now: wait for it with glm-scale cancel --wait {shlex.quote(str(folder.run.path))}"
    folder.run.conclude("cancelled")  # one that waits in the queue, or for its next attempt, will say nothing itself
    return done
