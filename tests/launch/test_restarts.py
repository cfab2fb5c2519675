"""Why an attempt ended, and whether the run is started again."""

from __future__ import annotations

import errno
import os
import signal
from datetime import datetime

import pytest

from glm_data import DataError
from glm_launch.after import what_slurm_did
from glm_launch.causes import REQUEUED, Cause, cause_of_attempt, kind_of_error
from glm_launch.records import Attempt, Beginning, End, EndKind, RankReport
from glm_launch.restarts import Decision, decide
from glm_scale.errors import PassingError, UserError
from glm_scale.processes import HANG_EXIT_CODE


class LostRankError(RuntimeError):
    """Stands for that of glm_scale.training.ranks, which is known by its name."""


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("wrong"), "deterministic"),
        (DataError("wrong"), "deterministic"),
        (PassingError("locked"), "transient"),
        (OSError(errno.EIO, "bad disk"), "transient"),
        (OutOfMemoryError("full"), "memory"),
        (LostRankError("gone"), "consequence"),
        (RuntimeError("Connection closed by peer"), "consequence"),
        (ValueError("?"), "unknown"),
    ],
)
def test_errors_that_a_restart_would_meet_again(error: Exception, kind: str) -> None:
    assert kind_of_error(error) == kind


def report(rank: int, status: str = "failed", kind: str = "unknown", reason: str = "") -> RankReport:
    failed = status == "failed"
    told = {"error": "Error: x" if failed else "", "kind": kind if failed else "", "reason": reason}
    return RankReport.model_validate({"rank": rank, "host": "n1", "time": float(rank), "status": status, **told})


LOST = report(0, kind="consequence")
FINISHED = [report(0, "finished"), report(1, "finished")]
WARNED = [report(0, "stopped", reason="SIGUSR2"), report(1, "stopped", reason="SIGUSR2")]


@pytest.mark.parametrize(
    ("code", "reports", "scheduler", "kind", "words"),
    [
        (0, FINISHED, None, "finished", "finished"),
        (0, FINISHED, Cause("stopped", "time limit"), "finished", "finished"),
        (0, FINISHED[:1], None, "transient", "rank 1 ended without a word, exit code 0"),
        (0, WARNED, Cause("stopped", "preempted"), "stopped", "preempted; saved in time"),
        (0, WARNED, Cause("stopped", REQUEUED), "stopped", "preempted; saved in time"),
        (0, WARNED, Cause("stopped", "time limit"), "stopped", "time limit; saved in time"),
        (0, WARNED, None, "stopped", "asked to stop by SIGUSR2; saved in time"),
        (0, WARNED, Cause("cancelled", "cancelled"), "cancelled", "cancelled"),
        (143, [], Cause("stopped", "time limit"), "stopped", "time limit"),
        (137, [LOST], None, "transient", "rank 1 killed by SIGKILL (memory of the machine?)"),
        (137, [], None, "transient", "one of 2 ranks killed by SIGKILL (memory of the machine?)"),
        (139, [report(1, kind="consequence")], None, "transient", "rank 0 killed by SIGSEGV"),
        (HANG_EXIT_CODE, [], None, "transient", "training hung; where its ranks stood is in the folder ranks"),
        (1, [LOST, report(1, kind="deterministic")], None, "deterministic", "rank 1 on n1: Error: x"),
        (1, [report(0), report(1, kind="deterministic")], None, "unknown", "rank 0 on n1: Error: x"),
        (1, [report(0, kind="transient")], Cause("stopped", "time limit"), "transient", "rank 0 on n1: Error: x"),
    ],
)  # fmt: skip
def test_the_cause_of_an_attempt(
    code: int, reports: list[RankReport], scheduler: Cause | None, kind: EndKind, words: str
) -> None:
    found = cause_of_attempt(code, reports, processes=2, made_steps=True, scheduler=scheduler)
    assert found == Cause(kind, words)


@pytest.mark.parametrize(("made_steps", "kind"), [(False, "deterministic"), (True, "transient")])
def test_memory_that_is_too_small_from_the_first_step_on_does_not_grow(made_steps: bool, kind: str) -> None:
    found = cause_of_attempt(1, [report(0, kind="memory")], processes=2, made_steps=made_steps)
    assert found.kind == kind


