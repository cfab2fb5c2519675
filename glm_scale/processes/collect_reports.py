"""Gets a report from every rank of a launch, whatever state the rank is in."""

from __future__ import annotations

import signal
import socket

from glm_scale.processes.failures import Death
from glm_scale.processes.rank_processes import RankProcesses
from glm_scale.processes.reports import Report, hang_path, parse_stacks, read_report, stacks_path

__all__ = ["hear", "someone_hangs"]

_ANSWER, _STACKS = 5.0, 2.0
"""Seconds for the watchdogs of all ranks to report, and for the interpreters of those that did not."""


def someone_hangs(ranks: RankProcesses) -> bool:
    """Whether a rank has left a report."""
    return len(_unheard(ranks)) < ranks.count


def hear(ranks: RankProcesses) -> tuple[dict[int, Report], dict[int, str]]:
    """Reports by rank, and for ranks that did not report by themselves the reason.

    A watchdog is a thread, which cannot run where the main thread keeps the interpreter to itself. The handler of
    SIGQUIT can: it writes the stacks, but nothing else.
    """
    ranks.ask()
    ranks.wait(lambda: not set(_unheard(ranks)) & set(ranks.living), _ANSWER)
    unheard = _unheard(ranks)
    reports = {rank: read_report(hang_path(ranks.logs, rank)) for rank in range(ranks.count) if rank not in unheard}
    # Without a watchdog it would die of the signal.
    stuck = [rank for rank in ranks.living if rank in unheard and stacks_path(ranks.logs, rank).exists()]
    ranks.send(signal.SIGQUIT, stuck)
    ranks.wait(lambda: all(_stacks(ranks, rank) for rank in stuck), _STACKS)
    silent = {}
    for rank in unheard:
        stacks = _stacks(ranks, rank)
        if rank in ranks.ended:
            silent[rank] = f"has ended with exit code {Death(rank, ranks.ended[rank]).exit_code}"
        elif rank not in stuck:
            silent[rank] = "has not come to training"
        elif not stacks:
            silent[rank] = "does not answer, as if it were stopped"
        else:
            silent[rank] = "does not let go of the Python interpreter"
            reports[rank] = Report(
                rank, socket.gethostname(), ranks.pid(rank), "unknown", 0.0, (), parse_stacks(stacks)
            )
    return {rank: report for rank, report in reports.items() if report}, silent


def _unheard(ranks: RankProcesses) -> list[int]:
    return [rank for rank in range(ranks.count) if not hang_path(ranks.logs, rank).exists()]


def _stacks(ranks: RankProcesses, rank: int) -> str:
    path = stacks_path(ranks.logs, rank)
    return path.read_text(encoding="utf-8") if path.exists() else ""
