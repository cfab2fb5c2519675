"""`glm-scale submit-command`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from glm_launch.cli.submit import Account, After, ClusterName, DryRun, GpusPerNode, Partition, Time


def submit_command(
    command: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="A command of glm-scale, such as data build --input …")
    ],
    cluster: ClusterName = None,
    gpus_per_node: GpusPerNode = 0,
    partition: Partition = None,
    account: Account = None,
    time: Time = None,
    after: After = None,
    dry_run: DryRun = False,
) -> None:
    """Submit another command of glm-scale to SLURM, as one process: data before a run, an evaluation behind it.

    glm-scale submit-command -- data build --input books/ --output data/books      (prints the id of the job, say 7)

    glm-scale submit configs/160m.yaml 'data.sources=[{path: data/books}]' name=books --after 7

    glm-scale submit-command --after runs/books -- evaluate runs/books --data data/books
    """
    from glm_launch.command import CommandJob, script_of, submit
    from glm_launch.profile import load_cluster
    from glm_launch.requests import jobs_named

    site = load_cluster(cluster, gpus_per_node=gpus_per_node, partition=partition, account=account, time=time)
    job = CommandJob(tuple(command), site, jobs_named(after or ()))
    if dry_run:
        sys.stdout.write(script_of(job))
        return
    number = submit(job)
    print(f"job {number}: glm-scale {' '.join(command)}\nIts output: {job.folder}/{number}_0_log.out")
