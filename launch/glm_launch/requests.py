"""From what a user asks for to a job that is known to be possible: everything is checked before SLURM hears of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from glm_launch.batch_script import JobOptions
from glm_launch.checks import check_memory_of_nodes, check_run, lead_of, must_be_idle
from glm_launch.profile import Cluster
from glm_launch.records import LaunchFolder
from glm_launch.submit import Job
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory

__all__ = ["Request", "job_of", "jobs_named"]


@dataclass(frozen=True)
class Request:
    """Runs, and on what they are to train.

    `tasks_per_node`: processes of a node; None: one for each GPU. `after`: ids of jobs that have to succeed first.
    `parallel`: how many runs of a sweep train at a time. `lead`: seconds that are kept for saving; None: by what is
    known. `fresh`: runs that are there are moved aside, and new ones begin. `followers`: see `Job`.
    """

    runs: list[RunConfig]
    cluster: Cluster
    nodes: int = 1
    tasks_per_node: int | None = None
    after: tuple[str, ...] = ()
    parallel: int = 1
    lead: int | None = None
    retries: int = 3
    retry_delay: float = 30.0
    fresh: bool = False
    followers: Mapping[str, Sequence[RunConfig]] = field(default_factory=dict)
    directory: Path = field(default_factory=Path.cwd)

    def remembered(self) -> dict[str, Any]:
        """What `glm-scale resume` has to know to ask for the same again."""
        return {
            "cluster": self.cluster.model_dump(mode="json"),
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            "lead": self.lead,
            "retries": self.retries,
            "retry_delay": self.retry_delay,
        }


def job_of(request: Request) -> Job:
    """The job of a request. Raises UserError, naming what stands against it; nothing is written."""
    cluster = request.cluster
    tasks = cluster.gpus_per_node if request.tasks_per_node is None else request.tasks_per_node
    if tasks < 1:
        raise UserError("--gpus-per-node 0 leaves no process to start; say how many with --tasks-per-node")
    for run in (*request.runs, *chain.from_iterable(request.followers.values())):
        wants_gpu = run.training.device != "cpu"
        if wants_gpu and 0 < cluster.gpus_per_node < tasks:
            raise UserError(f"--tasks-per-node {tasks}, but a node has {cluster.gpus_per_node} GPUs: one process a GPU")
        check_run(run, request.nodes * tasks, data_comes_later=bool(request.after), fresh=request.fresh)
        if remark := check_memory_of_nodes(run, cluster, request.nodes, tasks):
            print(f"warning: {remark}", file=sys.stderr)
        must_be_idle(LaunchFolder(RunDirectory(run.run_root / run.name)))
    options = JobOptions(
        name=request.runs[0].name if len(request.runs) == 1 else f"{request.runs[0].name}+{len(request.runs) - 1}",
        nodes=request.nodes,
        tasks_per_node=tasks,
        gpus_per_node=cluster.gpus_per_node,
        lead=lead_of(request.runs, cluster.time, request.lead),
        parallel=request.parallel,
        dependency=f"afterok:{':'.join(request.after)}" if request.after else None,
    )
    return Job(
        request.runs, cluster, options, request.retries, request.retry_delay, _folder_for(request.runs),
        request.directory, request.remembered(), request.fresh, request.followers,
    )  # fmt: skip


def jobs_named(names: Sequence[str]) -> tuple[str, ...]:
    """Ids of jobs that are given by id, or by the directory of the run that they train. Raises UserError."""
    return tuple(name if name.replace("_", "").isdigit() else _job_of_run(name) for name in names)


def _job_of_run(path: str) -> str:
    submission = LaunchFolder(RunDirectory(path)).submission()
    if submission is None or submission.kind != "slurm":
        raise UserError(
            f"--after {path!r} is neither the id of a job nor the directory of a run that is in SLURM's queue"
        )
    return submission.job


def _folder_for(runs: Sequence[RunConfig]) -> Path:
    if len(runs) == 1:
        return LaunchFolder(RunDirectory(runs[0].run_root / runs[0].name)).path
    return runs[0].run_root.absolute() / "sweeps" / f"{runs[0].name}-{time.strftime('%Y%m%d-%H%M%S')}"
