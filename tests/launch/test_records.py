"""What launched runs keep, profiles of clusters, and the batch script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_launch.after import begin
from glm_launch.batch_script import JobOptions, executor_for
from glm_launch.following import last_lines
from glm_launch.profile import Cluster, Container, load_cluster
from glm_launch.records import Beginning, End, LaunchFolder, RankReport
from glm_launch.slurm import minutes_of
from glm_launch.snapshot import PACKAGES, snapshot_code
from glm_scale.config import ConfigError
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.version import code_version


@pytest.fixture
def launch(tmp_path: Path) -> LaunchFolder:
    folder = LaunchFolder(RunDirectory(tmp_path / "run").create())
    folder.path.mkdir()
    return folder


def test_the_history_survives_a_torn_line(launch: LaunchFolder) -> None:
    assert launch.attempts() == []
    first = Beginning(attempt=1, time=1, job="7", nodes="n1", step=0)
    end = End(attempt=1, time=2, kind="stopped", cause="preempted", step=20, decided="restart")
    second = Beginning(attempt=2, time=3, job="7", nodes="n2", step=20)
    for event in (first, end, second):
        launch.note(event)
    with launch.history.open("ab") as file:
        file.write(b'{"event":"end","attempt":2,"ti')
    assert [(attempt.beginning, attempt.end) for attempt in launch.attempts()] == [(first, end), (second, None)]
    third = Beginning(attempt=3, time=5, job="7", nodes="n3", step=20)
    launch.note(third)
    assert [attempt.beginning for attempt in launch.attempts()] == [first, second, third]
    assert begin(launch, "7", "n4") == 4


def test_reports_come_in_the_order_of_time(launch: LaunchFolder) -> None:
    for rank, time in ((0, 5.0), (1, 3.0), (2, 4.0)):
        launch.write_report(1, RankReport(rank=rank, host="n", time=time, status="finished"))
    assert [report.rank for report in launch.reports(1)] == [1, 2, 0]
    assert launch.reports(2) == []


def test_a_damaged_submission_is_named(launch: LaunchFolder) -> None:
    assert launch.submission() is None
    launch.submission_file.write_text("{}")
    with pytest.raises(UserError, match=r"submission\.json is damaged"):
        launch.submission()


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), (5, 5), ("4:00:00", 240), ("00:00:30", 1), ("2-12:00:00", 3600), ("1:30", 90)]
)
def test_durations(text: str | int, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "four", "1h", "-5", "1:2:3:4"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        minutes_of(text)


def test_a_profile_is_a_file_in_which_options_replace_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("partition: gpu\ntime: 2-00:00:00\nnetwork_interface: ib0\nenvironment: {NCCL_DEBUG: WARN}\n")
    site = load_cluster(str(path), partition="other")
    assert (site.partition, site.time) == ("other", 2880)
    assert site.exports == {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "ib0", "NCCL_DEBUG": "WARN"}
    assert load_cluster(None) == Cluster()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("partitoin: gpu", "partition"),
        ("environment: {MLFLOW_TRACKING_TOKEN: abc}", "looks like a secret"),
        ("time: soon", "is no duration"),
        ("[1]", "must hold keys"),
        ("a: [", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_profile_is_told(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_cluster(str(path))


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ConfigError, match="there are: apptainer, example, pyxis"):
        load_cluster("nonesuch")
    for name in ("apptainer", "example", "pyxis"):
        load_cluster(name)


def script(folder: Path, directory: Path, cluster: Cluster) -> str:
    options = JobOptions("a-run", nodes=2, tasks_per_node=4, gpus_per_node=4, lead=300)
    return executor_for(cluster, options, folder, folder / "code", directory).script()


def test_the_script_brings_names_intact_to_what_it_starts(tmp_path: Path) -> None:
    """Run by bash, with stand-ins that write down how they were called."""
    odd = tmp_path / 'it\'s "odd" $HOME `x` \\ é'
    odd.mkdir()
    stand_in = tmp_path / "python"
    stand_in.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$PWD" "$PYTHONPATH" "$@" >> "$CALLS"\n[ "$4" != end ] || exit "$5"\n'
    )
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@" >> "$CALLS"\nexit 7\n')
    for program in (stand_in, srun):
        program.chmod(0o755)
    file = tmp_path / "script.sh"
    file.write_text(script(odd / "launch", odd, Cluster(python=str(stand_in), environment={"A": "b 'c' $d"})))
    calls = tmp_path / "calls"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    done = subprocess.run(["bash", file], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    lines = calls.read_text().splitlines()
    assert lines.count(str(odd)) == 2
    assert lines.count(str(odd / "launch")) == 3
    assert "--kill-on-bad-exit=1" in lines
    assert lines[-2:] == [str(odd / "launch"), "7"]
    assert "export A='b '\"'\"'c'\"'\"' $d'" in file.read_text()


def test_processes_of_a_container_have_its_interpreter(tmp_path: Path) -> None:
    apptainer = Container(engine="apptainer", image="/my images/a.sif", mounts=["/data"])
    text = script(tmp_path / "launch", Path("/work dir"), Cluster(container=apptainer, python="/opt/python"))
    assert "apptainer exec --nv --bind /data --pwd '/work dir' '/my images/a.sif' python3 -u -m submitit" in text
    assert text.count("/opt/python -m glm_launch.after") == 2
    pyxis = Container(engine="pyxis", image="/a.sqsh", mounts=["/data", "/x:/y"])
    text = script(tmp_path / "launch", Path("/work"), Cluster(container=pyxis, cpus_per_task=12))
    assert "--container-image=/a.sqsh --container-workdir=/work --container-mounts=/data:/data,/x:/y" in text
    assert "--cpus-per-task=12" in text.partition("srun")[2]


def test_a_snapshot_runs_by_itself_and_knows_its_version(tmp_path: Path) -> None:
    snapshot_code(tmp_path / "code")
    snapshot_code(tmp_path / "code")
    program = f"import sys, json; sys.path.insert(0, {str(tmp_path / 'code')!r})\n"
    program += "".join(f"import {package}; print({package}.__file__)\n" for package in PACKAGES)
    program += "from glm_scale.version import code_version; print(code_version()['git_commit'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    *files, commit = done.stdout.splitlines()
    assert files == [str(tmp_path / "code" / package / "__init__.py") for package in PACKAGES]
    assert commit == str(code_version()["git_commit"])


def test_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(100)))
    assert last_lines(path, 3) == ("97\n98\n99\n", 290)
    assert last_lines(path, 0) == ("", 290)
