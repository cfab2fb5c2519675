"""Tasks of several runs side by side: in the table, in the figure and in numbers."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.comparison import compare
from glm_scale.scaling.pictures.tasks import task_figure
from glm_scale.scaling.report import write_report
from glm_scale.scaling.style import style_of
from glm_scale.scaling.task_tables import compared_tasks, measured_tasks
from glm_scale.tracking import MetricsLog
from glm_scale.tracking.task_results import TaskResult, TaskResults
from tests.scaling.synthetic_runs import write_run


def results(step: int, accuracy: float, cache: int, samples: int = 100) -> TaskResults:
    recall = {
        f"recall_needle_{length}": TaskResult(
            metrics={"acc": accuracy + 0.01 * place},
            errors={"acc": 0.02},
            samples=samples,
            context_length=length,
            cache_bytes=cache * (place + 1),
        )
        for place, length in enumerate((256, 1024))
    }
    choice = TaskResult(metrics={"acc": accuracy, "acc_norm": accuracy / 2}, errors={"acc": 0.03}, samples=samples)
    return TaskResults(step=step, lm_eval="0.4.13", tasks={"choose": choice, **recall})


def run(root: Path, name: str, mixer: str, found: TaskResults, earlier: TaskResults | None = None) -> RunDirectory:
    made = write_run(root, name, mixer, final_loss=3.5 + len(name) / 10)
    with MetricsLog(made.metrics) as log:
        for one in (earlier, found):
            if one is not None:
                log.append("task", step=one.step, tokens=5000 * one.step, flops=1.0, **one.values())
    found.write(made.tasks)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    return [
        run(tmp_path, "a", "attention", results(200, 0.9, 4096), results(100, 0.7, 4096)),
        run(tmp_path, "bb", "lattice:2^k", results(200, 0.8, 64), results(100, 0.6, 64)),
        run(tmp_path, "worse", "attention", results(200, 0.1, 1)),
    ]


def shown(runs: list[RunDirectory]) -> str:
    console = Console(width=150, file=None)
    with console.capture() as capture:
        for part in compared_tasks(measured_tasks(compare(runs))):
            console.print(part)
    return capture.get()


def test_the_best_run_of_each_mixer_is_shown(runs: list[RunDirectory]) -> None:
    text = shown(runs)
    (line,) = [line for line in text.splitlines() if line.startswith("choose acc ")]
    assert line.split("choose acc ")[1].split() == ["0.9000", "±", "0.0300", "0.8000", "±", "0.0300"]
    assert "choose acc_norm" in text
    assert text.index("recall_needle_256") < text.index("recall_needle_1024")
    assert "cannot be compared" not in text


def test_what_cannot_be_compared_is_said(runs: list[RunDirectory]) -> None:
    results(150, 0.8, 64, samples=10).write(runs[1].tasks)
    text = shown(runs)
    assert "choose, recall_needle_256, recall_needle_1024 cannot be compared" in text
    assert "~lattice:2^k" in text
    results(201, 0.8, 64).write(runs[1].tasks)
    assert "lattice" not in shown(runs), "results of steps that the run has gone back from"
    for made in runs:
        made.tasks.write_text("{")
    assert shown(runs) == ""


def test_recall_is_drawn_against_length_and_cache_and_others_against_tokens(runs: list[RunDirectory]) -> None:
    figure = task_figure(measured_tasks(compare(runs)))
    assert figure is not None
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:3] == [
        "recall_needle against context length in tokens",
        "recall_needle against bytes of the cache",
        "choose/acc",
    ]
    lines = {(trace.name, trace.xaxis): trace for trace in figure.data}
    attention, lattice = lines["attention (a)", "x"], lines["lattice:2^k", "x2"]
    assert (list(attention.x), list(attention.y)) == ([256, 1024], pytest.approx([0.9, 0.91]))
    assert list(lattice.x) == [64, 128]
    assert lattice.line.color == style_of("lattice:2^k").colour
    over_time = lines["lattice:2^k", "x3"]
    assert (list(over_time.x), list(over_time.y)) == ([500_000, 1_000_000], [0.6, 0.8])


def test_the_report_has_a_page_and_numbers(runs: list[RunDirectory], tmp_path: Path) -> None:
    report = write_report(runs, tmp_path / "comparison")
    page = tmp_path / "comparison" / "tasks.html"
    assert page in report.files
    assert "recall_needle against bytes of the cache" in page.read_text()
    assert 'src="http' not in page.read_text(), "no network"
    numbers = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["tasks"]
    assert [one["mixer"] for one in numbers] == ["attention", "lattice:2^k"]
    assert numbers[1]["tasks"]["recall_needle_1024"]["cache_bytes"] == 128
    (alone,) = write_report(runs[2:], tmp_path / "alone").tasks
    assert alone.label == "attention"
