"""One state of a run has one word wherever it is told, and a run that saves is waited for."""

import json
import os
import shutil
import signal
import socket
import threading
import time

import pytest
from typer.testing import CliRunner

from glm_launch import cancel as cancelling
from glm_launch import checks, local
from glm_launch.after import end
from glm_launch.cancel import cancel_run, wait_for_end
from glm_launch.checks import must_be_idle, wait_until_saved
from glm_launch.cli.app import app
from glm_launch.records import Beginning, LaunchFolder, RankReport, Submission
from glm_launch.status import states_of
from glm_scale.errors import UserError
from glm_scale.locking import FileLock
from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.curves import load_run
from glm_scale.tracking.mirror import run_tags
from tests.scaling.synthetic_runs import write_run
from tests.tiny_run import LENGTH, tiny_config, tiny_data, write_config


def words(run: RunDirectory) -> set[str]:
    """Every word for how the run stands."""
    (state,), _ = states_of([run])
    tag = run_tags(run, run.read_summary())["glm_scale.status"]
    return {run.status(), run.read_summary().status, state.state, load_run(run).status, tag}


@pytest.mark.parametrize(
    ("number", "cancelled", "code", "word", "said"),
    [
        (signal.SIGINT, False, 130, "stopped", "stopped by SIGINT at step"),
        (signal.SIGTERM, False, 85, "stopped", "stopped by SIGTERM at step"),
        (signal.SIGTERM, True, 85, "cancelled", "cancelled at step"),
    ],
)
def test_a_run_that_is_asked_to_end_says_so_by_one_word(
    command, tmp_path, tmp_path_factory, number, cancelled, code, word, said
):
    tree = tiny_config(tiny_data(tmp_path_factory), tmp_path, tokens=100_000 * 4 * LENGTH)
    config = write_config(tmp_path / "tiny.yaml", tree | {"evaluation": {}, "checkpoint": {}})
    run = RunDirectory(tmp_path / "runs/tiny")
    with command.start("train", config) as training:
        training.wait_for(lambda: run.metrics.exists() and run.metrics.stat().st_size)
        if cancelled:
            run.cancelled.parent.mkdir()
            LaunchFolder(run).cancel()
        training.send(number)
        assert training.wait() == code, training.output
    assert said in training.stdout
    assert words(run) == {word}
    assert run.saved_steps()


def test_a_run_whose_process_is_gone_was_killed_or_cancelled(tmp_path):
    run = write_run(tmp_path, "a", "ssm", steps=20, status="running")
    run.cancelled.parent.mkdir()
    run.cancelled.touch()
    os.utime(run.cancelled, (1, 1))  # cancelled once, and trained again since
    assert run.settle() == "killed"
    assert words(run) == {"killed"}
    run.update_summary(status="running")
    LaunchFolder(run).cancel()
    assert run.settle() == "cancelled"
    assert words(run) == {"cancelled"}


def test_what_earlier_versions_called_killed_is_still_read(tmp_path):
    run = write_run(tmp_path, "a", "ssm", steps=20, status="killed")
    assert words(run) == {"killed"}


def test_how_a_run_ended_reaches_mlflow_in_our_words(tmp_path, monkeypatch):
    from glm_scale.tracking.mirror import Mirror

    run = write_run(tmp_path, "a", "ssm", steps=20, status="stopped")
    calls = []

    class Client:
        def __getattr__(self, name):
            return lambda *arguments, **keywords: calls.append((name, arguments))

    mirror = Mirror(run, type("State", (), {"run_id": "7", "complete": False, "write": lambda *_: None})())
    monkeypatch.setattr(Mirror, "catch_up", lambda self: None)
    monkeypatch.setattr(Mirror, "_connected", lambda self: Client())
    mirror.finish()
    assert ("set_tag", ("7", "glm_scale.status", "stopped")) in calls
    assert next(arguments[1] for name, arguments in calls if name == "set_terminated") == "KILLED"


# Launched runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path):
    """A run of which a supervisor on this machine is said to have made one attempt."""
    folder = LaunchFolder(write_run(tmp_path, "a", "ssm", steps=20, status="running"))
    folder.path.mkdir()
    folder.write_submission(
        Submission(
            kind="local",
            job="1",
            host=socket.gethostname(),
            folder=folder.path,
            working_directory=tmp_path,
            submitted=0,
        )
    )
    folder.note(Beginning(attempt=1, time=0, job="1", nodes="here", step=0))
    return folder


