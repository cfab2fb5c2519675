"""The commands of the page on tasks do what they say, typed as they stand there, without a network."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glm_launch.cli.app import app
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.task_results import TaskResults
from tests.cli.test_readme import ROOT, commands

pytestmark = pytest.mark.usefixtures("tables")

PAGE = ROOT / "docs" / "pages" / "evaluation.md"
HUB = "arc_easy"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def invoke(line: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == code, result.output
    return result.output


def test_the_page_has_commands_and_they_work(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        shutil.copytree(trained.path, tmp_path / "runs" / name)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colours.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "tasks" / "colours.jsonl").write_text(blocks("json")[0])
    lines = [line for line in commands(PAGE) if HUB not in line]
    assert len(lines) == 3
    # A length that the tiny vocabulary needs for a question; four of them are enough to see.
    evaluations = [line.replace("--limit 20", "--limit 4 --context-lengths 300") for line in lines[:2]]
    assert "colours" in invoke(evaluations[0])
    invoke(evaluations[1])
    kept = TaskResults.read(tmp_path / "runs" / "first" / "tasks.json")
    assert kept is not None
    assert set(kept.tasks) == {"colours", "recall_needle_300", "recall_pairs_300"}
    assert "recall_needle" in (tmp_path / "runs" / "first" / "plots" / "tasks.html").read_text()
    shown = invoke(f"{lines[2]} --no-tracking")
    assert "colours acc" in shown
    assert "tasks.html" in shown
    assert json.loads((tmp_path / "runs" / "comparison" / "comparison.json").read_text())["tasks"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--limit 3", "--limit is of tasks"),
        ("--tasks recall_needle --data data", "--data is of the loss"),
        ("--tasks ,", "names no task"),
        ("--tasks recall_needle --context-lengths 1k", "numbers of tokens, such as 256,1024,4096"),
    ],
)
def test_options_that_mean_nothing_are_refused(trained: RunDirectory, options: str, told: str) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(trained.path), *options.split()])
    assert result.exit_code != 0
    assert told in str(result.exception)
