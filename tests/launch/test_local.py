"""`glm-scale submit --local`: one run on two processes of this machine, to which everything happens that may."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from glm_launch import local
from glm_launch.records import LaunchFolder
from glm_launch.status import RunState, states_of
from glm_scale.locking import is_held
from glm_scale.run_directory import RunDirectory
from tests.launch.conftest import Command, Place
from tests.slurm.processes import with_environment
from tests.tiny_run import LENGTH

STEPS = 60

# Imported by every process at its start: where it trains, a step takes longer as long as there is a file.
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
def launch(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaunchFolder]:
    """A run that is slow as long as the file `slow` is there. Whatever works on it is ended with the test."""
    place.config(
        training={"tokens": STEPS * 4 * LENGTH}, evaluation={"every": None}, checkpoint={"every": 5, "keep": 9}
    )
    modules = place.folder / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(_SLOW)
    (place.folder / "slow").touch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH", "")])))
    monkeypatch.setenv("TEST_SLOW", str(place.folder / "slow"))
    for name in ("RANK", "WORLD_SIZE", "GLM_LAUNCH_ATTEMPT"):
        monkeypatch.delenv(name, raising=False)
    yield place.launch()
    for process in with_environment({"TEST_SLOW": str(place.folder / "slow")}):
        os.kill(process.pid, signal.SIGKILL)


def state(launch: LaunchFolder) -> RunState:
    (found,), remark = states_of([launch.run])
    assert not remark
    return found


# The first run on a machine compiles an operation of DeepSpeed's.
def wait_until(launch: LaunchFolder, true: Callable[[RunState], object], seconds: float = 240) -> RunState:
    deadline = time.monotonic() + seconds
    while not true(found := state(launch)):
        assert time.monotonic() < deadline, (found, launch.supervisor_log.read_text())
        time.sleep(0.1)
    return found


@pytest.mark.timeout(900)
def test_a_run_that_loses_a_rank_is_cancelled_and_resumed(place: Place, launch: LaunchFolder, glm: Command) -> None:
    code, told = glm("submit", "tiny.yaml", "--local", 2, "--retry-delay", 0)
    assert code == 0
    assert told.splitlines()[0].endswith(f"on this machine: 2 processes train in {launch.run.path}")
    # A rank dies.
    wait_until(launch, lambda run: run.state == "running" and run.checkpoint)
    # What a rank starts has its environment.
    found = {process.pid: process for process in with_environment({"TEST_SLOW": os.environ["TEST_SLOW"], "RANK": "1"})}
    (victim,) = (pid for pid, process in found.items() if process.parent not in found)
    os.kill(victim, signal.SIGKILL)
    running = wait_until(launch, lambda run: run.state == "running" and run.restarts)
    assert running.restarts == ("rank 1 killed by SIGKILL (memory of the machine?)",)
    assert launch.attempts()[1].beginning.step >= 5
    assert "belongs to process" in glm("resume", "runs/tiny")[1]
    # It is cancelled.
    assert "was asked to save and end" in glm("cancel", "runs/tiny")[1]
    saved = wait_until(launch, lambda run: run.state == "cancelled")
    assert not is_held(launch.supervisor_lock)
    assert len(launch.attempts()) == 2
    assert saved.checkpoint == saved.step < STEPS
    (launch.path / "code" / "glm_launch" / "old").touch()
    # It is resumed, under another name.
    (place.folder / "slow").unlink()
    launch = LaunchFolder(RunDirectory(launch.run.path.rename(launch.run.path.with_name("renamed"))))
    code, told = glm("resume", "runs/renamed", "--dry-run")
    assert (code, state(launch).state) == (0, "cancelled")
    code, told = glm("resume", "runs/renamed")
    assert (code, f"goes on as {launch.run.path}" in told) == (0, True), told
    finished = wait_until(launch, lambda run: run.state.startswith(("finished", "failed", "killed")))
    assert (finished.state, finished.step, finished.checkpoint) == ("finished", STEPS, STEPS)
    assert finished.restarts[1].startswith("cancelled")
    assert launch.attempts()[2].beginning.step == saved.checkpoint
    assert not (launch.path / "code" / "glm_launch" / "old").exists()
    lines = [json.loads(line) for line in launch.run.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, STEPS + 1))
    assert "attempt 3: done" in glm("logs", "runs/renamed", "--batch")[1]


def test_a_supervisor_that_does_not_start_is_told_of(
    place: Place, launch: LaunchFolder, glm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    for _ in range(2):
        code, told = glm("submit", "tiny.yaml", "--local", 2)
        assert (code, "ended at once; why is in" in told) == (2, True)
        # As if it had been tried before.
        local.begin(launch, "1", "here")


def test_what_cannot_start_here(place: Place, launch: LaunchFolder, glm: Command) -> None:
    before = place.files()
    for wrong in (["--vary", "training.seed=[1,2]"], ["parallel.tensor=3"], ["training.tokns=1"]):
        assert glm("submit", "tiny.yaml", "--local", 2, *wrong)[0] == 2
    code, told = glm("submit", "tiny.yaml", "--local", 2, "--dry-run")
    assert (code, "on 2 processes of this machine" in told) == (0, True)
    assert place.files() == before
