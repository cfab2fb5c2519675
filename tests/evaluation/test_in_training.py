"""Tasks while a run trains: the same in every layout, and nothing else is any different for them."""

from pathlib import Path
from typing import Any

import pytest

from glm_scale.errors import UserError
from glm_scale.evaluation.evaluating import evaluate_tasks
from glm_scale.evaluation.loading import Chosen
from glm_scale.inference import load_model
from glm_scale.run.train import train
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import read_metrics
from glm_scale.tracking.mirror import metric_points
from glm_scale.tracking.task_results import TaskResults
from tests.evaluation.local_tasks import choice_task, text_task
from tests.parallel.processes import Pool
from tests.run.sessions import losses, run, run_and_tell, weights
from tests.tiny_run import SAME_LOSSES, tiny_config
from tests.whole_runs import config

TEXT = "abcde fgh cab bad " * 6


def with_tasks(data: Path, folder: Path, parallel: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """The tiny run, with a choice and a text every three steps."""
    folder.mkdir(exist_ok=True)
    names = [str(choice_task(folder, fewshot_split="test")), str(text_task(folder, TEXT))]
    tree = tiny_config(data, folder, **training)
    tree["evaluation"]["tasks"] = {"names": names, "every": 3, "few_shot": 1}
    return tree | {"parallel": parallel or {}}


def found(tree: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    return [
        (record.step, dict(record.values))
        for record in read_metrics(Path(tree["run_root"]) / tree["name"] / "metrics.jsonl", "task")
    ]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of a run of one process, which has finished."""
    tree = with_tasks(data, tmp_path_factory.mktemp("alone"))
    train(config(tree))
    return tree


def test_a_run_has_what_its_tasks_come_to(alone: dict[str, Any], trained: RunDirectory) -> None:
    measured = found(alone)
    assert [step for step, _ in measured] == [3, 6]
    assert measured[0][1] != measured[1][1]
    folder = RunDirectory(Path(alone["run_root"]) / alone["name"])
    # Afterwards the checkpoint comes to the same.
    names = alone["evaluation"]["tasks"]["names"]
    again = evaluate_tasks(load_model(folder.path), folder.path, Chosen(tuple(names), few_shot=1))
    assert measured[1][1] == pytest.approx(again.values(), rel=SAME_LOSSES)
    kept = TaskResults.read(folder.tasks)
    assert kept is not None
    assert (kept.step, kept.tasks["choose"].few_shot, kept.tasks["choose"].samples) == (6, 1, 10)
    points = {point.key for record in read_metrics(folder.metrics, "task") for point in metric_points(record)}
    assert {"task/choose/acc", "task/prose/bits_per_byte"} <= points


def test_nothing_else_is_different_for_them(alone: dict[str, Any], trained: RunDirectory) -> None:
    folder = Path(alone["run_root"]) / alone["name"]
    for kind in ("train", "validation"):
        assert losses(folder, kind) == losses(trained.path, kind)
    assert weights(folder) == weights(trained.path)


@pytest.mark.parametrize(
    ("parallel", "training"),
    [
        ({}, {"zero_stage": 1, "micro_batch": 1}),
        ({"tensor": 2, "sequence": 2}, {"zero_stage": 1}),
        ({"tensor": 2, "data": 2, "shard_activations": True}, {"zero_stage": 3, "micro_batch": 1}),
    ],
    ids=str,
)
def test_every_layout_finds_what_one_process_finds(processes, alone, data, tmp_path, parallel, training):
    tree = with_tasks(data, tmp_path, parallel, **training)
    outcomes = processes.run(4, run, tree)
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    for (step, values), (same_step, expected) in zip(found(tree), found(alone), strict=True):
        assert step == same_step
        assert values == pytest.approx(expected, rel=SAME_LOSSES)


def test_a_run_that_goes_on_measures_as_if_it_had_not_stopped(
    alone: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    tree = with_tasks(data, tmp_path)
    whole = tree["training"]["tokens"]
    tree["training"] |= {"schedule": {"final_fraction": 1.0}}
    train(config(tree))
    expected = found(tree)
    parts = with_tasks(data, tmp_path) | {"name": "parts"}
    for tokens in (whole // 3 * 2, whole):
        parts["training"] |= {"schedule": {"final_fraction": 1.0}, "tokens": tokens}
        train(config(parts))
    # The end of the first part was at step 4.
    assert [(step, values) for step, values in found(parts) if step != 4] == expected


def test_what_cannot_be_measured_is_told_before_the_first_step(processes: Pool, data: Path, tmp_path: Path) -> None:
    tree = with_tasks(data, tmp_path)

    def refused(**tasks: Any) -> str:
        tree["evaluation"]["tasks"] = tasks
        with pytest.raises(UserError) as caught:
            train(config(tree))
        return str(caught.value)

    generating = choice_task(tmp_path, "write", output_type="generate_until", doc_to_target="{{choices[0]}}")
    told = refused(names=[str(generating)])
    assert "evaluation.tasks.names: write cannot be measured while a run trains" in told
    assert "glm-scale evaluate RUN --tasks write" in told
    assert "data.sequence_length = 32" in refused(names="recall_needle", context_lengths=[64])
    assert "there is no such file" in refused(names=["no.yaml"])
    assert not list(Path(tree["run_root"]).glob("*/metrics.jsonl"))
    messages = processes.run(2, run_and_tell, tree)
    assert all("no.yaml: there is no such file" in message for message in messages)


def test_tasks_that_fail_do_not_end_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glm_scale.evaluation import measuring

    measure, calls = measuring.measure, []

    def fails_later(*arguments: Any, **keywords: Any) -> TaskResults:
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("broken task")
        return measure(*arguments, **keywords)

    monkeypatch.setattr(measuring, "measure", fails_later)
    tree = with_tasks(data, tmp_path)
    assert train(config(tree)).status == "finished"
    assert [step for step, _ in found(tree)] == [6]
    assert "broken task" in (Path(tree["run_root"]) / "tiny" / "train.log").read_text()
