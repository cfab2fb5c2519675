"""A run directory keeps its small files whole and has one trainer at a time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from glm_data.files import write_atomically
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory

HOLD = (
    "import sys, time, os; from glm_scale.run_directory import RunDirectory\n"
    "lock = RunDirectory(sys.argv[1]).lock()\n"
    "if 'fork' in sys.argv and os.fork() == 0: time.sleep(20); os._exit(0)\n"
    "print('held', flush=True); time.sleep(60)"
)


def holder(run: RunDirectory, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.path, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_summary_reads_back_and_updates(make_run):
    run = make_run()
    before = run.read_summary()
    run.update_summary(step=7, status="finished", ended=5.0)
    assert run.read_summary() == before.model_copy(update={"step": 7, "status": "finished", "ended": 5.0})
    with pytest.raises(ValidationError):
        run.update_summary(status="done")
    assert run.read_summary().status == "finished"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', '{"loss": 1}'])
def test_a_foreign_summary_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "summary.json"))):
        RunDirectory(tmp_path).read_summary()


def test_a_small_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "small.json"
    write_atomically(path, "old and long")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_what_was_there_and_no_litter(tmp_path):
    (tmp_path / "small.json" / "in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "small.json", "new")
    assert list(tmp_path.iterdir()) == [tmp_path / "small.json"]


def test_create_says_where_it_cannot(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run.*run_root"):
        RunDirectory(tmp_path / "file" / "run").create()


def test_two_processes_cannot_train_in_one_directory(make_run):
    run = make_run()
    other = holder(run)
    try:
        assert run.is_locked()
        assert run.status() == "running"
        with pytest.raises(UserError, match=rf"process {other.pid} on .* is training in {run.path}"):
            run.lock()
    finally:
        other.kill()
        other.wait()
    assert not run.is_locked()
    with run.lock():
        assert run.is_locked()


def test_a_killed_trainer_frees_the_directory_though_its_forked_worker_lives_on(make_run):
    run = make_run()
    trainer = holder(run, "fork")
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    with run.lock():
        assert (run.path / "run.lock").read_text().startswith(f"{os.getpid()} on ")


def test_looking_does_not_keep_a_trainer_out(make_run):
    run = make_run()
    program = (
        "import sys; from glm_scale.run_directory import RunDirectory\n"
        "while True: RunDirectory(sys.argv[1]).is_locked()"
    )
    run.lock().release()
    onlooker = subprocess.Popen([sys.executable, "-c", program, run.path])
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            run.lock().release()
    finally:
        onlooker.kill()
        onlooker.wait()


def test_a_run_whose_process_is_gone_was_killed(make_run):
    run = make_run()
    assert run.status() == "killed"
    assert run.read_summary().status == "running"
    assert run.settle() == "killed"
    assert run.read_summary().status == "killed"
    assert run.read_summary().ended is not None

    finished = make_run("other", status="finished")
    assert finished.settle() == "finished"
    with make_run("third").lock():
        assert make_run("third").settle() == "running"
