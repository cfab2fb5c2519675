"""What `glm-scale status` makes of SLURM's answers, and of none; and what `logs -f` follows."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from glm_launch import checks, following, status
from glm_launch.following import files_of, follow_files
from glm_launch.records import Beginning, End, EndKind, LaunchFolder, Submission
from glm_launch.status import states_of
from glm_scale.locking import FileLock
from glm_scale.run_directory import RunDirectory
from tests.launch.conftest import Command, Place
from tests.launch.fake_slurm import FakeSlurm

SMALL = ("--gpus-per-node", 0, "--tasks-per-node", 2, "--time", 30)


@pytest.fixture
def launch(slurm: FakeSlurm, place: Place, glm: Command) -> LaunchFolder:
    """A run that waits as job 101."""
    assert glm("submit", "tiny.yaml", *SMALL)[0] == 0
    return place.launch()


def began(launch: LaunchFolder, number: int, step: int = 0) -> None:
    launch.note(Beginning(attempt=number, time=time.time() - 60, job="101", nodes="n1", step=step))


def ended(
    launch: LaunchFolder, number: int, kind: EndKind, decided: Any, cause: str = "a cause", step: int = 0
) -> None:
    launch.note(End(attempt=number, time=time.time(), kind=kind, cause=cause, step=step, decided=decided))


def measured(launch: LaunchFolder, *steps: int) -> None:
    lines = [
        {"kind": "train", "step": step, "tokens": 128 * step, "loss": 5.0 - step, "tokens_per_second": 64.0}
        for step in steps
    ]
    with launch.run.metrics.open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
        file.write('{"kind": "train", "st')


def state(glm: Command) -> dict[str, Any]:
    code, told = glm("status", "--json")
    assert code == 0
    (found,) = json.loads(told[: told.rindex("]") + 1])
    return found


def test_a_job_that_waits(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    assert state(glm)["state"] == "queued (Priority)"
    slurm.now("101", "PENDING")
    assert state(glm)["state"] == "queued"
    began(launch, 1)
    ended(launch, 1, "transient", "restart")
    slurm.now("101", "PENDING", "BeginTime")
    assert state(glm)["state"] == "requeued (BeginTime)"


def test_a_job_that_runs(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    slurm.now("101", "RUNNING", nodes="n1")
    assert state(glm)["state"] == "starting"
    began(launch, 1)
    assert state(glm)["state"] == "starting"
    measured(launch, 1, 2)
    found = state(glm)
    assert (found["job"], found["state"]) == ("101", "running")
    assert (found["step"], found["steps"], found["loss"]) == (2, 6, 3.0)
    # Four steps of 128 tokens at 64 tokens a second.
    assert found["eta"] == pytest.approx(8)
    assert (found["checkpoint"], found["restarts"]) == (None, [])
    ended(launch, 1, "stopped", "restart", "preempted; saved in time")
    assert state(glm)["state"] == "restarting"
    began(launch, 2)
    found = state(glm)
    assert found["state"] == "running"
    assert found["restarts"] == ["preempted; saved in time"]
    slurm.now("101", "SUSPENDED")
    assert state(glm)["state"] == "suspended"


def test_the_newest_checkpoint_is_told(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    for name in ("step-00000002", "step-00000004", "step-00000006.damaged"):
        (launch.run.checkpoints / name).mkdir()
        (launch.run.checkpoints / name / "COMMITTED").touch()
    (launch.run.checkpoints / "step-00000008").mkdir()
    found = state(glm)
    assert found["checkpoint"] == 4
    assert 0 <= found["checkpoint_age"] < 60
    assert "step 4, 0:0" in glm("status")[1]


@pytest.mark.parametrize(
    ("kind", "decided", "word"),
    [
        ("finished", "done", "finished"),
        ("deterministic", "give up", "failed (deterministic): a cause"),
        ("cancelled", "done", "cancelled"),
        ("transient", "restart", "killed: to be restarted after a cause, but nobody works on it any more"),
    ],
)
def test_a_job_that_slurm_has_forgotten_is_what_its_last_attempt_was(
    slurm: FakeSlurm, launch: LaunchFolder, glm: Command, kind: EndKind, decided: str, word: str
) -> None:
    began(launch, 1)
    ended(launch, 1, kind, decided)
    slurm.now("101", None)
    assert state(glm)["state"] == word
    assert slurm.calls("sacct")[-1].endswith("--jobs=101")


def test_a_job_that_nobody_knows_how_it_ended(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    began(launch, 1)
    slurm.now("101", None)
    assert state(glm)["state"] == "killed: nobody works on it any more"
    slurm.says("accounted", "99|FAILED|n1\n101|NODE_FAIL|n1\n")
    assert state(glm)["state"] == "killed: SLURM says NODE_FAIL"
    slurm.says("accounted", "101|CANCELLED by 1000|n1\n")
    assert state(glm)["state"] == "cancelled"
    slurm.says("accounted", "101|RUNNING|n1\n")
    assert state(glm)["state"] == "starting"


def test_a_run_that_was_cancelled(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    glm("cancel", "runs/tiny")
    assert state(glm)["state"] == "cancelled"


def test_when_slurm_does_not_answer_nothing_is_made_up(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    slurm.says("silent")
    code, told = glm("status")
    assert code == 0
    assert "Unable to contact slurm controller" in told
    assert state(glm)["state"] == "unknown"
    began(launch, 1)
    assert state(glm)["state"] == "unknown"
    ended(launch, 1, "stopped", "restart")
    assert state(glm)["state"] == "unknown"
    began(launch, 2)
    ended(launch, 2, "deterministic", "give up")
    assert state(glm)["state"] == "failed (deterministic): a cause"


def test_status_of_what_is_no_run(place: Place, glm: Command) -> None:
    assert glm("status")[0] == 2
    (place.folder / "runs").mkdir()
    code, told = glm("status")
    assert (code, "no run in runs" in told) == (2, True)


# Logs -----------------------------------------------------------------------------------------------------------------


def test_logs_show_the_end_of_what_there_is(slurm: FakeSlurm, launch: LaunchFolder, glm: Command) -> None:
    assert "no such log yet" in glm("logs", "runs/tiny")[1]
    launch.run.log.write_text("a\nb\nc\n")
    assert glm("logs", "runs/tiny", "-n", 2) == (0, "b\nc\n")
    for name, text in (("batch-101.out", "batch\n"), ("101_1_log.out", "one\n"), ("1011_1_log.out", "other\n")):
        (launch.path / name).write_text(text)
    assert glm("logs", "runs/tiny", "--batch") == (0, "batch\n")
    assert glm("logs", "runs/tiny", "--rank", 1) == (0, "one\n")
    assert glm("logs", "runs/tiny", "--rank", 2)[0] == 2
    assert glm("logs", "nowhere")[0] == 2


def test_following_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Also of a run that was never submitted: somebody works on it as long as its lock is held."""
    monkeypatch.setattr(following, "_POLL", 0.01)
    folder = LaunchFolder(RunDirectory(tmp_path).create())
    log = folder.run.log
    log.write_text("shown already\n")
    said: list[str] = []

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 120
        while text not in "".join(said):
            assert time.monotonic() < deadline, said
            said.append(capsys.readouterr().out)
            time.sleep(0.01)

    with folder.run.lock():
        thread = threading.Thread(target=follow_files, args=(folder, lambda: files_of(folder, None, False), {log: 14}))
        thread.start()
        with log.open("a") as file:
            file.write("grown\n")
        wait_for("grown\n")
        log.write_text("anew\n")
        wait_for("anew\n")
        assert thread.is_alive()
        with log.open("a") as file:
            file.write("the end\n")
    thread.join(120)
    assert not thread.is_alive()
    said.append(capsys.readouterr().out)
    assert "".join(said) == "grown\nanew\nthe end\n"


