"""What doctor says of SLURM's commands, controller and accounting."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_launch.doctor import Asked
from glm_launch.doctor.slurm import accounting, commands, controller
from tests.launch.doctor.programs import program


class TestSlurm:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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

    def test_no_slurm_is_no_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
