"""What `glm-scale evaluate --tasks` does once its options are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glm_scale.errors import UserError
from glm_scale.evaluation.loading import Chosen, require_lm_eval
from glm_scale.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.inference import LoadedModel
    from glm_scale.tracking.task_results import TaskResults

__all__ = ["ask_tasks", "chosen_tasks"]


def chosen_tasks(
    tasks: str, limit: int | None, few_shot: int | None, include: Path | None, context_lengths: str | None
) -> Chosen:
    """What the options mean. Raises UserError where they mean nothing, and if lm-eval is not installed."""
    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names:
        raise UserError(f"--tasks {tasks!r} names no task; an example: --tasks arc_easy,my-task.yaml,recall_needle")
    require_lm_eval()
    return Chosen(names, limit, few_shot, include, _lengths(context_lengths) if context_lengths is not None else ())


def _lengths(text: str) -> tuple[int, ...]:
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        lengths = ()
    if not lengths or not all(0 < length <= 2**24 for length in lengths):
        raise UserError(f"--context-lengths {text!r} has to be numbers of tokens, such as 256,1024,4096")
    return lengths


def ask_tasks(
    loaded: LoadedModel,
    path: Path,
    chosen: Chosen,
    length: int | None,
    batch_tokens: int | None,
    figure: Path | None,
    console: Console,
) -> None:
    """Measure the tasks, print what they come to, and keep it in the directory of a run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from glm_scale.evaluation.evaluating import evaluate_tasks
    from glm_scale.inference.keeping import keep_tasks
    from glm_scale.scaling.task_tables import task_table

    # The file itself: lm-eval's own progress bars are sent elsewhere meanwhile.
    errors = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        shown = progress.add_task("reading tasks", total=None)
        results = evaluate_tasks(
            loaded,
            path,
            chosen,
            length,
            batch_tokens,
            lambda done, total: progress.update(shown, description="requests", completed=done, total=total),
        )
    console.print(f"{path} at step {loaded.step}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    console.print(task_table(results))
    if remark := keep_tasks(path, results):
        errors.print(remark, highlight=False, markup=False, soft_wrap=True)
    if where := _draw(loaded, path, results, figure):
        errors.print(f"wrote {where}", highlight=False, markup=False, soft_wrap=True)


def _draw(loaded: LoadedModel, path: Path, results: TaskResults, figure: Path | None) -> Path | None:
    """Where recall was drawn; None where there is none to draw, or no place for it."""
    from glm_scale.scaling.pictures.tasks import write_tasks
    from glm_scale.scaling.task_tables import Measured

    run = RunDirectory(path)
    where = figure or (run.plots / "tasks.html" if run.exists() else None)
    if where is None:
        return None
    mixer = loaded.config.model.mixer_name
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        return (
            where if write_tasks([Measured(mixer, mixer, results)], where, f"Tasks of {loaded.config.name}") else None
        )
    except OSError as error:
        raise UserError(f"cannot write to {where}: {error.strerror}; choose another name with --figure") from error
