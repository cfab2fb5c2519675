"""What is asked of SLURM, by its commands: where jobs stand, and to end or requeue them."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from glm_scale.errors import UserError

__all__ = ["JobState", "cancel", "job_details", "job_states", "minutes_of", "release", "requeue", "run_slurm"]

_PATIENCE = 30.0
_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d\d)(?::(?P<seconds>\d\d))?")
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY",
                   "BOOT_FAIL", "DEADLINE"})  # fmt: skip
"""States of a job that SLURM is done with. With requeuing, NODE_FAIL and PREEMPTED are passed through only."""


@dataclass(frozen=True)
class JobState:
    """Where a job stands: SLURM's word for it, its reason if it waits, and on which nodes it is."""

    word: str
    reason: str = ""
    nodes: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return self.word in ENDED


def run_slurm(*command: str, patience: float = _PATIENCE) -> str:
    """The output of one of SLURM's commands. Raises UserError if it is not here, fails, or does not answer."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"{command[0]} is not on this machine: run this on a login node of a SLURM cluster, or use --local N to "
            "train on this machine"
        )
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} has not answered within {patience:.0f} s; is SLURM's controller up?") from None
    if answer.returncode:
        raise UserError(f"{command[0]} failed: {(answer.stderr or answer.stdout).strip()}")
    return answer.stdout


def job_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """States of those of the jobs that SLURM still knows, by id; one call for all. Works without accounting.

    Raises UserError if SLURM does not answer.
    """
    wanted = set(jobs)
    if not wanted:
        return {}
    found = _queued(wanted)
    return found | _accounted(wanted - found.keys())


def _queued(wanted: set[str]) -> dict[str, JobState]:
    # Asked for by user, not by id: squeue fails if one of several ids is unknown to it.
    listing = run_slurm("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r|%N")
    found = {}
    for line in listing.splitlines():
        job, word, reason, nodes = line.split("|", 3)
        if job in wanted:
            found[job] = JobState(word, "" if reason == "None" else reason, nodes)
    return found


def _accounted(wanted: set[str]) -> dict[str, JobState]:
    """Of jobs that the controller has forgotten; nothing where there is no accounting."""
    if not wanted:
        return {}
    try:
        listing = run_slurm(
            "sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,NodeList",
            f"--jobs={','.join(sorted(wanted))}",
        )  # fmt: skip
    except UserError:
        return {}
    found = {}
    for line in listing.splitlines():
        job, word, nodes = line.split("|", 2)
        if job in wanted and word:
            found[job] = JobState(word.split()[0], nodes=nodes)  # "CANCELLED by 1000"
    return found


def job_details(job: str) -> Mapping[str, str]:
    """What `scontrol show job` tells, by its names; empty if it tells nothing."""
    try:
        text = run_slurm("scontrol", "show", "job", "--oneliner", job)
    except UserError:
        return {}
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def cancel(job: str) -> None:
    """Raises UserError if SLURM refuses."""
    run_slurm("scancel", job)


def requeue(job: str, *, hold: bool = False) -> None:
    """End a job and put it back into the queue, where it may be held until it is released.

    It may be the one that asks: SLURM then ends what asks by SIGTERM. Raises UserError if SLURM refuses.
    """
    run_slurm("scontrol", "requeuehold" if hold else "requeue", job)


def release(job: str, delay: float) -> None:
    """Let a held job start, but not before `delay` seconds from now. Raises UserError if SLURM refuses."""
    begin = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + delay))
    run_slurm("scontrol", "update", f"JobId={job}", f"StartTime={begin}")
    run_slurm("scontrol", "release", job)


def minutes_of(duration: str | int) -> int:
    """Minutes of a SLURM duration: "90", "4:00:00", "2-12:00:00". Raises ValueError for what is none."""
    text = str(duration)
    if text.isdigit():
        return int(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: minutes (90), hours:minutes:seconds (4:00:00) or 2-12:00:00")
    days, hours, minutes, seconds = (int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)
