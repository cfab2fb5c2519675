"""`glm-scale cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cancel(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of them.")],
) -> None:
    """End runs for good: what trains saves a checkpoint first, and nothing is restarted. `resume` takes that back."""
    from glm_launch.cancel import cancel_run
    from glm_launch.finding import find_launched
    from glm_launch.records import LaunchFolder

    for run in find_launched(runs):
        print(f"{run.path}: {cancel_run(LaunchFolder(run))}")
