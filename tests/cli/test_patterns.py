"""`glm-scale patterns`: the table, its JSON twin, the picture and the messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from glm_kernels.patterns import PatternError
from glm_launch.cli.app import app
from glm_scale.errors import UserError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["patterns", *arguments], env={"COLUMNS": "100"})


def test_the_table_has_a_line_for_each_structure() -> None:
    result = run("lattice:3^k", "window:100", "--length", "300")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    # structure, A, B (two words for a band), reads mean and max, cache, path mean and max, congestion, kFLOP
    assert lines["window:100"][1:4] == ["diag", "band", "100"]
    assert lines["window:100"][5:] == ["100", "100", "2.0", "3", "2", "21.3"]
    assert "lattice:3^k" in lines
    assert "copying 127 rows" in " ".join(result.stdout.split())


def test_json_carries_the_same_figures_in_full() -> None:
    result = run("local:8", "ssm:32", "lattice:2^k", "--length", "256", "--head-dim", "32", "--json")
    assert result.exit_code == 0, result.output
    local, ssm, powers = json.loads(result.stdout)
    assert local["structure"] == "local:8"
    assert local["path_max"] is None
    assert local["congestion"] is None
    assert (ssm["cache_rows"], ssm["path_max"], ssm["path_mean"]) == (32, 255, 128)
    assert ssm["congestion"] == {"copy_length": 127, "lower": 127, "found": 127}
    assert (powers["reads_max"], powers["cache_rows"], powers["path_max"]) == (8, 9, 8)
    assert powers["flops_per_token_per_head"] == 4 * 32 * powers["reads_mean"]


def test_the_command_draws(tmp_path: Path) -> None:
    result = run("dense", "--length", "16", "--plot", str(tmp_path / "dense.png"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "dense.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["lattice:k^2"], PatternError, "f(0) = 0"),
        (["mamba"], UserError, "unknown mixer 'mamba'"),
        (["log_linear"], UserError, "leave it out"),
        (["dense", "--plot", "/nowhere/at/all.png"], UserError, "--plot /nowhere/at/all.png"),
        (["dense", "--plot", "picture.docx"], UserError, "--plot picture.docx"),
    ],
)
def test_mistakes_are_messages(arguments: list[str], error: type[Exception], message: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_the_length_must_hold_a_pair_of_rows() -> None:
    assert run("dense", "--length", "1").exit_code == 2
