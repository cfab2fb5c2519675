"""What tasks came to, of one model and of several side by side, as tables.

What is measured, and how: `glm_scale.evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from glm_scale.scaling.comparison import Comparison, quantity
from glm_scale.tracking.metrics_log import read_metrics
from glm_scale.tracking.task_results import TaskResult, TaskResults

__all__ = ["Measured", "compared_cells", "compared_tasks", "measured_tasks", "task_numbers", "task_table"]


@dataclass(frozen=True)
class Measured:
    """The tasks of a model. `label` is what figures call it; `history` has, by task and metric, training tokens and
    value each time it was measured; `provisional`: the run has gone on since."""

    label: str
    mixer: str
    results: TaskResults
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    provisional: bool = False


def measured_tasks(comparison: Comparison) -> list[Measured]:
    """Of every mixer the run with the least validation loss, of those whose tasks were measured."""
    best: dict[str, Measured] = {}
    for run in comparison.runs:
        if run.mixer in best or (results := TaskResults.read(run.directory.tasks)) is None:
            continue
        if results.step > run.summary.step:
            continue  # the run has gone back since
        history: dict[str, list[tuple[int, float]]] = {}
        for record in read_metrics(run.directory.metrics, "task"):
            for name in record.values:
                if (value := record.number(name)) is not None:
                    history.setdefault(name, []).append((record.tokens, value))
        provisional = results.step < run.summary.step
        best[run.mixer] = Measured(comparison.label(run), run.mixer, results, history, provisional)
    return list(best.values())


def task_table(results: TaskResults) -> Table:
    """The tasks of one model."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for heading in ("value", "questions", "few-shot"):
        table.add_column(heading, justify="right", no_wrap=True)
    recalls = any(result.cache_bytes is not None for result in results.tasks.values())
    if recalls:
        table.add_column("cache", justify="right", no_wrap=True)
    for task, result in _ordered(results):
        for metric in result.metrics:
            samples = "" if result.samples is None else f"{result.samples:,}"
            cells = [task, metric, _value(result, metric), samples, str(result.few_shot)]
            if recalls:
                cells.append("" if result.cache_bytes is None else f"{quantity(result.cache_bytes)}B")
            table.add_row(*map(escape, cells))
    return table


def compared_tasks(found: Sequence[Measured]) -> Iterator[Table | str]:
    """Several models side by side, and how to read that. Nothing if there are none."""
    if not found:
        return
    headings, rows = compared_cells(found)
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(escape(heading), justify="right")
    for row in rows:
        table.add_row(*map(escape, row))
    yield table
    said = "± standard errors over questions; other seeds are not in them"
    if any(one.provisional for one in found):
        said += "; ~: measured before the run's last step"
    yield said
    if different := [task for task in _tasks(found) if len({_asked(one, task) for one in found} - {None}) > 1]:
        yield (
            f"note: {', '.join(different)} cannot be compared: other numbers of questions or examples, or another "
            "version of the task; glm-scale evaluate RUN --tasks … with the same --limit and --few-shot mends it"
        )


def compared_cells(found: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for every metric of every task."""
    rows = []
    for task in _tasks(found):
        results = [one.results.tasks.get(task) for one in found]
        for metric in dict.fromkeys(metric for result in results if result for metric in result.metrics):
            cells = [_value(result, metric) if result and metric in result.metrics else "–" for result in results]
            rows.append([f"{task} {metric}", *cells])
    return ["task", *("~" * one.provisional + one.label for one in found)], rows


def _tasks(found: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(task for one in found for task, _ in _ordered(one.results)))


def _asked(one: Measured, task: str) -> tuple[object, ...] | None:
    """What has to be the same for two results of a task to be compared."""
    result = one.results.tasks.get(task)
    return None if result is None else (result.samples, result.few_shot, result.version)


def task_numbers(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """The same for other programs to read."""
    return [
        {"name": one.label, "mixer": one.mixer, **one.results.model_dump(mode="json"), "history": one.history}
        for one in found
    ]


def _ordered(results: TaskResults) -> list[tuple[str, TaskResult]]:
    """Recall by its length; the others as they were measured."""
    return sorted(results.tasks.items(), key=lambda item: item[1].context_length or 0)


def _value(result: TaskResult, metric: str) -> str:
    error = result.errors.get(metric)
    return f"{result.metrics[metric]:.4f}" + ("" if error is None else f" ± {error:.4f}")
