"""Where the curves of a run, and the figures of a comparison, can be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.config import RunConfig
    from glm_scale.scaling.publication import Published


def say_where_curves_are(run: RunConfig, console: Console) -> None:
    """The address of the MLflow server, or the command that starts one on the run's own file."""
    from glm_scale.run_directory import RunDirectory
    from glm_scale.tracking.links import LOCAL_SERVER, is_server
    from glm_scale.tracking.where import where_tracked

    if not run.tracking.enabled:
        return
    uri, _ = where_tracked(RunDirectory(run.run_root / run.name), run.tracking)
    if is_server(uri):
        _say(console, f"MLflow: {uri}")
        return
    _say_how_to_start(uri, console)
    _say(console, f"and open {LOCAL_SERVER}")


def say_where_figures_are(published: Published, uri: str, console: Console) -> None:
    """Links that open the figures of a comparison and the charts of its runs, after the command that starts a server
    where the store `uri` is none."""
    from glm_scale.tracking.links import LOCAL_SERVER, artifact_page, chart_page, is_server

    if not is_server(uri):
        _say_how_to_start(uri, console)
    server = uri if is_server(uri) else LOCAL_SERVER
    page = artifact_page(server, published.experiment_id, published.run_id, published.page)
    charts = chart_page(server, published.experiment_id, published.view)
    _say(console, f"Figures in MLflow: {page}")
    _say(console, f"Runs in its charts: {charts}")


def _say_how_to_start(uri: str, console: Console) -> None:
    from glm_scale.tracking.links import start_command

    _say(console, "Curves in MLflow: start it with")
    _say(console, f"  {start_command(uri)}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)
