"""Addresses of pages in MLflow's user interface, and the command that starts one. Texts only: no MLflow, no network.

The pages are those of MLflow 3.10 to 3.17, whose addresses have a fragment behind that of the server.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from glm_scale.tracking.uris import shortest_uri

__all__ = ["LOCAL_SERVER", "VIEW_TAG", "artifact_page", "chart_page", "is_server", "start_command"]

LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens if it is told nothing."""

VIEW_TAG = "mlflow.sharedViewState."
"""Beginning of the tag of an experiment that holds a view; its end is the view's key."""

# Without it a browser that is new to the server sees the navigation of traces and prompts.
_TRAINING = ("workflowType", "machine_learning")


def is_server(uri: str) -> bool:
    """Whether a store is a server whose address opens in a browser."""
    return uri.startswith(("http://", "https://"))


def artifact_page(server: str, experiment_id: str, run_id: str, artifact: str) -> str:
    """The page that shows an artifact of a run. An empty `server` gives the part that links within MLflow have."""
    query = urlencode([_TRAINING])
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(artifact)}?{query}"


def chart_page(server: str, experiment_id: str, view: str) -> str:
    """The charts of an experiment's runs in the view of that key."""
    query = urlencode([("compareRunsMode", "CHART"), ("viewStateShareKey", view), _TRAINING])
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def start_command(uri: str) -> str:
    """What starts a server on a store that is none."""
    beside = Path(sys.executable).with_name("mlflow")
    command = "mlflow" if shutil.which("mlflow") else str(beside)
    return shlex.join([command, "ui", "--backend-store-uri", shortest_uri(uri)])
