"""Ends runs for good, in SLURM or on this machine."""

from __future__ import annotations

from glm_launch import local, slurm
from glm_launch.checks import is_active
from glm_launch.records import LaunchFolder, Submission
from glm_scale.errors import UserError

__all__ = ["cancel_run"]


def cancel_run(folder: LaunchFolder) -> str:
    """Ask whatever works on a run to save and end, and see to it that nothing starts it again.

    Returns what was done. Raises UserError where that is not possible from here.
    """
    submission = folder.submission()
    if submission is None or not is_active(folder, submission):
        return "nothing works on it"
    before = folder.cancelled.exists()
    # First: whoever sees the job end decides by this whether it was meant to.
    folder.cancel()
    try:
        return _end(folder, submission)
    except UserError:
        if not before:
            folder.cancelled.unlink(missing_ok=True)  # it goes on, and must be started again if need be
        raise


def _end(folder: LaunchFolder, submission: Submission) -> str:
    if submission.kind == "local":
        local.stop(folder, submission)
        return f"process {submission.job} was asked to save and end"
    slurm.cancel(submission.job)
    return f"job {submission.job} is cancelled"
