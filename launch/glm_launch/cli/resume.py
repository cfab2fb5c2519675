"""`glm-scale resume`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm_launch.cli.submit import DryRun, tell
from glm_scale.cli.arguments import Overrides
from glm_scale.errors import UserError
from glm_scale.output import is_commentary

if TYPE_CHECKING:
    from glm_launch.records import LaunchFolder
    from glm_scale.config import RunConfig


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    overrides: Overrides = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Another number of nodes than before.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(min=0, help="Another number of GPUs than before.")] = None,
    tasks_per_node: Annotated[int | None, typer.Option(min=1, help="Another number of processes than before.")] = None,
    time: Annotated[str | None, typer.Option(help="Another time limit than before.")] = None,
    local: Annotated[int | None, typer.Option(min=1, metavar="N", help="On N processes of this machine.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Submit a run again that was cancelled, or has failed: from its newest checkpoint, with the code as it is now.

    Nodes, processes and layout may be others than before, and so may the values that do not make it another run.
    Relative paths in the configuration are relative to where it was submitted first, wherever this is typed.
    """
    is_commentary()
    from glm_launch.checks import check_run, must_be_idle, wait_until_saved
    from glm_launch.finding import launched
    from glm_launch.local import start
    from glm_launch.profile import Cluster
    from glm_launch.requests import Request, job_of
    from glm_launch.submit import script_of, submit
    from glm_scale.cli.memory import must_find_room
    from glm_scale.config import layout_of, validate
    from glm_scale.run_search import note

    folder, before = launched(run)
    if not before.working_directory.is_dir():
        raise UserError(f"{before.working_directory}, where {folder.run.path} was submitted, is not there any more")
    elsewhere = not before.working_directory.samefile(Path.cwd())
    os.chdir(before.working_directory)
    config = _configured(folder, overrides or [])
    if not dry_run:
        wait_until_saved(folder, note)
    # What is shown has to be right where this is typed.
    shown = config.model_copy(update={"run_root": folder.run.path.parent}) if elsewhere else config
    if local or before.kind == "local":
        processes = local or before.processes
        check_run(config, processes, data_comes_later=False)
        must_find_room(config, layout_of(config, processes))
        must_be_idle(folder)
        if dry_run:
            print(f"{config.name} would train in {folder.run.path} on {processes} processes of this machine")
            return
        tell([shown], [start(config, processes, retries=before.retries, retry_delay=before.retry_delay)])
        return
    asked = dict(before.options)
    site = validate(Cluster, asked.pop("cluster"), str(folder.submission_file))
    changes = {"gpus_per_node": gpus_per_node, "time": time}
    site = validate(Cluster, site.model_dump() | {k: v for k, v in changes.items() if v is not None}, "the options")
    request = Request(runs=[config], cluster=site, directory=before.working_directory, **asked)
    if nodes is not None:
        request = dataclasses.replace(request, nodes=nodes)
    if tasks_per_node is not None:
        request = dataclasses.replace(request, tasks_per_node=tasks_per_node)
    job = job_of(request)
    if dry_run:
        sys.stdout.write(script_of(job))
        return
    tell([shown], submit(job))


def _configured(folder: LaunchFolder, overrides: list[str]) -> RunConfig:
    """How the run was submitted, with what is changed now, for the directory in which it lies today.

    A run whose directory was renamed or moved goes on where it is. Copies of the configuration that cannot be read are
    passed over for the next best one. Raises UserError if there is none.
    """
    from glm_scale.config import replaced
    from glm_scale.run.recorded import recorded_config
    from glm_scale.run_search import note

    recorded = recorded_config(folder.run, first=folder.config)
    for remark in recorded.remarks:
        note(remark)
    config = replaced(recorded.values, overrides, str(folder.config))
    place = config.run_root / config.name
    if place.exists() and place.samefile(folder.run.path):
        return config
    note(f"the run was submitted as {place}, and goes on as {folder.run.path}")
    moved = [f"name={json.dumps(folder.run.name)}", f"run_root={json.dumps(str(folder.run.path.parent))}"]
    return replaced(recorded.values, [*overrides, *moved], str(folder.config))
