"""`glm-scale cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glm_scale.errors import UserError
from glm_scale.output import is_commentary


def cancel(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of them.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when they have saved and ended.")] = False,
) -> None:
    """End runs for good: what trains saves a checkpoint first, and nothing is restarted. `resume` takes that back.

    It returns at once; with --wait when the runs have ended. Ctrl-C then ends the waiting, not the saving.
    """
    is_commentary()
    from glm_launch.cancel import cancel_run, wait_for_end
    from glm_launch.finding import find_launched
    from glm_launch.records import LaunchFolder
    from glm_scale.run_search import usable

    def cancelled(folder: LaunchFolder) -> LaunchFolder:
        print(f"{folder.run.path}: {cancel_run(folder)}", flush=True)
        return folder

    failed: list[str] = []
    # One that cannot be cancelled keeps none of the others from it.
    done = usable(map(LaunchFolder, find_launched(runs)), cancelled, failed.append)
    try:
        for folder in done if wait else []:
            end = wait_for_end(folder, lambda text, run=folder.run: print(f"{run.path}: {text}", flush=True))  # type: ignore[misc]
            print(f"{folder.run.path}: {end}", flush=True)
    except KeyboardInterrupt:
        print("not waiting any longer; what saves goes on, and `glm-scale status` tells when it has ended")
        raise typer.Exit(130) from None
    if failed:
        raise UserError("\n".join(failed))