def attempts(*ends: tuple[EndKind, int] | None, cause: str = "x") -> list[Attempt]:
    found = []
    for number, end in enumerate(ends, 1):
        begin = Beginning(attempt=number, time=0, job="1", nodes="", step=0)
        over = end and End(attempt=number, time=1, kind=end[0], cause=cause, step=end[1], decided="restart")
        found.append(Attempt(beginning=begin, end=over))
    return found


def ended(kind: EndKind, step: int) -> list[tuple[EndKind, int]]:
    """One attempt, to be multiplied."""
    return [(kind, step)]


TRANSIENT = Cause("transient", "y")


@pytest.mark.parametrize(
    ("cause", "before", "action", "delay"),
    [
        (Cause("finished", ""), [], "done", 0),
        (Cause("cancelled", ""), [], "done", 0),
        (Cause("deterministic", ""), [], "give up", 0),
        (Cause("stopped", ""), attempts(("stopped", 10)), "restart", 0),
        (Cause("stopped", ""), attempts(*5 * ended("stopped", 10)), "give up", 0),
        (Cause("stopped", ""), attempts(*5 * ended("stopped", 9)), "restart", 0),
        (TRANSIENT, [], "restart", 30),
        (TRANSIENT, attempts(("transient", 10)), "restart", 60),
        (TRANSIENT, attempts(("transient", 10), ("transient", 10)), "restart", 120),
        (TRANSIENT, attempts(*3 * ended("transient", 10)), "give up", 0),
        (TRANSIENT, attempts(*3 * ended("transient", 9)), "restart", 30),
        (TRANSIENT, attempts(("transient", 10), None, ("transient", 10), None), "restart", 120),
        (TRANSIENT, attempts(("transient", 10), ("stopped", 10)), "restart", 30),
        (TRANSIENT, attempts(("transient", 10), cause="y"), "restart", 60),
        (Cause("unknown", "y"), attempts(("unknown", 10), cause="y"), "give up", 0),
        (Cause("unknown", "y"), attempts(("unknown", 10), cause="z"), "restart", 60),
        (Cause("unknown", "y"), attempts(("unknown", 9), cause="y"), "restart", 30),
    ],
)
def test_decisions(cause: Cause, before: list[Attempt], action: str, delay: float) -> None:
    found = decide(cause, 10, before, retries=3, retry_delay=30)
    assert (found.action, found.delay) == (action, delay)


def test_the_delay_is_bounded() -> None:
    before = attempts(*8 * ended("transient", 10))
    assert decide(TRANSIENT, 10, before, retries=20, retry_delay=30) == Decision("restart", 900)


NOW = 1_700_000_000.0


def details(**changes: str) -> dict[str, str]:
    begin = datetime.fromtimestamp(NOW - 600).isoformat(timespec="seconds")
    usual = {"JobState": "RUNNING", "Restarts": "0", "PreemptTime": "None", "TimeLimit": "04:00:00"}
    return {**usual, "StartTime": begin, **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"PreemptTime": "2026-01-01T00:00:00"}, Cause("stopped", "preempted")),
        ({"Restarts": "1", "JobState": "PENDING"}, Cause("stopped", REQUEUED)),
        ({"JobState": "COMPLETING"}, Cause("cancelled", "cancelled")),
        ({"JobState": "COMPLETING", "TimeLimit": "00:09:00"}, Cause("stopped", "time limit")),
        ({"TimeLimit": "00:12:00"}, Cause("stopped", "time limit")),
        ({"TimeLimit": "00:20:00"}, None),
        ({"TimeLimit": "UNLIMITED"}, None),
    ],
)
def test_what_slurm_did(changes: dict[str, str], expected: Cause | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_LAUNCH_LEAD", "120")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert what_slurm_did(details(**changes), NOW) == expected
    assert what_slurm_did({}, NOW) is None


def test_signals_before_training_are_noted_and_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    from glm_launch.task import noted_signals
    from glm_scale.training.signals import StopRequest

    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        noted = noted_signals()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert noted == [signal.SIGUSR2]
        with StopRequest(earlier=noted) as stop:
            assert stop
            assert stop.reason == "SIGUSR2"
        with StopRequest(earlier=[]) as stop:
            assert not stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
