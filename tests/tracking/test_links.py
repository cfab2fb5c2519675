"""Links into MLflow, as they are printed."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console

from glm_scale.cli.curves import say_where_figures_are
from glm_scale.scaling.publication import Published

PUBLISHED = Published(experiment_id="7", run_id="abc", page="law fit.html", view="key")
PAGE = "#/experiments/7/runs/abc/artifacts/law%20fit.html?workflowType=machine_learning"
CHARTS = "#/experiments/7/runs?compareRunsMode=CHART&viewStateShareKey=key&workflowType=machine_learning"


def said(uri: str) -> list[str]:
    console = Console(file=(text := io.StringIO()), width=20)
    say_where_figures_are(PUBLISHED, uri, console)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("server", ["http://127.0.0.1:5055", "https://ml.example.org/tracking/"])
def test_of_a_server_the_links_open_the_figure_and_the_charts(server):
    base = server.rstrip("/")
    assert said(server) == [f"Figures in MLflow: {base}/{PAGE}", f"Runs in its charts: {base}/{CHARTS}"]


def test_of_a_file_there_is_the_command_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, command, page, charts = said(f"sqlite:///{tmp_path}/mlflow.db")
    assert shlex.split(command)[1:] == ["ui", "--backend-store-uri", "sqlite:///mlflow.db"]
    assert page == f"Figures in MLflow: http://127.0.0.1:5000/{PAGE}"
    assert charts == f"Runs in its charts: http://127.0.0.1:5000/{CHARTS}"
