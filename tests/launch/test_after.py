"""The batch script's last command puts the job back into the queue, even if SLURM does not answer at first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest

from glm_launch import after
from glm_launch.restarts import Decision

# Refuses what changes something as often as the file `refusals` has lines, and then does it.
_SCONTROL = """#!/bin/sh
cd "$FAKE"
echo "$1" >> asked
if [ "$1" = show ]; then
    echo "JobId=7 JobState=COMPLETING Restarts=$([ -e requeued ] && echo 1 || echo 0)"
    exit 0
fi
if [ -s refusals ]; then
    sed -i 1d refusals
    echo "Unable to contact slurm controller" >&2
    exit 1
fi
case $1 in requeue*) [ ! -e requeued ] || exit 1; touch requeued ;; esac
echo "$*" >> done
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scontrol").write_text(_SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "done").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(after, "_PAUSE", 0.01)
    return tmp_path


@pytest.mark.parametrize("refusals", [0, 3])
@pytest.mark.parametrize(("delay", "verbs"), [(0.0, ["requeue"]), (60.0, ["requeuehold", "update", "release"])])
def test_a_restart_is_asked_for_until_it_is_done(fake: Path, refusals: int, delay: float, verbs: list[str]) -> None:
    (fake / "refusals").write_text("no\n" * refusals)
    assert after._carry_out(Decision("restart", delay), "7") == 1
    assert [line.split()[0] for line in (fake / "done").read_text().splitlines()] == verbs


def test_what_slurm_has_requeued_itself_is_left_alone(fake: Path) -> None:
    (fake / "requeued").touch()
    assert after._carry_out(Decision("restart", 60.0), "7") == 0
    assert (fake / "done").read_text() == ""


def test_a_controller_that_never_answers_fails_the_job(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(after, "_PATIENCE", 0.05)
    (fake / "refusals").write_text("no\n" * 1000)
    assert after._carry_out(Decision("restart"), "7") == 1
    assert "Unable to contact" in capsys.readouterr().err


@pytest.mark.parametrize(("action", "code"), [("done", 0), ("give up", 1)])
def test_what_is_not_restarted_is_not_requeued(fake: Path, action: Literal["done", "give up"], code: int) -> None:
    assert after._carry_out(Decision(action), "7") == code
    assert (fake / "done").read_text() == ""
