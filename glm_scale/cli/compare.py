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
    from glm_scale.scaling.report import Asked, Report
    from glm_scale.scaling.selection import Filter

Figures = Annotated[
    list[Path] | None,
    typer.Option(
        "--figure",
        metavar="FILE",
        help="A figure of its own, as .pdf, .svg, .png or .html says; may be repeated.",
    ),
]
Across = Annotated[
    str,
    typer.Option(
        help="What figures have across, a panel for each: tokens, flops, seconds, parameters, decode_flops, cache; "
        "position and recall: which tokens one mixer predicts better, by their place and by how far back is what they "
        "repeat; rate: where the best learning rate of each size is."
    ),
]
Up = Annotated[str, typer.Option(help="What figures have up: loss or bits_per_byte.")]

OfSource = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Take validation losses of one data set alone, of runs with several: the name of its folder.",
    ),
]

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
    curve: Annotated[
        bool,
        typer.Option("--curve", help="Runs that differ in size and tokens: a law of all mixers, and what each costs."),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MIXER", help="With --curve: with which the others are compared. Default: attention."),
    ] = None,
    figure: Figures = None,
    x: Across = "tokens,flops",
    y: Up = "loss",
    source: OfSource = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the figures; default: `comparison` or `comparison-SOURCE` beside the runs."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow store to log to. Default: where the first run of the table that was tracked is."),
    ] = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Do not log to MLflow.")] = False,
) -> None:
    """Compare runs: a table, and their losses against what they took, as an interactive page and a picture.

    A figure for a paper: glm-scale compare runs/ --figure loss.pdf --x flops,cache

    glm-scale compare runs/ --finished --filter 'mixer=lattice:*' --filter model.width=512 --filter 'parameters>=1e6'
    """
    from glm_scale.errors import UserError
    from glm_scale.run_search import find_runs
    from glm_scale.scaling.selection import Filter
    from glm_scale.tracking.where import check_option

    check_option(tracking_uri)
    if reference is not None and not curve:
        raise UserError(f"--reference {reference!r} is of --curve, which compares costs at equal loss; add it")
    chosen = [Filter.parse(text) for text in filters or ()]
    found = find_runs(runs or [Path("runs")])
    present(
        found,
        output,
        scaling=curve,
        reference=reference,
        asked=asked_for(figure, x, y),
        source=source,
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
    reference: str | None = None,
    asked: Asked | None = None,
    source: str | None = None,
    filters: Sequence[Filter] = (),
    finished: bool = False,
    tracking_uri: str | None = None,
    tracking: bool = True,
    parent: str | None = None,
) -> bool:
    """Write the report, print it, and log it to MLflow; what `glm-scale compare` does once it has found the runs.

    parent: see `publish`. Returns whether MLflow has it, and it has been said where.
    """
    from rich.console import Console

    from glm_scale.scaling.report import default_folder, write_report

    parents = {run.path.parent for run in runs}
    folder = output or (parents.pop() if len(parents) == 1 else Path.cwd()) / default_folder(source)
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    report = write_report(
        runs,
        folder,
        scaling=scaling,
        reference=reference,
        filters=filters,
        finished=finished,
        asked=asked,
        source=source,
    )
    show(report, console)
    return tracking and _publish(report, tracking_uri, console, parent)


def asked_for(figures: Sequence[Path] | None, x: str, y: str) -> Asked:
    """What --figure, --x and --y mean. Raises UserError for formats and axes that are none."""
    from glm_scale.scaling.pictures.quantities import chosen_across, chosen_loss
    from glm_scale.scaling.report import Asked

    return Asked(tuple(figures or ()), chosen_across(x), chosen_loss(y))


def show(report: Report, console: Console) -> None:
    """Print the table, what the runs say of scaling, the remarks and where the files are."""
    from glm_scale.scaling.breakdown import compared_breakdowns
    from glm_scale.scaling.comparison import render_table
    from glm_scale.scaling.gaps import gaps, render_gaps
    from glm_scale.scaling.task_tables import compared_tasks

    console.print(render_table(report.comparison))
    for part in (*compared_tasks(report.tasks), *compared_breakdowns(report.comparison)):
        console.print()
        console.print(part, markup=False, soft_wrap=isinstance(part, str))
    console.print()
    if report.answer is not None and (found := gaps(report.points, report.answer)) is not None:
        console.print(render_gaps(found))
        console.print(f"{found.note}\n", markup=False, soft_wrap=True)
    for sentence in report.answer.sentences if report.answer else ():
        console.print(sentence, markup=False, soft_wrap=True)
    if count := report.comparison.unfinished:
        console.print(f"{count} unfinished run{'s' * (count > 1)} shown; --finished leaves them out", markup=False)
    for remark in report.comparison.remarks:
        console.print(f"note: {remark}", style="yellow", markup=False)
    if said := report.verdict:
        console.print(said, style="bold", markup=False, soft_wrap=True)
    for path in report.files:
        if path.suffix != ".json":
            console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _publish(report: Report, uri: str | None, console: Console, parent: str | None) -> bool:
    """Log to MLflow where that is possible, and say where it is there; a comparison is good without it."""
    from glm_scale.cli.curves import say_where_figures_are
    from glm_scale.scaling.publish import publish, where_to_publish

    if (where := where_to_publish(report, uri)) is None:
        return False
    store, experiment = where
    try:
        with console.status("logging to MLflow"):
            published = publish(report, store, experiment, parent=parent)
    except RuntimeError as error:
        console.print(f"note: not logged to MLflow at {store}: {error}", style="yellow", markup=False)
        return False
    say_where_figures_are(published, store, console)
    return True