def test_following_shows_a_log_that_begins_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = LaunchFolder(RunDirectory(tmp_path).create())
    folder.run.log.write_text("all of it\n")
    follow_files(folder, lambda: files_of(folder, None, False), {})
    assert capsys.readouterr().out == "all of it\n"


def test_following_waits_for_the_rest_of_a_character(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes("naïve".encode()[:3])
    place = following._print_from(log, 0)
    assert capsys.readouterr().out == "na"
    log.write_bytes("naïve".encode())
    assert following._print_from(log, place) == 6
    assert capsys.readouterr().out == "ïve"


def test_following_does_not_ask_slurm_all_the_time(
    slurm: FakeSlurm, launch: LaunchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_POLL", 0.01)
    monkeypatch.setattr(checks, "_ASK", 0.5)
    before = len(slurm.calls("squeue"))
    threading.Timer(1.2, slurm.now, ("101", "COMPLETED")).start()
    follow_files(launch, list, {})
    assert 3 <= len(slurm.calls("squeue")) - before <= 5


def test_following_bears_a_controller_that_is_away(
    slurm: FakeSlurm, launch: LaunchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_POLL", 0.01)
    monkeypatch.setattr(checks, "_ASK", 0.05)
    slurm.says("silent")
    thread = threading.Thread(target=follow_files, args=(launch, list, {}))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    slurm.now("101", None)
    (slurm.state / "silent").unlink()
    thread.join(120)
    assert not thread.is_alive()


def test_a_local_run_is_active_as_long_as_its_supervisor(place: Place, glm: Command) -> None:
    from glm_launch.records import Submission

    launch = place.launch()
    launch.run.create()
    launch.path.mkdir()
    launch.write_submission(
        Submission(
            kind="local",
            job="1",
            host="elsewhere",
            folder=launch.path,
            tasks_per_node=2,
            working_directory=place.folder,
            submitted=0,
        )
    )
    began(launch, 1)
    assert state(glm)["state"] == "killed: nobody works on it any more"
    with FileLock(launch.supervisor_lock, "supervising"):
        assert state(glm)["state"] == "starting"
        assert "belongs to process 1 already, on elsewhere" in glm("submit", "tiny.yaml", "--local", 2)[1]
        code, told = glm("cancel", "runs/tiny")
        assert (code, "run this command there" in told) == (2, True)


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
