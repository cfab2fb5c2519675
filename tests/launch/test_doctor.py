"""`glm-scale doctor`: what each check says of a machine that has, or lacks, what it asks for."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from glm_launch.cli.doctor import doctor
from glm_launch.doctor import CHECKS, Asked, Finding, checks, examine, gpu, limits, mounts, software
from glm_launch.doctor.clock import clock_of_folder, clock_of_mlflow
from glm_launch.doctor.folder import file_system, rename_and_fsync
from glm_launch.doctor.locks import locks
from glm_launch.doctor.slurm import accounting, commands, controller
from glm_launch.doctor.tracking import ask, mlflow

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path, "sqlite:///" + str(tmp_path / "mlflow.db"))


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


class TestCommand:
    @pytest.fixture
    def run(self) -> Callable[..., tuple[int, str]]:
        app = typer.Typer()
        app.command()(doctor)

        def run(*arguments: str) -> tuple[int, str]:
            result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
            return result.exit_code, result.stdout

        return run

    def with_checks(self, monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
        monkeypatch.setattr("glm_launch.doctor.examine", lambda asked, begin=None: iter(findings))

    def test_a_problem_is_told_with_its_way_out_and_exits_with_1(self, run, monkeypatch) -> None:
        self.with_checks(
            monkeypatch, Finding("disk", "problem", "is full", "delete something"), Finding("x", "ok", "y")
        )
        code, output = run()
        assert code == 1
        assert output.splitlines()[0].split() == ["problem", "disk", "is", "full", "→", "delete", "something"]
        assert output.splitlines()[-1] == "1 problem, 0 warnings"

    def test_warnings_and_what_is_not_applicable_exit_with_0(self, run, monkeypatch) -> None:
        self.with_checks(monkeypatch, Finding("a", "warning", "b"), Finding("c", "not applicable", "d"))
        assert run()[0] == 0

    def test_json_is_all_that_is_printed(self, run, monkeypatch) -> None:
        self.with_checks(monkeypatch, Finding("disk", "problem", "is full", "delete something"))
        code, output = run("--json")
        assert code == 1
        assert json.loads(output) == [
            {"name": "disk", "state": "problem", "says": "is full", "way_out": "delete something"}
        ]

    def test_all_checks_run_here_and_leave_nothing_behind(self, run, tmp_path: Path) -> None:
        code, output = run("--json", "--folder", str(tmp_path / "runs"), "--tracking-uri", f"sqlite:///{tmp_path}/m.db")
        found = json.loads(output)
        assert len(found) == len(CHECKS)
        assert not [finding for finding in found if "the check itself failed" in finding["says"]]
        assert code == any(finding["state"] == "problem" for finding in found)
        assert list(tmp_path.iterdir()) == []


class TestGuard:
    def test_an_exception_is_a_problem_of_the_check_and_the_others_go_on(self, asked: Asked) -> None:
        def broken_check(asked: Asked) -> Finding:
            raise ZeroDivisionError("by\nzero")

        begun: list[str] = []
        first, second = examine(asked, (broken_check, lambda asked: Finding("next", "ok", "")), begun.append)
        assert (first.name, first.state) == ("broken check", "problem")
        assert "ZeroDivisionError: by zero" in first.says
        assert second.name == "next"
        assert begun[0] == "broken check"

    def test_a_check_that_hangs_is_a_problem(self, asked: Asked, monkeypatch) -> None:
        monkeypatch.setattr(checks, "_PATIENCE", 0.05)
        release = threading.Event()
        [finding] = examine(asked, (lambda asked: release.wait() and None,))  # type: ignore[list-item, return-value]
        release.set()
        assert finding.state == "problem"
        assert "has not come to an end" in finding.says


class TestSoftware:
    def test_the_oldest_versions_are_those_of_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["requires-python"] == ">=" + ".".join(map(str, software.OLDEST_PYTHON))
        assert "torch>=" + ".".join(map(str, software.OLDEST_TORCH)) in project["dependencies"]

    def test_an_old_torch_is_a_problem(self, asked: Asked, monkeypatch) -> None:
        assert software.torch(asked).state == "ok"
        monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
        assert software.torch(asked).state == "problem"

    def test_an_op_that_cannot_be_compiled_names_what_is_missing(self, asked, tmp_path, monkeypatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
        monkeypatch.setenv("PATH", str(tmp_path))
        found = software.communication_op(asked)
        assert (found.state, "g++" in found.says) == ("problem", True)
        program(tmp_path, "sbatch", "")
        assert software.communication_op(asked).state == "warning"
        program(tmp_path, "g++", "")
        program(tmp_path, "ninja", "")
        assert software.communication_op(asked).state == "ok"
        compiled = tmp_path / "extensions/py/deepspeed_shm_comm/deepspeed_shm_comm.so"
        compiled.parent.mkdir(parents=True)
        compiled.touch()
        assert str(compiled) in software.communication_op(asked).says


class TestGPU:
    @pytest.fixture(autouse=True)
    def machine(self, tmp_path: Path, monkeypatch) -> Path:
        """Without GPU and driver, in the folder that is returned."""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(gpu, "_DEVICES", tmp_path)
        monkeypatch.setattr(gpu, "_DRIVER", tmp_path / "version")
        return tmp_path

    def test_none_is_no_problem(self, asked: Asked) -> None:
        for check in (gpu.gpus, gpu.driver, gpu.nccl, gpu.triton_kernel):
            assert check(asked).state == "not applicable"
        assert "srun" in gpu.gpus(asked).way_out

    def test_one_that_a_torch_for_cpus_cannot_use_is(self, asked: Asked, machine: Path, monkeypatch) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(torch.version, "cuda", None)
        found = gpu.gpus(asked)
        assert found.state == "problem"
        assert "CPUs only" in found.says

    def test_one_that_the_job_was_not_given_is_no_problem(self, asked: Asked, machine: Path, monkeypatch) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(gpu, "_may_be_opened", lambda device: False)
        assert gpu.gpus(asked).state == "not applicable"

    def test_hidden_ones_are_told(self, asked: Asked, machine: Path, monkeypatch) -> None:
        (machine / "nvidia0").touch()
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert gpu.gpus(asked).state == "warning"

    @pytest.mark.parametrize(("version", "state"), [("570.133.20", "problem"), ("580.65.06", "ok")])
    def test_the_driver_is_held_to_torch_s_cuda(self, asked, machine, monkeypatch, version: str, state: str) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        (machine / "version").write_text(
            f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Wed Jul 16 2025\n"
        )
        found = gpu.driver(asked)
        assert (found.state, version in found.says) == (state, True)

    @pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs Triton's interpreter")
    def test_the_kernel_s_numbers_are_looked_at(self, asked: Asked, monkeypatch) -> None:
        from glm_launch.doctor import triton_probe

        assert triton_probe.product_is_right("cpu")
        monkeypatch.setattr(torch, "equal", lambda a, b: False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        right = triton_probe.product_is_right
        monkeypatch.setattr(triton_probe, "product_is_right", lambda device: right("cpu"))
        assert "wrong numbers" in gpu.triton_kernel(asked).says

    def test_a_missing_compiler_is_a_warning(self, asked: Asked, monkeypatch) -> None:
        monkeypatch.setenv("CC", "no-such-compiler")
        found = gpu.triton_kernel(asked)
        assert (found.state, "no-such-compiler" in found.says) == ("warning", True)


class TestFolder:
    def test_a_folder_that_does_not_exist_yet_is_not_made(self, tmp_path: Path) -> None:
        asked = Asked(tmp_path / "a/b")
        for check in (rename_and_fsync, locks, clock_of_folder):
            assert check(asked).state == "ok"
        assert list(tmp_path.iterdir()) == []

    def test_one_that_cannot_be_written_is_one_problem(self, tmp_path: Path) -> None:
        asked = Asked(tmp_path)
        tmp_path.chmod(0o555)
        if os.access(tmp_path, os.W_OK):  # root may write everywhere but there
            asked = Asked(Path("/sys/kernel/runs"))
        found = [check(asked) for check in (file_system, rename_and_fsync, locks, clock_of_folder)]
        assert [finding.state for finding in found] == ["problem", *3 * ["not applicable"]]
        assert "--folder" in found[0].way_out

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert file_system(Asked(tmp_path / "file")).state == "problem"

    def test_a_full_disk_is_a_problem(self, asked: Asked, monkeypatch) -> None:
        real = os.statvfs(asked.folder)
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*real[:4], 1, *real[5:]]))
        assert "no space" in file_system(asked).says

    def test_the_mount_nearest_to_the_folder_counts(self, tmp_path: Path, monkeypatch) -> None:
        table = tmp_path / "mountinfo"
        table.write_text(
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
            f"2 1 0:40 / {tmp_path} rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2,local_lock=all\n"
            f"3 1 0:41 / {tmp_path}/with\\040space rw - lustre mgs:/scratch rw,localflock\n"
        )
        monkeypatch.setattr(mounts, "_MOUNTS", table)
        (tmp_path / "with space").mkdir()
        assert mounts.mount_of(tmp_path / "runs").kind == "nfs4"
        assert mounts.mount_of(tmp_path / "with space/runs").kind == "lustre"
        found = locks(Asked(tmp_path))
        assert (found.state, "local_lock=all" in found.says) == ("warning", True)

    def test_a_disk_of_this_machine_is_told_on_a_cluster(self, tmp_path: Path, monkeypatch) -> None:
        table = tmp_path / "mountinfo"
        table.write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n")
        monkeypatch.setattr(mounts, "_MOUNTS", table)
        program(tmp_path / "bin", "sbatch", "")
        monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
        assert "other nodes" in file_system(Asked(tmp_path)).says

    def test_broken_locks_are_a_problem(self, asked: Asked, monkeypatch) -> None:
        assert locks(asked).state == "ok"
        monkeypatch.setattr(fcntl, "flock", lambda file, kind: None)  # in this process; the second one takes it
        found = locks(asked)
        assert found.state == "problem"
        assert "does not keep a second process out" in found.says

    def test_a_file_system_without_fsync_is_a_problem(self, asked: Asked, monkeypatch) -> None:
        def fail(file: int) -> None:
            raise OSError(22, "Invalid argument")

        monkeypatch.setattr(os, "fsync", fail)
        found = rename_and_fsync(asked)
        assert (found.state, "Invalid argument" in found.says) == ("problem", True)


class Server(HTTPServer):
    """Answers like MLflow, with the status that is set; `clock` seconds ahead."""

    status, clock, delay = 200, 0.0, 0.0
    seen: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        time.sleep(self.server.delay)
        self.server.seen = self.headers["Authorization"]
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b"{}")

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + self.server.clock)

    def log_message(self, *arguments: object) -> None:
        pass


class TestMLflow:
    @pytest.fixture
    def server(self, monkeypatch) -> Iterator[Server]:
        for name in [name for name in os.environ if name.startswith("MLFLOW_") or name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        ask.cache_clear()
        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()

    def asked_of(self, server: Server, patience: float = 5.0) -> Asked:
        return Asked(tracking_uri=f"http://127.0.0.1:{server.server_port}", patience=patience)

    def test_a_server_that_answers_is_ok(self, server: Server) -> None:
        assert mlflow(self.asked_of(server)).state == "ok"
        assert clock_of_mlflow(self.asked_of(server)).state == "ok"

    @pytest.mark.parametrize(("clock", "state"), [(20.0, "warning"), (-3600.0, "problem")])
    def test_its_clock_is_compared(self, server: Server, clock: float, state: str) -> None:
        server.clock = clock
        found = clock_of_mlflow(self.asked_of(server))
        assert found.state == state
        assert ("ahead" if clock > 0 else "behind") in found.says

    def test_the_password_is_used_and_never_told(self, server: Server, monkeypatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
        server.status = 401
        found = mlflow(self.asked_of(server))
        assert server.seen is not None
        assert server.seen.startswith("Basic ")
        assert found.state == "problem"
        assert "MLFLOW_TRACKING_PASSWORD" in found.way_out
        assert SECRET not in str(found)

    def test_nobody_there(self, server: Server) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            found = mlflow(Asked(tracking_uri=f"http://127.0.0.1:{free.getsockname()[1]}/?token={SECRET}"))
        assert found.state == "problem"
        assert "refused" in found.says
        assert SECRET not in str(found)

    def test_a_server_that_does_not_answer_is_given_up(self, server: Server) -> None:
        server.delay = 1.0
        before = time.monotonic()
        asked = self.asked_of(server, patience=0.1)
        assert mlflow(asked).state == "problem"
        assert clock_of_mlflow(asked).state == "not applicable"
        assert time.monotonic() - before < 1.0

    @pytest.mark.parametrize(
        "uri", [f"http://me:{SECRET}@example.org", f"file://me:{SECRET}@example.org/x", "runs/mlruns"]
    )
    def test_what_cannot_be_used_is_a_problem(self, uri: str) -> None:
        found = mlflow(Asked(tracking_uri=uri))
        assert found.state == "problem"
        assert SECRET not in str(found)

    def test_a_database_is_asked_for_its_port(self, server: Server) -> None:
        host = f"127.0.0.1:{server.server_port}"
        assert mlflow(Asked(tracking_uri=f"postgresql+psycopg2://me@{host}/db?password={SECRET}")).state == "ok"
        assert mlflow(Asked(tracking_uri="postgresql://127.0.0.1:1/db")).state == "problem"

    def test_a_file_that_is_no_database_is_a_problem(self, asked: Asked) -> None:
        assert mlflow(asked).state == "ok"
        (asked.folder / "mlflow.db").write_text("this is no database\n" * 100)
        assert mlflow(asked).state == "problem"


class TestSlurm:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch) -> Path:
        folder = tmp_path / "bin"
        for name in ("sbatch", "srun", "squeue", "scancel"):
            program(folder, name, "exit 0")
        program(folder, "scontrol", "echo 'Slurmctld(primary) at login1 is UP'")
        program(folder, "sacct", "exit 0")
        monkeypatch.setenv("PATH", str(folder))
        return folder

    def states(self, asked: Asked) -> list[str]:
        return [check(asked).state for check in (commands, controller, accounting)]

    def test_all_there(self, asked: Asked, path: Path) -> None:
        assert self.states(asked) == ["ok", "ok", "ok"]

    def test_no_slurm_is_no_problem(self, asked: Asked, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert self.states(asked) == 3 * ["not applicable"]

    def test_a_missing_command_is_named(self, asked: Asked, path: Path) -> None:
        (path / "squeue").unlink()
        assert "squeue" in commands(asked).says

    def test_a_controller_that_is_down_is_a_problem(self, asked: Asked, path: Path) -> None:
        program(path, "scontrol", "echo 'Slurmctld(primary) at login1 is DOWN'; exit 1")
        found = controller(asked)
        assert (found.state, "DOWN" in found.says) == ("problem", True)

    def test_accounting_may_be_off(self, asked: Asked, path: Path) -> None:
        program(path, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
        found = accounting(asked)
        assert (found.state, "works without it" in found.says) == ("not applicable", True)
        program(path, "sacct", "echo 'sacct: error: slurmdbd: Connection refused' >&2; exit 1")
        assert accounting(asked).state == "warning"

    def test_a_controller_that_hangs_is_given_up(self, path: Path, tmp_path: Path) -> None:
        program(path, "scontrol", "exec /bin/sleep 10")
        assert controller(Asked(tmp_path, patience=0.1)).state == "problem"


class TestLimitsAndClock:
    def test_few_open_files_are_a_warning(self, asked: Asked, monkeypatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 8192))
        found = limits.open_files(asked)
        assert (found.state, found.way_out) == ("warning", "ulimit -n 8192")

    def test_locked_memory_counts_with_infiniband_only(self, asked: Asked, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (65536, 65536))
        monkeypatch.setattr(limits, "_INFINIBAND", tmp_path / "infiniband")
        assert limits.locked_memory(asked).state == "not applicable"
        (tmp_path / "infiniband/mlx5_0").mkdir(parents=True)
        assert limits.locked_memory(asked).state == "warning"

    def test_small_shared_memory_is_a_warning(self, asked: Asked, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(limits, "_SHARED_MEMORY", tmp_path / "none")
        assert limits.shared_memory(asked).state == "warning"
        (tmp_path / "none").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert limits.shared_memory(asked).state == "problem"

    @pytest.mark.parametrize(("ahead", "state"), [(0.0, "ok"), (10.0, "warning"), (-100.0, "problem")])
    def test_the_clock_of_a_file_server(self, asked: Asked, monkeypatch, ahead: float, state: str) -> None:
        real = Path.stat

        def skewed(path: Path, **options: bool) -> os.stat_result:
            found = real(path, **options)
            return os.stat_result([*found[:8], found.st_mtime + ahead, found[9]])

        monkeypatch.setattr(Path, "stat", skewed)
        assert clock_of_folder(asked).state == state