@pytest.mark.parametrize(
    ("report", "cancelled", "word"),
    [
        (RankReport(rank=0, host="h", time=1, status="failed", error="E: x", kind="deterministic"), False, "failed"),
        (RankReport(rank=0, host="h", time=1, status="stopped", reason="SIGTERM"), True, "cancelled"),
        (None, True, "cancelled"),
    ],
)
def test_what_the_supervisor_decides_is_how_the_run_has_ended(launch, report, cancelled, word):
    """The process was killed, or was gone before it could know."""
    if cancelled:
        launch.cancel()
        os.utime(launch.cancelled, (1, 1))
    if report:
        launch.write_report(1, report)
    end(launch, launch.submission(), 1)
    (state,), _ = states_of([launch.run])
    assert (launch.run.status(), state.state.partition(" ")[0]) == (word, word)


def test_a_run_that_waits_to_be_started_again_is_concluded_when_it_is_cancelled(launch, monkeypatch):
    launch.run.update_summary(status="stopped")
    monkeypatch.setattr(local, "stop", lambda *_: None)
    with FileLock(launch.supervisor_lock, "supervising"):
        cancel_run(launch)
    assert words(launch.run) == {"cancelled"}


def test_a_run_that_saves_is_not_asked_again(launch, monkeypatch):
    """A second SIGTERM would end it at once."""
    asked = []
    monkeypatch.setattr(local, "stop", lambda *_: asked.append(1))
    with FileLock(launch.supervisor_lock, "supervising"), launch.run.lock():
        assert "saves now: wait for it with glm-scale cancel --wait" in cancel_run(launch)
        (state,), _ = states_of([launch.run])
        assert state.state == "cancelling"
        # Its last step ends after the request.
        _trained_on(launch.run)
        assert "still saves" in cancel_run(launch)
        assert len(asked) == 1
        # One that trains on has not heard of it.
        _trained_on(launch.run)
        cancel_run(launch)
        assert len(asked) == 2


def _trained_on(run: RunDirectory) -> None:
    record = json.loads(run.metrics.read_text().splitlines()[-2]) | {"kind": "train", "time": time.time() + 1}
    with run.metrics.open("a") as file:
        file.write(json.dumps(record) + "\n")


def test_cancel_and_resume_wait_for_a_run_that_saves(launch, monkeypatch):
    monkeypatch.setattr(checks, "_LOOK", 0.01)
    monkeypatch.setattr(cancelling, "_TOLD_EVERY", 0.0)
    launch.cancel()
    for wait in (wait_for_end, wait_until_saved):
        supervisor = FileLock(launch.supervisor_lock, "supervising")
        told: list[str] = []
        thread = threading.Thread(target=wait, args=(launch, told.append))
        thread.start()
        deadline = time.monotonic() + 120
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert thread.is_alive()
        with pytest.raises(UserError, match=r"was cancelled, and process 1 .*still saves.*cancel --wait"):
            must_be_idle(launch)
        supervisor.release()
        thread.join(120)
        assert not thread.is_alive()
        assert "saving" in told[0]
    must_be_idle(launch)


def test_a_run_that_was_not_cancelled_is_not_waited_for(launch):
    with FileLock(launch.supervisor_lock, "supervising"):
        wait_until_saved(launch, pytest.fail)
        with pytest.raises(UserError, match=r"belongs to process 1 already.*glm-scale cancel /"):
            must_be_idle(launch)


def test_ctrl_c_ends_the_waiting_only(launch, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "stop", lambda *_: None)
    monkeypatch.setattr(cancelling, "wait_for_end", interrupted)
    with FileLock(launch.supervisor_lock, "supervising"):
        done = CliRunner().invoke(app, ["cancel", "--wait", str(launch.run.path)])
    assert (done.exit_code, "what saves goes on" in done.stdout) == (130, True)
    assert launch.cancelled.exists()


def test_a_run_that_cannot_be_cancelled_keeps_no_other_from_it(launch, monkeypatch, tmp_path):
    monkeypatch.setattr(local, "stop", lambda *_: None)
    shutil.copytree(launch.run.path, tmp_path / "0")
    (tmp_path / "0/launch/submission.json").write_text("{")
    with FileLock(launch.supervisor_lock, "supervising"):
        done = CliRunner().invoke(app, ["cancel", str(tmp_path)])
    assert launch.cancelled.exists()
    assert isinstance(done.exception, UserError)
    assert "0/launch/submission.json" in str(done.exception)


def test_a_run_in_a_terminal_is_not_said_to_stand_still(tmp_path):
    run = write_run(tmp_path, "a", "ssm", steps=20, status="running")
    with run.lock(), pytest.raises(UserError, match=rf"process {os.getpid()} on .*Ctrl-C"):
        cancel_run(LaunchFolder(run))
    assert cancel_run(LaunchFolder(run)) == "nothing works on it"
