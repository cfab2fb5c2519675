"""`glm-scale submit` and what it hands to SLURM, with stand-ins for SLURM's commands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml

from glm_launch.records import LaunchFolder, Submission
from tests.launch.conftest import TOKEN, Command, Place
from tests.launch.fake_slurm import FakeSlurm
from tests.scaling.synthetic_runs import write_run
from tests.signals import handled

SMALL = ("--gpus-per-node", 0, "--tasks-per-node", 2, "--time", 30)


def options_of(script: str) -> set[str]:
    """What a batch script asks of sbatch."""
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def test_submit_names_job_place_and_how_to_watch(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    code, told = glm("submit", "tiny.yaml", *SMALL)
    assert code == 0
    assert told.splitlines() == [
        f"job 101: 2 processes train in {place.folder}/runs/tiny",
        "Watch:  glm-scale status runs/tiny",
        "        glm-scale logs -f runs/tiny",
        "Stop:   glm-scale cancel runs/tiny",
    ]
    assert slurm.submitted == 1
    submission = place.launch().submission()
    assert submission is not None
    assert (submission.kind, submission.job, submission.processes) == ("slurm", "101", 2)
    assert submission.working_directory == place.folder


def test_the_script_of_a_dry_run_is_the_one_that_is_submitted(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    site = place.folder / "my site.yaml"
    site.write_text(
        "partition: gpu\naccount: mine\nmodules: [cuda/12.8]\nenvironment: {NCCL_DEBUG: it's $x}\nmemory: '0'\n"
        "cpus_per_task: 3\nnetwork_interface: ib0\nsbatch: {exclusive: true, reservation: spring, requeue: false}\n"
    )
    before = place.files()
    options = ("--cluster", site, "--nodes", 2, *SMALL, "--lead", 77, "--after", 7, "--after", 8)
    asked = ("submit", "tiny.yaml", "training.micro_batch=1", *options)
    code, script = glm(*asked, "--dry-run")
    assert code == 0
    assert place.files() == before
    assert not slurm.calls()
    assert options_of(script) >= {
        "--partition=gpu", "--account=mine", "--mem=0", "--cpus-per-task=3", "--nodes=2", "--ntasks-per-node=2",
        "--time=30", "--signal=USR2@77", "--dependency=afterok:7:8", "--kill-on-invalid-dep=yes", "--open-mode=append",
        "--job-name=tiny", "--exclusive", "--reservation=spring",
    }  # fmt: skip
    assert not [option for option in options_of(script) if option.startswith(("--requeue", "--gpus", "--array"))]
    assert glm(*asked)[0] == 0
    assert slurm.script == script.removesuffix("\n")
    assert f"sbatch --chdir={place.launch().path}" in slurm.calls("sbatch")[-1]


def test_a_sweep_is_an_array_whose_tasks_know_their_runs(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    asked = ("submit", "tiny.yaml", *SMALL, "--vary", "training.seed=[1, 2, 3]", "--concurrency", 2)
    folders = place.folder / "runs"
    code, script = glm(*asked, "--dry-run")
    assert code == 0
    assert not folders.exists()
    assert "--array=0-2%2" in options_of(script)
    code, told = glm(*asked)
    assert code == 0
    assert slurm.submitted == 1
    names = [f"tiny-seed{seed}" for seed in (1, 2, 3)]
    submissions = [place.launch(name).submission() for name in names]
    assert [each and each.job for each in submissions] == ["101_0", "101_1", "101_2"]
    assert "glm-scale cancel runs\n" in told
    (folder,) = {each.folder for each in submissions if each}
    assert (folder / "runs.txt").read_text().splitlines() == [f"{folders}/{name}" for name in names]
    seeds = [yaml.safe_load(place.launch(name).config.read_text())["training"]["seed"] for name in names]
    assert seeds == [1, 2, 3]
    assert glm("status")[1].count("queued (Priority)") == 3


def test_the_log_of_the_batch_script_of_each_task_of_an_array_is_found(
    slurm: FakeSlurm, place: Place, glm: Command
) -> None:
    glm("submit", "tiny.yaml", *SMALL, "--vary", "training.seed=[1, 2]")
    submission = place.launch("tiny-seed2").submission()
    assert submission is not None
    (pattern,) = [o.partition("=")[2] for o in options_of(slurm.script) if o.startswith("--output")]
    for index in (0, 1):
        # To SLURM each task is a job with an id of its own, and in patterns %j stands for that.
        name = pattern.replace("%A", "101").replace("%a", str(index)).replace("%j", str(102 - index))
        (submission.folder / name).write_text(f"task {index}\n")
    assert glm("logs", "--batch", "runs/tiny-seed2") == (0, "task 1\n")
    assert glm("logs", "--batch", "runs/tiny-seed1") == (0, "task 0\n")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["training.tokns=5"], "training.tokens"),
        (["parallel.tensor=3"], "3"),
        (["model.heads=1", "parallel.tensor=2"], "heads"),
        (["data.sources=[{path: nowhere}]"], "nowhere"),
        (["--nodes", 3], "training.batch_tokens"),
        (["--time", 3, "--lead", 120], "leaves too little"),
        (["--time", "soon"], "is no duration"),
        (["--tasks-per-node", 4, "--gpus-per-node", 2, "training.device=cuda"], "one process a GPU"),
        (["--cluster", "nonesuch"], "no such file"),
        (["--after", "runs/nowhere"], "neither the id of a job nor the directory of a run"),
        (["name=a/b"], "name"),
    ],
)
def test_what_is_wrong_never_reaches_sbatch(
    slurm: FakeSlurm, place: Place, glm: Command, wrong: list[object], message: str
) -> None:
    before = place.files()
    code, told = glm("submit", "tiny.yaml", *SMALL, *wrong)
    assert code == 2
    assert message in told
    assert not slurm.calls("sbatch")
    assert place.files() == before


@pytest.mark.parametrize("how", ["impossible", "refusal"])
def test_what_slurm_refuses_is_not_submitted(slurm: FakeSlurm, place: Place, glm: Command, how: str) -> None:
    slurm.says(how, "sbatch: error: invalid partition specified: nonesuch")
    code, told = glm("submit", "tiny.yaml", *SMALL)
    assert code == 2
    assert "invalid partition specified: nonesuch" in told
    assert slurm.submitted == (how == "refusal")
    assert place.launch().submission() is None
    assert not [*place.folder.rglob("submission-test*")]


def test_a_run_is_moved_aside_for_a_new_one_once_slurm_would_take_it(
    slurm: FakeSlurm, place: Place, glm: Command
) -> None:
    run = write_run(place.folder / "runs", "tiny", "ssm", steps=10)
    before = place.files()
    slurm.says("impossible", "sbatch: error: invalid partition specified: nonesuch")
    assert glm("submit", "tiny.yaml", "--fresh", *SMALL)[0] == 2
    assert place.files() == before
    (slurm.state / "impossible").unlink()
    code, told = glm("submit", "tiny.yaml", "--fresh", *SMALL)
    assert (code, slurm.submitted) == (0, 1), told
    assert (run.path.with_name("tiny.1") / "summary.json").exists()
    assert not run.summary.exists()


def test_without_slurm_nothing_is_written(place: Place, glm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    before = place.files()
    code, told = glm("submit", "tiny.yaml", *SMALL)
    assert code == 2
    assert "sbatch is not on this machine" in told
    assert "--local" in told
    assert place.files() == before


def test_a_run_is_submitted_once_at_a_time(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    glm("submit", "tiny.yaml", *SMALL)
    code, told = glm("submit", "tiny.yaml", *SMALL)
    assert (code, slurm.submitted) == (2, 1)
    assert "belongs to job 101 already" in told
    slurm.says("silent")
    assert glm("submit", "tiny.yaml", *SMALL)[0] == 2
    (slurm.state / "silent").unlink()
    slurm.now("101", "FAILED")
    assert glm("submit", "tiny.yaml", *SMALL)[0] == 0
    assert slurm.submitted == 2


def test_after_a_run_is_after_its_job(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    glm("submit", "tiny.yaml", *SMALL)
    # What the first one makes is not there yet.
    code, _ = glm("submit", "tiny.yaml", "name=next", "data.sources=[{path: later}]", *SMALL, "--after", "runs/tiny")
    assert code == 0
    assert "--dependency=afterok:101" in options_of(slurm.script)


def test_no_secret_reaches_a_file(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    code, told = glm("submit", "tiny.yaml", *SMALL)
    assert code == 0
    place.launch().cancel()
    written = [*place.files(), *slurm.state.iterdir()]
    assert place.launch().submission_file in written
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in told


def test_resume_changes_what_it_is_told_to(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    glm("submit", "tiny.yaml", *SMALL, "--partition", "low", "--retries", 5, "training.micro_batch=1")
    assert glm("resume", "runs/tiny")[0] == 2
    assert "cancelled" in glm("cancel", "runs/tiny")[1]
    assert glm("resume", "runs/tiny", "--nodes", 3)[0] == 2
    assert slurm.submitted == 1
    assert glm("resume", "runs/tiny", "--nodes", 2, "--time", "1:00:00", "--dry-run")[0] == 0
    assert place.launch().cancelled.exists()
    assert glm("resume", "runs/tiny", "--nodes", 2, "--time", "1:00:00")[0] == 0
    submission = place.launch().submission()
    assert submission is not None
    assert (submission.job, submission.nodes, submission.processes, submission.retries) == ("102", 2, 4, 5)
    assert options_of(slurm.script) >= {"--nodes=2", "--ntasks-per-node=2", "--partition=low", "--time=60"}
    assert not place.launch().cancelled.exists()
    assert yaml.safe_load(place.launch().config.read_text())["training"]["micro_batch"] == 1


def test_resume_works_from_any_folder(
    slurm: FakeSlurm, place: Place, glm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration may hold paths that are relative to where it was submitted."""
    (place.folder / "data").symlink_to(place.data)
    glm("submit", "tiny.yaml", *SMALL, "data.sources=[{path: data}]")
    slurm.now("101", None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, told = glm("resume", place.launch().run.path)
    assert code == 0, told
    assert f"train in {place.folder}/runs/tiny\n" in told
    assert f"glm-scale logs -f '{place.folder}/runs/tiny'" in told.replace("'\"'\"'", "'")
    submission = place.launch().submission()
    assert submission is not None
    assert (submission.job, submission.working_directory) == ("102", place.folder)
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_cancel_marks_the_run_before_it_ends_the_job(slurm: FakeSlurm, place: Place, glm: Command) -> None:
    glm("submit", "tiny.yaml", *SMALL)
    assert glm("cancel", "runs/tiny") == (0, f"{place.folder}/runs/tiny: job 101 is cancelled\n")
    assert slurm.calls()[-2:] == ["scancel 101", "scancel saw cancelled"]
    assert glm("cancel", "runs")[1].endswith(": nothing works on it\n")
    assert glm("cancel", "nowhere")[0] == 2


def test_a_terminal_that_closes_takes_back_no_job_that_was_submitted_under_nohup(
    slurm: FakeSlurm, place: Place, glm: Command
) -> None:
    sbatch = slurm.programs / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("touch", f"kill -HUP {os.getpid()}; touch"))
    with handled(signal.SIGHUP, ignored=True):
        assert glm("submit", "tiny.yaml", *SMALL)[0] == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert not slurm.calls("scancel")


def test_a_job_that_cannot_be_written_down_is_cancelled(
    slurm: FakeSlurm, place: Place, glm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: LaunchFolder, submission: Submission) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(LaunchFolder, "write_submission", fails)
    with pytest.raises(OSError, match="disk full"):
        glm("submit", "tiny.yaml", *SMALL)
    assert slurm.calls()[-1] == "scancel 101"
