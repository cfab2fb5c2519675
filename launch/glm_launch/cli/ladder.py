"""`glm-scale ladder submit`."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from glm_launch.cli.submit import (
    Account,
    ClusterName,
    DryRun,
    GpusPerNode,
    Nodes,
    Partition,
    Retries,
    RetryDelay,
    TasksPerNode,
    Time,
    tell,
)
from glm_scale.cli.arguments import ConfigPath, Overrides
from glm_scale.errors import UserError
from glm_scale.output import is_commentary

if TYPE_CHECKING:
    from glm_scale.ladder import Ladder, Member


def submit(
    config: ConfigPath,
    overrides: Overrides = None,
    cluster: ClusterName = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = None,
    tasks_per_node: TasksPerNode = None,
    partition: Partition = None,
    account: Account = None,
    time: Time = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many jobs of the array run at a time.")] = 4,
    retries: Retries = 3,
    retry_delay: RetryDelay = 30,
    dry_run: DryRun = False,
) -> None:
    """Submit what is not finished of a ladder to SLURM, as one array.

    A run and those that begin from it are one job, which trains them one after the other. Each job saves before it is
    stopped, is requeued, and goes on; see `glm-scale submit`.
    """
    is_commentary()
    from glm_launch.profile import load_cluster
    from glm_launch.requests import Request, job_of
    from glm_launch.submit import script_of
    from glm_launch.submit import submit as submit_job
    from glm_scale.ladder import read_ladder

    families = _left(read_ladder(config, overrides or ()))
    if not families:
        raise UserError(f"all runs of {config} have finished; glm-scale ladder run {config} compares them")
    site = load_cluster(cluster, gpus_per_node=gpus_per_node, partition=partition, account=account, time=time)
    request = Request(
        [first.config for first, *_ in families], site, nodes, tasks_per_node, parallel=concurrency, retries=retries,
        retry_delay=retry_delay, followers={first.name: [m.config for m in rest] for first, *rest in families},
    )  # fmt: skip
    job = job_of(request)
    if dry_run:
        sys.stdout.write(script_of(job))
        return
    tell(request.runs, submit_job(job))


def _left(ladder: Ladder) -> list[list[Member]]:
    """Runs that have not finished: each with those that begin from the same one."""
    from glm_scale.ladder import is_finished

    families = (list(family) for _, family in groupby(ladder.members, lambda member: member.trunk or member.name))
    left = ([member for member in family if not is_finished(member)] for family in families)
    return [family for family in left if family]
