"""`glm-scale submit`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glm_scale.errors import UserError
from glm_scale.output import is_commentary

if TYPE_CHECKING:
    from glm_launch.records import Submission
    from glm_scale.config import RunConfig

ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster", envvar="GLM_SCALE_CLUSTER", metavar="NAME",
        help="Settings of the site: a file, or the name of one in configs/cluster.",
    ),
]  # fmt: skip
Nodes = Annotated[int, typer.Option(min=1, help="Nodes of each run.")]
GpusPerNode = Annotated[int | None, typer.Option(min=0, help="GPUs of each node; one process for each.")]
TasksPerNode = Annotated[int | None, typer.Option(min=1, help="Processes of each node, where no GPUs are asked for.")]
Partition = Annotated[str | None, typer.Option(help="SLURM partition.")]
Account = Annotated[str | None, typer.Option(help="SLURM account.")]
Time = Annotated[str | None, typer.Option(help="Time limit of a job: 90 (minutes), 4:00:00, 2-12:00:00.")]
After = Annotated[list[str] | None, typer.Option(metavar="JOB|RUN", help="Start when this has succeeded; repeatable.")]
Retries = Annotated[int, typer.Option(min=0, help="Failures in a row, without progress, that are borne.")]
RetryDelay = Annotated[float, typer.Option(min=0, help="Seconds before the first retry; doubled each time.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the batch script, submit nothing.")]


def submit(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG... [KEY=VALUE...]", help="Configurations, and values to replace in all of them."
        ),
    ],
    cluster: ClusterName = None,
    nodes: Nodes = 1,
    gpus_per_node: GpusPerNode = None,
    tasks_per_node: TasksPerNode = None,
    partition: Partition = None,
    account: Account = None,
    time: Time = None,
    after: After = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=[A,B]", help="A sweep: one run for each value, for each combination if repeated."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many runs of a sweep train at a time.")] = 1,
    retries: Retries = 3,
    retry_delay: RetryDelay = 30,
    lead: Annotated[
        int | None, typer.Option(min=10, help="Seconds before the limit at which runs save; default by the last save.")
    ] = None,
    local: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="No SLURM: N processes of this machine, in the background.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="New runs; one that is there is moved to NAME.1, NAME.2, …")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    r"""Submit runs to SLURM, and go home: they save before they are stopped, are requeued, and go on.

    Everything is checked first: configuration, data, layout on so many processes, time. Configuration and code are
    copied into the run directory; what is edited later does not reach the job. Preempted, timed out, on a node that
    dies: the run goes on from its newest checkpoint, as the same job and the same MLflow run. Mistakes are not retried.

      glm-scale submit configs/410m.yaml --cluster mine --nodes 2 --gpus-per-node 8 --time 2-00:00:00

      glm-scale submit configs/160m.yaml --vary 'model.mixers=\[\[ssm],\[attention]]' --concurrency 2

      glm-scale submit configs/quickstart.yaml --local 2
    """
    is_commentary()
    from glm_launch.checks import runs_of_sweep

    paths, overrides = _sorted(configs)
    runs = runs_of_sweep(paths, overrides, vary or ())
    if local is not None:
        return _start_here(runs, local, retries, retry_delay, fresh, dry_run)
    from glm_launch.profile import load_cluster
    from glm_launch.requests import Request, job_of, jobs_named
    from glm_launch.submit import script_of
    from glm_launch.submit import submit as submit_job

    site = load_cluster(cluster, gpus_per_node=gpus_per_node, partition=partition, account=account, time=time)
    request = Request(
        runs, site, nodes, tasks_per_node, jobs_named(after or ()), concurrency, lead, retries, retry_delay, fresh
    )
    job = job_of(request)
    if dry_run:
        sys.stdout.write(script_of(job))
        return None
    return tell(runs, submit_job(job))


def tell(runs: list[RunConfig], submissions: list[Submission]) -> None:
    """What was submitted, and how to watch it."""
    from rich.console import Console

    from glm_scale.cli.curves import say_where_curves_are

    console = Console()

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    places = [run.run_root / run.name for run in runs]
    for place, submission in zip(places, submissions, strict=True):
        who = f"job {submission.job}" if submission.kind == "slurm" else f"process {submission.job} on this machine"
        say(f"{who}: {submission.processes} process{'es' * (submission.processes > 1)} train in {place.absolute()}")
    say_where_curves_are(runs[0], console)
    which = _quoted(places[0] if len(places) == 1 else places[0].parent)
    say(f"Watch:  glm-scale status {which}\n        glm-scale logs -f {_quoted(places[0])}")
    say(f"Stop:   glm-scale cancel {which}")


def _start_here(
    runs: list[RunConfig], processes: int, retries: int, retry_delay: float, fresh: bool, dry_run: bool
) -> None:
    from glm_launch.checks import check_run, must_be_idle
    from glm_launch.local import start
    from glm_launch.records import LaunchFolder
    from glm_launch.submit import move_aside
    from glm_scale.cli.memory import must_find_room
    from glm_scale.config import layout_of
    from glm_scale.run_directory import RunDirectory

    if len(runs) > 1:
        raise UserError(
            f"--local starts one run at a time, not {len(runs)}; `glm-scale ladder` trains one after another"
        )
    (run,) = runs
    check_run(run, processes, data_comes_later=False, fresh=fresh)
    must_find_room(run, layout_of(run, processes))
    directory = RunDirectory(run.run_root / run.name)
    must_be_idle(LaunchFolder(directory))
    if dry_run:
        print(f"{run.name} would train in {directory.path} on {processes} processes of this machine")
        return
    if fresh:
        move_aside([directory])
    tell(runs, [start(run, processes, retries=retries, retry_delay=retry_delay)])


def _sorted(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Configurations, and overrides: KEY=VALUE, unless a file is called like that."""
    overrides = [text for text in arguments if "=" in text and not Path(text).is_file()]
    paths = [Path(text) for text in arguments if text not in overrides]
    if not paths:
        raise UserError("no configuration given, such as configs/quickstart.yaml")
    return paths, overrides


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
