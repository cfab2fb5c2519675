"""A folder to submit from, SLURM's commands as stand-ins, and `glm-scale` as it is typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_launch.cli.app import main
from glm_launch.records import LaunchFolder
from glm_scale.run_directory import RunDirectory
from tests.launch.fake_slurm import FakeSlurm
from tests.tiny_run import tiny_config, tiny_data, write_config

TOKEN = "a-token-that-nobody-may-see"
Command = Callable[..., tuple[int, str]]


class Place:
    """A folder with a name that needs quotes, and in it `tiny.yaml`, the configuration of a run."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data
        folder.mkdir()
        self.config()

    def config(self, name: str = "tiny", **groups: Any) -> Path:
        """A configuration file `NAME.yaml`; `groups` replace values."""
        content = tiny_config(self.data, Path())
        content |= {"name": name, "run_root": "runs"}
        for group, values in groups.items():
            content[group] = {**content[group], **values}
        return write_config(self.folder / f"{name}.yaml", content)

    def launch(self, name: str = "tiny") -> LaunchFolder:
        return LaunchFolder(RunDirectory(self.folder / "runs" / name))

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(tmp_path / "it's a $HOME lab", tiny_data(tmp_path_factory))
    monkeypatch.chdir(found.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    return found


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    for name in list(os.environ):
        # The tests may themselves run in a job, or where a site is chosen.
        if name.startswith(("SLURM_", "SBATCH_", "GLM_")):
            monkeypatch.delenv(name)
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM_WATCHED", str(tmp_path / "it's a $HOME lab/runs/tiny/launch/cancelled"))
    return fake


@pytest.fixture
def glm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code of `glm-scale ARGUMENTS`, and what it prints."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["glm-scale", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        told = capsys.readouterr()
        return int(caught.value.code or 0), told.out + told.err

    return call
