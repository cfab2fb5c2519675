"""The command line as a whole: help, and how errors reach the user."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from glm_launch.cli.app import main
from tests.tiny_run import tiny_config, write_config

COMMANDS = (
    "data", "config", "patterns", "train", "ladder", "compare", "evaluate", "generate", "checkpoint", "track", "bench",
    "tasks",
)  # fmt: skip
Captured = pytest.CaptureFixture[str]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of `glm-scale ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["glm-scale", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_config(tmp_path / "run.yaml", tiny_config(tmp_path / "data", tmp_path))


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; import glm_scale.cli.app; "
        "sys.exit(','.join({'torch', 'deepspeed', 'mlflow', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == "\n"


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert run(monkeypatch, "--help") == 0
    told = capsys.readouterr().out
    assert all(f" {command} " in told for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str) -> None:
    assert run(monkeypatch, command, "--help") == 0
    assert "Usage" in capsys.readouterr().out


def test_config_prints_what_load_reads(monkeypatch: pytest.MonkeyPatch, capsys: Captured, path: Path) -> None:
    assert run(monkeypatch, "config", path, "training.seed=5") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["training"]["seed"] == 5
    assert printed["training"]["optimizer"]["weight_decay"] == 0.1


@pytest.mark.parametrize("command", ["train", "config", "ladder"])
def test_a_mistake_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, path: Path, command: str
) -> None:
    assert run(monkeypatch, command, path, "training.lr=1", "model.width=wide") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: 2 problems in the configuration")
    assert "training.lr = 1" in told.err
    assert "model.width = 'wide'" in told.err
    assert "Traceback" not in told.err


def test_missing_data_name_the_key_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, path: Path
) -> None:
    assert run(monkeypatch, "train", path) == 2
    told = capsys.readouterr().err
    assert "data.sources[0].path" in told
    assert "glm-scale data build" in told


def test_an_unwritable_run_root_names_the_key(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, path: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    overrides = (f"data.sources[0].path={data}", f"run_root={tmp_path}/file/runs")
    assert run(monkeypatch, "train", path, *overrides) == 2
    assert "run_root = " in capsys.readouterr().err


def test_data_and_pattern_errors_are_for_the_user_too(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, tmp_path: Path
) -> None:
    assert run(monkeypatch, "patterns", "lattice:k^") == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert run(monkeypatch, "evaluate", tmp_path) == 2
    assert "neither a run directory nor a checkpoint" in capsys.readouterr().err


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("glm_scale.config.load_config", broken)
    monkeypatch.setattr(sys, "argv", ["glm-scale", "config", str(path)])
    with pytest.raises(RuntimeError, match="a bug"):
        main()
