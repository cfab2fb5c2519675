"""What doctor says of versions and of the op that DeepSpeed compiles."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from glm_launch.doctor import Asked, software
from tests.launch.doctor.programs import program

ROOT = Path(__file__).parents[3]


class TestSoftware:
    def test_the_oldest_versions_are_those_of_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["requires-python"] == ">=" + ".".join(map(str, software.OLDEST_PYTHON))
        assert "torch>=" + ".".join(map(str, software.OLDEST_TORCH)) in project["dependencies"]

    def test_an_old_torch_is_a_problem(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        assert software.torch(asked).state == "ok"
        monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
        assert software.torch(asked).state == "problem"

    def test_an_op_that_cannot_be_compiled_names_what_is_missing(
        self, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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
