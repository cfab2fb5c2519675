"""What an evaluation found out about a run, kept in its directory for comparisons: the loss taken apart, and tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking import MetricsLog
from glm_scale.tracking.breakdown import Breakdown
from glm_scale.tracking.task_results import TaskResults

__all__ = ["keep_breakdown", "keep_tasks"]


def keep_breakdown(path: Path, step: int, breakdown: Breakdown) -> str:
    """Write the breakdown of a validation loss into the run directory `path`, if it is one and was measured at `step`.

    One of that step which is of as many sequences stays as it is. Returns what there is to tell the user, also of
    what kept it from being written; empty if nothing.
    """
    run = RunDirectory(path)
    if not run.exists():
        return ""

    def is_new() -> bool:
        known = Breakdown.read(run.breakdown, step)
        return known is None or known.sequences < breakdown.sequences

    return _kept(run, step, "breakdown", breakdown.values(), lambda: breakdown.write(run.breakdown, step), is_new)


def keep_tasks(path: Path, results: TaskResults) -> str:
    """Write what tasks came to into the run directory `path`, if it is one and is at the step of the results; what was
    measured of other tasks at that step stays. Returns what there is to tell the user; empty if nothing."""
    run = RunDirectory(path)
    if not run.exists():
        return ""

    def write() -> None:
        results.with_earlier(TaskResults.read(run.tasks)).write(run.tasks)

    return _kept(run, results.step, "task", results.values(), write)


def _kept(
    run: RunDirectory,
    step: int,
    kind: Literal["breakdown", "task"],
    values: dict[str, Any],
    write: Callable[[], None],
    is_new: Callable[[], bool] = lambda: True,
) -> str:
    file = run.breakdown if kind == "breakdown" else run.tasks
    try:
        summary = run.read_summary()
        if not is_new():
            return ""
        if summary.step != step:
            return f"not kept for comparisons: the run is at step {summary.step}, and its checkpoint at step {step}"
        with run.lock(), MetricsLog(run.metrics) as log:
            flops = summary.tokens * summary.train_flops_per_token
            log.append(kind, step=step, tokens=summary.tokens, flops=flops, **values)
            write()
    except (OSError, UserError) as error:
        return f"not kept for comparisons: {error}"
    delivery = f"; glm-scale track sync {run.path} brings it to MLflow" if run.tracking.exists() else ""
    return f"kept for comparisons in {file}{delivery}"
