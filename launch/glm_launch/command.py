"""Other commands of glm-scale as jobs of one process, for what comes before and after a run."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from glm_launch.batch_script import BatchExecutor, JobOptions, executor_for
from glm_launch.profile import Cluster
from glm_launch.slurm import run_slurm
from glm_launch.snapshot import snapshot_code
from glm_launch.submit import sent
from glm_scale.errors import UserError

__all__ = ["CommandJob", "CommandTask", "script_of", "submit"]


@dataclass(frozen=True)
class CommandTask:
    """Called by submitit. A command that fails, fails the job; what waits for it is then cancelled."""

    arguments: tuple[str, ...]

    def __call__(self) -> int:
        code = subprocess.run([sys.executable, "-m", "glm_launch.cli.app", *self.arguments]).returncode
        if code:
            sys.exit(code)
        return 0


@dataclass(frozen=True)
class CommandJob:
    """`after`: ids of jobs that have to succeed first. Files of the job go to `folder`."""

    arguments: tuple[str, ...]
    cluster: Cluster
    after: tuple[str, ...] = ()
    directory: Path = field(default_factory=Path.cwd)
    folder: Path = field(default_factory=lambda: Path("runs/commands").absolute() / time.strftime("%Y%m%d-%H%M%S"))

    def executor(self) -> BatchExecutor:
        """submitit's executor with the options of this job."""
        options = JobOptions(
            name="-".join(["glm", *self.arguments[:2]])[:40],
            nodes=1,
            tasks_per_node=1,
            gpus_per_node=self.cluster.gpus_per_node,
            lead=60,
            dependency=f"afterok:{':'.join(self.after)}" if self.after else None,
        )
        return executor_for(self.cluster, options, self.folder, self.folder / "code", self.directory, trains=False)


def script_of(job: CommandJob) -> str:
    """The batch script that would be submitted."""
    return job.executor().script()


def submit(job: CommandJob) -> str:
    """Returns the id. Raises UserError if there is no such command, or SLURM refuses."""
    run_slurm("sbatch", "--version")
    _must_exist(job.arguments)
    job.folder.mkdir(parents=True, exist_ok=True)
    snapshot_code(job.folder / "code")
    return sent(job.executor(), [CommandTask(job.arguments)])[0]


def _must_exist(arguments: tuple[str, ...]) -> None:
    """A mistyped command must not wait in a queue to be found out."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments[:2]))
    asked = [sys.executable, "-m", "glm_launch.cli.app", *words, "--help"]
    if not words or subprocess.run(asked, capture_output=True).returncode:
        raise UserError(f"glm-scale has no command {' '.join(words)!r}; see glm-scale --help")
