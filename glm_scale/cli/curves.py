"""Where the curves of a run can be looked at."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.config import RunConfig


def say_where_curves_are(run: RunConfig, console: Console) -> None:
    """The address of the MLflow server, or the command that starts one on the run's own file."""
    from glm_scale.tracking.config import resolve_uri

    if not run.tracking.enabled:
        return
    uri = resolve_uri(run.tracking.uri)
    if uri.startswith("http"):
        console.print(f"MLflow: {uri}", highlight=False, soft_wrap=True)
        return
    beside = Path(sys.executable).with_name("mlflow")
    command = "mlflow" if shutil.which("mlflow") else str(beside)
    console.print("Curves in MLflow: start it with", highlight=False)
    console.print(f"  {command} ui --backend-store-uri {uri}", highlight=False, soft_wrap=True, markup=False)
    console.print("and open http://127.0.0.1:5000", highlight=False)
