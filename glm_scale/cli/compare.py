"""`glm-scale compare`: runs side by side, and the scaling curves of mixers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.run_directory import RunDirectory
    from glm_scale.scaling.report import Report
    from glm_scale.scaling.selection import Filter

# Where output goes to a file or a pipe, rich would assume 80 columns and fold the table.
_WIDE = 160


def compare(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories, or folders that hold some.", show_default="runs"),
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Only runs of which this holds; may be repeated. KEY: a column (run, mixer, parameters, tokens, "
            "flops, train_loss, validation_loss, bits_per_byte, tokens_per_second, status) or a key of the "
            "configuration. Also != < <= > >=; * stands for anything.",
        ),
    ] = None,
    finished: Annotated[bool, typer.Option("--finished", help="Only runs that have finished.")] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Scaling curve: final loss of each mixer by size.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures; default: `comparison` beside the runs."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store to log to. Default: where the first run of the table that was tracked is."),
    ] = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Do not log to MLflow.")] = False,
) -> None:
    """Compare runs: a table, and their losses against tokens and FLOPs as HTML and PNG.

    glm-scale compare runs/ --finished --filter 'mixer=lattice:*' --filter model.width=512 --filter 'parameters>=1e6'
    """
    from glm_scale.run_search import find_runs
    from glm_scale.scaling.selection import Filter
    from glm_scale.tracking.where import check_option

    check_option(tracking_uri)
    chosen = [Filter.parse(text) for text in filters or ()]
    found = find_runs(runs or [Path("runs")])
    present(
        found,
        output,
        scaling=curve,
        filters=chosen,
        finished=finished,
        tracking_uri=tracking_uri,
        tracking=not no_tracking,
    )


def present(
    runs: Sequence[RunDirectory],
    output: Path | None = None,
    *,
    scaling: bool = False,
    filters: Sequence[Filter] = (),
    finished: bool = False,
    tracking_uri: str | None = None,
    tracking: bool = True,
    parent: str | None = None,
) -> None:
    """Write the report, print it, and log it to MLflow; what `glm-scale compare` does once it has found the runs.

    parent: see `publish`.
    """
    from rich.console import Console

    from glm_scale.scaling.report import write_report

    parents = {run.path.parent for run in runs}
    folder = output or (parents.pop() if len(parents) == 1 else Path.cwd()) / "comparison"
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    report = write_report(runs, folder, scaling=scaling, filters=filters, finished=finished)
    show(report, console)
    if tracking:
        _publish(report, tracking_uri, console, parent)


def show(report: Report, console: Console) -> None:
    """Print the table, the fits, the remarks and where the files are."""
    import numpy as np

    from glm_scale.scaling.breakdown import compared_breakdowns
    from glm_scale.scaling.comparison import describe_law, render_table
    from glm_scale.scaling.verdict import verdict

    console.print(render_table(report.comparison))
    for part in compared_breakdowns(report.comparison):
        console.print()
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    for curve in report.curves:
        sizes = len(np.unique(curve.parameters))
        console.print(f"\n{curve.mixer}", style="bold", markup=False)
        console.print(f"  parameters N: {describe_law(curve.by_parameters, sizes, 'N')}", markup=False)
        budgets = len(np.unique(curve.flops))
        console.print(f"  training FLOPs C: {describe_law(curve.by_flops, budgets, 'C')}", markup=False)
    console.print()
    if count := report.comparison.unfinished:
        console.print(f"{count} unfinished run{'s' * (count > 1)} shown; --finished leaves them out", markup=False)
    for remark in report.comparison.remarks:
        console.print(f"note: {remark}", style="yellow", markup=False)
    if not report.curves and (said := verdict(report.comparison.runs)):
        console.print(said, style="bold", markup=False, soft_wrap=True)
    for path in report.files[:2]:
        console.print(f"wrote {path}", markup=False)


def _publish(report: Report, uri: str | None, console: Console, parent: str | None) -> None:
    """Log to MLflow where that is possible; a comparison is good without it."""
    from glm_scale.scaling.publish import publish, where_to_publish

    if (where := where_to_publish(report, uri)) is None:
        return
    store, experiment = where
    try:
        with console.status("logging to MLflow"):
            run_id = publish(report, store, experiment, parent=parent)
        console.print(f"MLflow: run {run_id} ({parent or report.name}) at {store}", markup=False)
    except RuntimeError as error:
        console.print(f"note: not logged to MLflow at {store}: {error}", style="yellow", markup=False)
