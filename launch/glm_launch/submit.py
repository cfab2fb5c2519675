"""Hands runs to SLURM: one job for one run, an array for several."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError

from glm_launch.after import RUNS
from glm_launch.batch_script import BatchExecutor, JobOptions, executor_for
from glm_launch.profile import Cluster
from glm_launch.records import LaunchFolder, Submission
from glm_launch.slurm import cancel, run_slurm
from glm_launch.snapshot import snapshot_code, snapshot_config
from glm_launch.task import TrainTask
from glm_scale.config import RunConfig
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import note

__all__ = ["Job", "move_aside", "script_of", "sent", "submit"]


@dataclass(frozen=True)
class Job:
    """Runs that are submitted together, and how. `folder` gets what they share; of one run that is its own.

    `fresh`: runs that are there are moved aside. `followers`: by the name of a run, others that its job trains after
    it.
    """

    runs: list[RunConfig]
    cluster: Cluster
    options: JobOptions
    retries: int
    retry_delay: float
    folder: Path
    directory: Path = field(default_factory=Path.cwd)
    remarks: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    followers: Mapping[str, Sequence[RunConfig]] = field(default_factory=dict)

    @property
    def launches(self) -> list[LaunchFolder]:
        """The launch folders of its runs."""
        return list(map(_launch_of, self.runs))

    def tasks(self) -> list[TrainTask]:
        """What each of its jobs does."""
        return [
            TrainTask(
                _launch_of(run).run.path,
                tuple(_launch_of(follower).run.path for follower in self.followers.get(run.name, ())),
            )
            for run in self.runs
        ]

    @property
    def code(self) -> Path:
        """Where the copy of the code goes."""
        return self.folder / "code"

    def executor(self) -> BatchExecutor:
        """submitit's executor with the options of this job."""
        return executor_for(self.cluster, self.options, self.folder, self.code, self.directory)


def script_of(job: Job) -> str:
    """The batch script, exactly as it would be submitted. Nothing is written."""
    return job.executor().script(len(job.runs))


def submit(job: Job) -> list[Submission]:
    """Write the snapshots and submit. Returns a submission for each run, in order.

    Ctrl-C comes through when the job is either not submitted or known; in that case it is cancelled again, as if it
    cannot be written down.
    Raises UserError if SLURM refuses, and says what it said.
    """
    run_slurm("sbatch", "--version")
    _ask_whether_it_can_run(job)
    if job.fresh:
        move_aside(launch.run for launch in job.launches)
    job.folder.mkdir(parents=True, exist_ok=True)
    for config in (*job.runs, *chain.from_iterable(job.followers.values())):
        launch = _launch_of(config)
        launch.run.create()
        launch.path.mkdir(exist_ok=True)
        snapshot_config(config, launch.config)
    snapshot_code(job.code)
    (job.folder / RUNS).write_text(
        "".join(f"{launch.run.path}\n" for launch in job.launches), encoding="utf-8", errors="surrogateescape"
    )
    for launch in job.launches:
        launch.cancelled.unlink(missing_ok=True)  # before: the job may start at once, and look for it
    with _uninterrupted() as interrupted:
        ids = sent(job.executor(), job.tasks())
        try:
            submissions = [_note(job, launch, number) for launch, number in zip(job.launches, ids, strict=True)]
            if interrupted:
                raise KeyboardInterrupt
        except BaseException:
            cancel(ids[0].partition("_")[0])
            raise
    return submissions


def _launch_of(run: RunConfig) -> LaunchFolder:
    return LaunchFolder(RunDirectory(run.run_root / run.name))


def move_aside(runs: Iterable[RunDirectory]) -> None:
    """Make room for new runs, and say where those are now that were there. Raises UserError if one cannot be moved."""
    for run in runs:
        if (place := run.set_aside()) is not None:
            note(f"the run that was in {run.path} is now in {place}")


def _ask_whether_it_can_run(job: Job) -> None:
    """SLURM takes some jobs that can never run, and lets them wait for ever. Nothing of the runs is touched."""
    alone = dataclasses.replace(job, options=dataclasses.replace(job.options, dependency=None))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "submission-test.sh")
        script.write_text(script_of(alone), encoding="utf-8", errors="surrogateescape")
        try:
            run_slurm("sbatch", "--test-only", f"--chdir={job.directory}", str(script))
        except UserError as error:
            raise UserError(f"SLURM would not run this job, so it was not submitted: {error}") from None


def sent(executor: BatchExecutor, tasks: Sequence[Callable[[], Any]]) -> list[str]:
    """Submit tasks, several as an array; returns the ids. Raises UserError with what sbatch said."""
    try:
        if len(tasks) == 1:
            return [executor.submit(tasks[0]).job_id]
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
        return [each.job_id for each in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch refused the job: {error}") from error


def _note(job: Job, launch: LaunchFolder, number: str) -> Submission:
    submission = Submission(
        kind="slurm",
        job=number,
        host=os.environ.get("SLURM_CLUSTER_NAME", socket.gethostname()),
        folder=job.folder,
        nodes=job.options.nodes,
        tasks_per_node=job.options.tasks_per_node,
        working_directory=job.directory,
        submitted=time.time(),
        retries=job.retries,
        retry_delay=job.retry_delay,
        options=job.remarks,
    )
    launch.write_submission(submission)
    return submission


@contextlib.contextmanager
def _uninterrupted() -> Iterator[list[int]]:
    """Signals that would end this process are put into the list; sbatch has a session of its own, beyond Ctrl-C.

    Blocking them would not do: other threads take what one has blocked.
    """
    # What is ignored, as SIGHUP under nohup, stays so.
    all_numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in all_numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    handlers = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
