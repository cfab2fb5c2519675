"""Where the curves of a run can be looked at."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.config import RunConfig


def say_where_curves_are(run: RunConfig, console: Console) -> None:
    """The address of the MLflow server, or the command that starts one on the run's own file."""
    from glm_scale.run_directory import RunDirectory
    from glm_scale.tracking.uris import shortest_uri
    from glm_scale.tracking.where import where_tracked

    if not run.tracking.enabled:
        return
    uri, _ = where_tracked(RunDirectory(run.run_root / run.name), run.tracking)
    if uri.startswith("http"):
        console.print(f"MLflow: {uri}", highlight=False, soft_wrap=True, markup=False)
        return
    beside = Path(sys.executable).with_name("mlflow")
    command = "mlflow" if shutil.which("mlflow") else str(beside)
    line = shlex.join([command, "ui", "--backend-store-uri", shortest_uri(uri)])
    console.print("Curves in MLflow: start it with", highlight=False)
    console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
    console.print("and open http://127.0.0.1:5000", highlight=False)
