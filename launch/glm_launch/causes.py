"""Why an attempt ended: told by the processes that could still tell, by the exit code of the whole, and by SLURM."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from glm_launch.records import EndKind, RankReport
from glm_scale.errors import PassingError, UserError
from glm_scale.processes import HANG_EXIT_CODE
from glm_scale.processes.failures import Death

__all__ = ["REQUEUED", "Cause", "cause_of_attempt", "kind_of_error"]

REQUEUED = "requeued from outside"

# Named, not imported: the batch script asks too, and has no time to import torch.
_CONSEQUENCES = ("LostRankError", "OtherRankError")
_MISTAKES = ("DataError", "PatternError")
_OUT_OF_MEMORY = ("OutOfMemoryError",)

ErrorKind = Literal["transient", "deterministic", "memory", "consequence", "unknown"]


@dataclass(frozen=True)
class Cause:
    """How an attempt counts, and why it ended, in words."""

    kind: EndKind
    words: str


def kind_of_error(error: BaseException) -> ErrorKind:
    """Whether a restart would meet an error again.

    "consequence": another process failed, which tells more. "memory": deterministic unless steps were made before.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {*_CONSEQUENCES} or Death(0, 1, f"{type(error).__name__}: {error}").is_consequence:
        return "consequence"
    if names & {*_OUT_OF_MEMORY}:
        return "memory"
    if isinstance(error, PassingError | OSError):
        return "transient"
    if isinstance(error, UserError) or names & {*_MISTAKES}:
        return "deterministic"
    return "unknown"


def cause_of_attempt(
    code: int, reports: Sequence[RankReport], *, processes: int, made_steps: bool, scheduler: Cause | None = None
) -> Cause:
    """Why an attempt ended.

    code: of all its processes together, 128 + number for a signal. reports: in order of time. scheduler: what SLURM
    says it did to the job; None if it did nothing.
    """
    finished = [report for report in reports if report.status == "finished"]
    stopped = [report for report in reports if report.status == "stopped"]
    failed = [report for report in reports if report.status == "failed"]
    if code == 0 and len(finished) == processes:
        return Cause("finished", "finished")
    if scheduler is not None and scheduler.kind == "cancelled":
        return scheduler
    if own := [report for report in failed if report.kind != "consequence"]:
        return _cause_of_failure(own[0], made_steps)
    if len(stopped) == processes:
        return Cause("stopped", f"{_why_stopped(stopped[0].reason, scheduler)}; saved in time")
    if scheduler is not None:
        return scheduler
    return Cause("transient", _of_the_missing(code, reports, processes))


def _why_stopped(reason: str, scheduler: Cause | None) -> str:
    """SLURM warns by SIGUSR2, of the time limit and of preemption; after the latter it requeues by itself."""
    if scheduler is None:
        return f"asked to stop by {reason}"
    return "preempted" if reason == "SIGUSR2" and scheduler.words == REQUEUED else scheduler.words


def _cause_of_failure(report: RankReport, made_steps: bool) -> Cause:
    where = f"rank {report.rank} on {report.host}"
    if report.kind == "memory":
        kind: EndKind = "transient" if made_steps else "deterministic"
        return Cause(
            kind, f"out of memory {'after' if made_steps else 'before'} the first step, {where}: {report.error}"
        )
    known: EndKind = report.kind if report.kind in ("transient", "deterministic") else "unknown"
    return Cause(known, f"{where}: {report.error}")


def _of_the_missing(code: int, reports: Sequence[RankReport], processes: int) -> str:
    """Some processes have ended without a word, or with one about others only."""
    if code == HANG_EXIT_CODE:
        return "training hung; where its ranks stood is in the folder ranks"
    missing = sorted({*range(processes)} - {report.rank for report in reports})
    # Those that one takes along when it dies may have no time for a word either.
    who = f"rank {missing[0]}" if len(missing) == 1 else f"one of {processes} ranks"
    if code > 128 and code - 128 in {*signal.Signals}:
        hint = " (memory of the machine?)" if code == 128 + signal.SIGKILL else ""
        return f"{who} killed by {signal.Signals(code - 128).name}{hint}"
    return f"{who} ended without a word, exit code {code}"
