"""`evaluate` keeps what `compare` shows: of the run as it is now, once, and without harm where it cannot."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from glm_scale.inference.keeping import keep_breakdown, keep_tasks
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from glm_scale.tracking.breakdown import Breakdown, cell_names
from glm_scale.tracking.task_results import TaskResult, TaskResults
from tests.made_runs import MakeRun

CELLS = len(cell_names(8))
FOUND = Breakdown(8, 10, np.ones((2, CELLS), np.int64), np.full((2, CELLS), 2.5))


def records(run: RunDirectory) -> list[int]:
    return [record.step for record in read_metrics(run.metrics, "breakdown")]


def test_it_is_written_once_and_again_for_more_sequences(make_run: MakeRun) -> None:
    run = make_run(step=5, tokens=50)
    assert str(run.breakdown) in keep_breakdown(run.path, 5, FOUND)
    assert keep_breakdown(run.path, 5, dataclasses.replace(FOUND, sequences=9)) == ""
    (record,) = read_metrics(run.metrics)
    assert (record.step, record.tokens, record.flops) == (5, 50, 300_000.0)
    assert record.number("kind/repeated-4gram") == record.number("position/0000008") == 2.5
    assert keep_breakdown(run.path, 5, dataclasses.replace(FOUND, sequences=11))
    kept = Breakdown.read(run.breakdown, 5)
    assert kept is not None
    assert kept.sequences == 11
    assert records(run) == [5, 5]


def test_only_a_run_as_it_is_now_is_written_to(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(step=6)
    assert "at step 6" in keep_breakdown(run.path, 5, FOUND)
    assert keep_breakdown(tmp_path, 5, FOUND) == ""
    with run.lock():
        assert "training in" in keep_breakdown(run.path, 6, FOUND)
    assert not run.breakdown.exists()
    assert not records(run)


def test_a_directory_that_takes_nothing_is_a_remark(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RunDirectory) -> None:
        raise PermissionError(13, "Permission denied", str(self.path))

    run = make_run(step=5)
    monkeypatch.setattr(RunDirectory, "lock", refuse)
    assert "Permission denied" in keep_breakdown(run.path, 5, FOUND)


def test_tasks_are_kept_beside_those_of_the_same_step(make_run: MakeRun) -> None:
    def results(step: int, task: str, accuracy: float) -> TaskResults:
        return TaskResults(step=step, lm_eval="0.4.13", tasks={task: TaskResult(metrics={"acc": accuracy})})

    run = make_run(step=5, tokens=50)
    assert str(run.tasks) in keep_tasks(run.path, results(5, "a", 0.5))
    assert keep_tasks(run.path, results(5, "b", 0.7))
    assert "at step 5" in keep_tasks(run.path, results(4, "c", 0.9))
    kept = TaskResults.read(run.tasks)
    assert kept is not None
    assert kept.values() == {"a/acc": 0.5, "b/acc": 0.7}
    assert [dict(record.values) for record in read_metrics(run.metrics, "task")] == [{"a/acc": 0.5}, {"b/acc": 0.7}]
    run.update_summary(step=6)
    assert keep_tasks(run.path, results(6, "c", 0.9))
    kept = TaskResults.read(run.tasks)
    assert kept is not None
    assert (kept.step, list(kept.tasks)) == (6, ["c"])
