"""What the commands of `glm-scale` print and leave behind, seen from outside: streams, files, lines to paste."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from glm_launch.cli.app import app
from glm_scale.errors import UserError
from tests.launch.conftest import TOKEN, Place
from tests.launch.fake_slurm import FakeSlurm

SMALL = ("--gpus-per-node", 0, "--tasks-per-node", 2, "--time", 30)


def call(*arguments: object) -> Result:
    """`glm-scale ARGUMENTS`, with stdout and stderr kept apart."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    """The message of the UserError with which `glm-scale ARGUMENTS` ends."""
    done = call(*arguments)
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    return str(done.exception)


def test_submit_leaves_what_the_job_needs_in_the_run_directory(slurm: FakeSlurm, place: Place) -> None:
    done = call("submit", "tiny.yaml", *SMALL)
    assert done.exit_code == 0, done.exception
    launch = place.launch()
    assert launch.submission_file.is_file()
    assert "micro_batch: 2" in launch.config.read_text()
    assert {path.name for path in (launch.path / "code").iterdir() if path.is_dir()} == {
        "glm_kernels", "glm_data", "glm_scale", "glm_launch",
    }  # fmt: skip


def test_the_commands_to_watch_may_be_pasted(slurm: FakeSlurm, place: Place) -> None:
    """The place of the runs has a name with a space, a quote and a dollar sign."""
    done = call("submit", "tiny.yaml", f"run_root={place.folder / 'runs'}", *SMALL)
    assert done.exit_code == 0, done.exception
    lines = [line.partition("glm-scale ")[2] for line in done.stdout.splitlines() if "glm-scale " in line]
    # What a shell makes of them, not what Python's reading of quotes does.
    words = [
        subprocess.check_output(["bash", "-c", f"printf '%s\\n' {line}"], text=True).splitlines() for line in lines
    ]
    run = str(place.folder / "runs/tiny")
    assert words == [["status", run], ["logs", "-f", run], ["cancel", run]]
    assert [shlex.split(line) for line in lines] == words
    assert call(*words[0]).exit_code == 0


@pytest.mark.parametrize("more", [(), ("--vary", "training.seed=[1,2]"), ("--after", 7)])
def test_a_dry_run_prints_a_script_that_bash_can_read(slurm: FakeSlurm, place: Place, more: tuple[object, ...]) -> None:
    before = place.files()
    done = call("submit", "tiny.yaml", *SMALL, *more, "--dry-run")
    assert done.exit_code == 0, done.exception
    read = subprocess.run(["bash", "-n"], input=done.stdout, capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert done.stdout.startswith("#!")
    assert "srun" in done.stdout
    assert ("--dependency=afterok:7" in done.stdout) == ("--after" in more)
    assert TOKEN not in done.output
    assert place.files() == before
    assert not slurm.calls()


def test_one_run_of_a_sweep_trains_at_a_time_unless_told_otherwise(slurm: FakeSlurm, place: Place) -> None:
    done = call("submit", "tiny.yaml", *SMALL, "--vary", "training.seed=[1,2]")
    assert done.exit_code == 0, done.exception
    assert slurm.submitted == 1
    assert "#SBATCH --array=0-1%1\n" in slurm.script
    there = {path.parent.parent.name for path in (place.folder / "runs").glob("*/launch/submission.json")}
    assert there == {"tiny-seed1", "tiny-seed2"}


def test_a_run_that_waits_is_refused_with_the_way_out(slurm: FakeSlurm, place: Place) -> None:
    assert call("submit", "tiny.yaml", *SMALL).exit_code == 0
    slurm.now("101", "PENDING", "Resources")
    for again in (("submit", "tiny.yaml", *SMALL), ("resume", "runs/tiny")):
        said = refusal(*again)
        assert "job 101" in said
        # What a shell, too, would take for one path.
        assert shlex.split(said.partition("glm-scale ")[2]) == ["cancel", str(place.launch().run.path)]
    assert slurm.submitted == 1


def test_a_secret_in_a_cluster_file_never_reaches_sbatch(slurm: FakeSlurm, place: Place) -> None:
    (place.folder / "site.yaml").write_text("environment: {MLFLOW_TRACKING_PASSWORD: hush-hush}\n")
    before = place.files()
    for command in (("submit", "tiny.yaml", *SMALL), ("submit-command",)):
        behind = ("--", "data", "show") if command[0] == "submit-command" else ()
        said = refusal(*command, "--cluster", "site.yaml", *behind)
        assert "MLFLOW_TRACKING_PASSWORD looks like a secret" in said
        assert "hush-hush" not in said
    assert not slurm.calls("sbatch")
    assert place.files() == before


def test_status_is_a_table_and_on_stderr_why_it_may_be_old(slurm: FakeSlurm, place: Place) -> None:
    assert call("submit", "tiny.yaml", *SMALL).exit_code == 0
    assert call("status").stderr == ""
    slurm.says("silent")
    done = call("status")
    assert done.exit_code == 0, done.exception
    heading, row = done.stdout.splitlines()
    assert heading.split()[:3] == ["run", "job", "state"]
    assert row.split()[:3] == ["tiny", "101", "unknown"]
    assert "Unable to contact slurm controller" in done.stderr
    assert "controller" not in done.stdout


def test_a_job_slurm_would_not_run_is_told_in_its_words(slurm: FakeSlurm, place: Place) -> None:
    slurm.says("impossible", "allocation failure: Requested node configuration is not available")
    said = refusal("submit", "tiny.yaml", *SMALL)
    assert "not submitted" in said
    assert "Requested node configuration is not available" in said
    assert slurm.submitted == 0
    assert [Path(word).name for word in slurm.calls("sbatch")[-1].split()][-1] == "submission-test.sh"


@pytest.mark.parametrize("cancelled_before", [False, True])
def test_a_run_that_slurm_will_not_cancel_is_not_taken_for_cancelled(
    slurm: FakeSlurm, place: Place, cancelled_before: bool
) -> None:
    assert call("submit", "tiny.yaml", *SMALL).exit_code == 0
    slurm.now("101", "RUNNING", "None", "node1")
    if cancelled_before:
        assert call("cancel", "runs/tiny").exit_code == 0
        slurm.now("101", "RUNNING", "None", "node1")
    slurm.program("scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
    assert "permission denied" in refusal("cancel", "runs/tiny")
    assert place.launch().cancelled.exists() == cancelled_before
