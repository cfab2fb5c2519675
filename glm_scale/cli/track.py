"""`glm-scale track`: the MLflow side of runs."""

import logging
from pathlib import Path
from typing import Annotated

import typer


def sync(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders that hold some.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow store. Default: where the run is tracked already, else tracking.uri of its configuration, "
            "else what MLFLOW_TRACKING_URI says, else sqlite:///mlflow.db.",
            show_default=False,
        ),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow experiment; default: the one the run was tracked with.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Give up on a dead server after this many seconds.")] = 60.0,
) -> None:
    """Deliver to MLflow what it has missed: metrics, artifacts and the final status of runs."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.markup import escape

    from glm_scale.errors import UserError
    from glm_scale.run_search import find_runs
    from glm_scale.tracking.sync import sync as replay

    console = Console()
    logger = logging.getLogger("glm_scale.tracking")
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    logger.addHandler(handler)
    found, missed = find_runs(runs), 0
    try:
        for run in found:
            why = "not everything was delivered"
            try:
                with console.status(f"{run.name}: replaying to MLflow"):
                    state = replay(run, tracking_uri, experiment, timeout)
            except UserError as error:
                if len(found) == 1:
                    raise
                # A damaged run must not keep the others from being delivered.
                state, why = None, str(error)
            if state is None:
                missed += 1
                console.print(f"[red]✗[/red] {escape(run.name)}: {escape(why)}", soft_wrap=True)
            else:
                status = run.read_summary().status
                console.print(
                    f"[green]✓[/green] {run.name}: {status}, MLflow run {state.run_id} at {state.uri}", soft_wrap=True
                )
    finally:
        logger.removeHandler(handler)
    if missed:
        raise typer.Exit(1)
