"""`glm-scale submit-command`, and batch scripts that are run by bash with a stand-in for srun."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from glm_launch.records import RankReport
from tests.launch.conftest import Command, Place
from tests.launch.fake_slurm import FakeSlurm

SMALL = ("--gpus-per-node", 0, "--tasks-per-node", 2, "--time", 30)


def test_a_command_becomes_a_job_of_one_process(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    glm("submit", "tiny.yaml", *SMALL)
    before = place.files()
    asked = ("submit-command", "--time", 5, "--after", "runs/tiny", "--", "data", "show", "it's $HOME")
    code, script = glm("submit-command", "--dry-run", *asked[1:])
    assert (code, place.files(), slurm.submitted) == (0, before, 1)
    assert "#SBATCH --job-name=glm-data-show\n" in script
    code, told = glm(*asked)
    assert code == 0
    first, second = told.splitlines()
    assert first == "job 102: glm-scale data show it's $HOME"
    folder = Path(second.removeprefix("Its output: ")).parent
    assert folder.parent == place.folder / "runs/commands"
    assert (folder / "102_submitted.pkl").exists()
    for line in (
        "--dependency=afterok:101",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--time=5",
        "--job-name=glm-data-show",
    ):
        assert f"#SBATCH {line}\n" in slurm.script
    # Its attempts are not kept account of, nor is it started again.
    assert "glm_launch.after" not in slurm.script


@pytest.mark.parametrize("command", [["evalute", "runs/tiny"], ["data", "bild", "--input", "x"], ["--help"]])
def test_a_command_that_does_not_exist_never_reaches_sbatch(
    slurm: FakeSlurm, place: Place, glm: Command, command: list[str]
) -> None:
    before = place.files()
    code, told = glm("submit-command", "--", *command)
    assert code == 2
    assert "glm-scale has no command" in told
    assert slurm.submitted == 0
    assert place.files() == before


# What SLURM would run -------------------------------------------------------------------------------------------------


class Job:
    """The job that was submitted last, on a machine where srun and module are stand-ins."""

    def __init__(self, slurm: FakeSlurm, place: Place) -> None:
        self.place = place
        self.slurm = slurm
        self.seen = slurm.state / "seen"
        note = 'printf "%s\\0" "$0" "$PWD" "$PYTHONPATH" "$GLM_LAUNCH_ATTEMPT" "$SPECIAL" "$@" > "$SEEN"\n'
        slurm.program("srun", note + 'exit "$CODE"')
        slurm.program("module", 'echo "$@" > "$SEEN.module"')

    def run(self, code: int) -> subprocess.CompletedProcess[str]:
        """With srun ending like this; attempts are kept account of by the code of the snapshot."""
        environment = os.environ | {"SEEN": str(self.seen), "CODE": str(code), "SLURM_JOB_ID": "101"}
        environment |= {"SLURM_JOB_NODELIST": "n[1-2]"}
        return subprocess.run(
            ["bash", self.slurm.state / "script"], env=environment, cwd="/", capture_output=True, text=True
        )

    def words(self) -> list[str]:
        return self.seen.read_text().split("\0")[1:-1]


@pytest.fixture
def job(slurm: FakeSlurm, place: Place, glm: Command) -> Job:
    (place.folder / "site.yaml").write_text(
        "modules: [it's/1.0]\nenvironment: {SPECIAL: \"it's $HOME `x`\"}\nsetup: ['SPECIAL=\"$SPECIAL!\"']\n"
    )
    assert glm("submit", "tiny.yaml", "--cluster", "site.yaml", *SMALL, "--retry-delay", 600)[0] == 0
    return Job(slurm, place)


def test_a_job_brings_everything_intact_to_its_processes_and_notes_its_end(job: Job) -> None:
    launch = job.place.launch()
    for rank in range(2):
        launch.write_report(1, RankReport(rank=rank, host="n1", time=1, status="finished"))
    done = job.run(0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    directory, path, attempt, special, *arguments = job.words()
    assert directory == str(job.place.folder)
    assert path.split(os.pathsep)[0] == str(launch.path / "code")
    assert attempt == "1"
    assert special == "it's $HOME `x`!"
    assert arguments[-5:] == [sys.executable, "-u", "-m", "submitit.core._submit", str(launch.path)]
    assert f"{launch.path}/%j_%t_log.out" in arguments
    assert Path(f"{job.seen}.module").read_text() == "load it's/1.0\n"
    (made,) = launch.attempts()
    assert (made.beginning.job, made.beginning.nodes, made.beginning.step) == ("101", "n[1-2]", 0)
    assert made.end is not None
    assert (made.end.kind, made.end.decided) == ("finished", "done")


def test_a_job_that_lost_a_process_is_requeued_for_later(job: Job) -> None:
    launch = job.place.launch()
    launch.write_report(1, RankReport(rank=0, host="n1", time=1, status="failed", error="x", kind="consequence"))
    job.run(137)
    changes = [call for call in job.slurm.calls("scontrol") if " show " not in call]
    assert [changes[0], changes[2]] == ["scontrol requeuehold 101", "scontrol release 101"]
    begin = datetime.fromisoformat(changes[1].removeprefix("scontrol update JobId=101 StartTime="))
    assert 500 < begin.timestamp() - time.time() <= 600
    (made,) = launch.attempts()
    assert made.end is not None
    assert (made.end.kind, made.end.decided, made.end.delay) == ("transient", "restart", 600)
    assert made.end.cause == "rank 1 killed by SIGKILL (memory of the machine?)"


def test_a_job_that_failed_for_good_is_left_failed(job: Job) -> None:
    launch = job.place.launch()
    report = RankReport(rank=0, host="n1", time=1, status="failed", error="UserError: wrong", kind="deterministic")
    launch.write_report(1, report)
    done = job.run(1)
    assert (done.returncode, done.stdout) == (1, "give up: a restart would meet it again\n")
    assert len(job.slurm.calls("scontrol")) == 1
    assert launch.attempts()[0].end is not None


def test_a_job_of_a_run_that_was_cancelled_starts_nothing(job: Job) -> None:
    job.place.launch().cancel()
    done = job.run(0)
    assert done.returncode == 1
    assert "was cancelled" in done.stderr
    assert not job.seen.exists()
    assert job.place.launch().attempts() == []
