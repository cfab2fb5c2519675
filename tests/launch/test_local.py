"""`glm-scale submit --local 2`: a supervisor in the background and two processes that train, disturbed and not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glm_launch import status
from glm_launch.records import Beginning, End, LaunchFolder, Submission
from glm_launch.status import RunState, states_of
from glm_scale.locking import is_held
from tests.launch.conftest import Command, Place
from tests.slurm.processes import with_environment
from tests.tiny_run import LENGTH

STEPS = 40
_PATIENCE = 100.0
"""Seconds; machines of tests are busy."""

# Imported by every process at its start: where it trains, a step takes longer as long as the file TEST_SLOW is there.
_SLOW = """
import os, sys, threading, time

def slow_down():
    while (loop := sys.modules.get("glm_scale.training.loop")) is None or not hasattr(loop, "Trainer"):
        time.sleep(0.02)
    rate = loop.Trainer.learning_rate

    def slowed(self):
        time.sleep(0.1 if os.path.exists(os.environ["TEST_SLOW"]) else 0)
        return rate(self)

    loop.Trainer.learning_rate = slowed

if "glm_launch.task" in sys.orig_argv:
    threading.Thread(target=slow_down, daemon=True).start()
"""


@pytest.fixture
def slow(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file; as long as it is there, the run `tiny` is slow. Whatever works on the run is ended with the test."""
    place.config(
        training={"tokens": STEPS * 4 * LENGTH}, evaluation={"every": None}, checkpoint={"every": 5, "keep": 9}
    )
    modules = place.folder / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(_SLOW)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH", "")])))
    monkeypatch.setenv("TEST_SLOW", str(place.folder / "slow"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "GLM_LAUNCH_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    yield place.folder / "slow"
    for process in with_environment({"TEST_SLOW": str(place.folder / "slow")}):
        os.kill(process.pid, signal.SIGKILL)


def wait_until(launch: LaunchFolder, true: Callable[[RunState], object]) -> RunState:
    deadline = time.monotonic() + _PATIENCE
    while True:
        (found,), remark = states_of([launch.run])
        assert not remark
        if true(found):
            return found
        assert time.monotonic() < deadline, (found, launch.supervisor_log.read_text())
        time.sleep(0.1)


def ended(launch: LaunchFolder) -> RunState:
    """The state of a run when its supervisor has gone, told after it has."""
    wait_until(launch, lambda run: not is_held(launch.supervisor_lock))
    return wait_until(launch, lambda run: True)


def test_a_run_trains_on_two_processes_to_its_end(slow: Path, place: Place, glm: Command) -> None:
    launch = place.launch()
    code, told = glm("submit", "tiny.yaml", "--local", 2)
    assert code == 0
    assert f"on this machine: 2 processes train in {launch.run.path}\n" in told
    found = ended(launch)
    assert (found.state, found.step, found.checkpoint, found.restarts) == ("finished", STEPS, STEPS, ())
    (attempt,) = launch.attempts()
    assert attempt.end is not None
    assert (attempt.end.kind, attempt.end.decided) == ("finished", "done")
    assert sorted(report.rank for report in launch.reports(1)) == [0, 1]
    code, told = glm("status", "runs/tiny")
    assert (code, "finished" in told) == (0, True)


def test_a_run_that_loses_a_rank_goes_on_from_its_checkpoint(slow: Path, place: Place, glm: Command) -> None:
    launch = place.launch()
    slow.touch()
    assert glm("submit", "tiny.yaml", "--local", 2, "--retry-delay", 0)[0] == 0
    wait_until(launch, lambda run: run.state == "running" and run.checkpoint)
    (victim,) = with_environment({"TEST_SLOW": str(slow), "RANK": "1", "GLM_LAUNCH_ATTEMPT": "1"})
    os.kill(victim.pid, signal.SIGKILL)
    slow.unlink()
    found = ended(launch)
    assert (found.state, found.step) == ("finished", STEPS)
    first, second = launch.attempts()
    assert first.end is not None
    assert (first.end.kind, first.end.decided, first.end.delay) == ("transient", "restart", 0)
    assert first.end.cause == "rank 1 killed by SIGKILL (memory of the machine?)"
    assert found.restarts == (first.end.cause,)
    assert second.beginning.step == first.end.step >= 5


def test_a_cancelled_run_saves_and_is_resumed(slow: Path, place: Place, glm: Command) -> None:
    launch = place.launch()
    slow.touch()
    assert glm("submit", "tiny.yaml", "--local", 2, "--retry-delay", 0)[0] == 0
    wait_until(launch, lambda run: run.state == "running" and run.step >= 2)
    assert "was asked to save and end" in glm("cancel", "runs/tiny")[1]
    saved = ended(launch)
    assert saved.state == "cancelled"
    assert len(launch.attempts()) == 1
    # Where it was, not where it would have saved anyway.
    assert saved.checkpoint == saved.step
    assert 2 <= saved.step < STEPS
    slow.unlink()
    assert glm("resume", "runs/tiny")[0] == 0
    found = ended(launch)
    assert (found.state, found.step) == ("finished", STEPS)
    assert launch.attempts()[1].beginning.step == saved.checkpoint
    assert not launch.cancelled.exists()


def test_a_run_that_ends_while_it_is_asked_about_is_not_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its supervisor notes the end of the last attempt, and is gone, at the worst moment."""
    launch = place.launch()
    launch.run.create()
    launch.path.mkdir()
    launch.write_submission(
        Submission(kind="local", job="1", host="here", folder=launch.path, working_directory=place.folder, submitted=0)
    )
    launch.note(Beginning(attempt=1, time=0, job="1", nodes="here", step=0))

    def ends(path: Path) -> bool:
        launch.note(End(attempt=1, time=1, kind="finished", cause="finished", step=6, decided="done"))
        return False

    monkeypatch.setattr(status, "is_held", ends)
    (found,), _ = states_of([launch.run])
    assert found.state == "finished"
