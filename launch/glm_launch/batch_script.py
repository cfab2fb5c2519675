"""The batch script of a job, made by submitit, with what this project needs around its processes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from glm_launch.profile import Cluster

__all__ = ["BatchExecutor", "JobOptions", "executor_for"]


@dataclass(frozen=True)
class JobOptions:
    """How large a job is and how it is queued.

    `lead`: seconds before the time limit at which its processes are asked to save and end. `parallel`: how many jobs of
    an array run at a time. `dependency`: as sbatch has it.
    """

    name: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    lead: int
    parallel: int = 1
    dependency: str | None = None


class BatchExecutor(submitit.SlurmExecutor):
    """Of submitit's executor only the way to sbatch is another one.

    Paths go to sbatch as arguments, because comments of a script know no quotes that are safe for every name.
    """

    @classmethod
    def affinity(cls) -> int:
        return 2  # what is missing is said by those who need it; a dry run needs nothing

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", f"--chdir={self.folder}", str(submission_file_path)]

    def script(self) -> str:
        """What would be submitted."""
        return self._make_submission_file_text(self._submitit_command_str, "") + "\n"


def executor_for(
    cluster: Cluster, options: JobOptions, folder: Path, code: Path, directory: Path, *, trains: bool = True
) -> BatchExecutor:
    """An executor that submits jobs as `options` say. Their files go to `folder`.

    code: the folder of the snapshot that they run. directory: where their processes work. trains: `folder` lists runs,
    whose attempts are kept account of.
    """
    container = cluster.container
    python = container.command(directory) if container else cluster.interpreter
    executor = BatchExecutor(folder, python=python)
    named = {
        "partition": cluster.partition, "account": cluster.account, "qos": cluster.qos,
        "constraint": cluster.constraint, "cpus_per_task": cluster.cpus_per_task, "mem": cluster.memory,
        "dependency": options.dependency,
        "gpus_per_node": options.gpus_per_node or None,
    }  # fmt: skip
    executor.update_parameters(
        job_name=options.name,
        time=cluster.time,
        nodes=options.nodes,
        ntasks_per_node=options.tasks_per_node,
        signal_delay_s=options.lead,
        array_parallelism=options.parallel,
        setup=_setup(cluster, code, directory) + (_begin(cluster, options, folder) if trains else []),
        teardown=_end(cluster, folder) if trains else None,
        srun_args=_srun_arguments(cluster, directory),
        wckey=None,
        additional_parameters=_more_options(cluster),
        **{name: value for name, value in named.items() if value is not None},
    )
    return executor


def _more_options(cluster: Cluster) -> dict[str, Any]:
    return {
        "output": "batch-%j.out",
        "error": "batch-%j.out",
        "requeue": True,
        "kill-on-invalid-dep": "yes",
        **cluster.sbatch,
    }


def _srun_arguments(cluster: Cluster, directory: Path) -> list[str]:
    """A process that dies takes the others along. srun no longer takes over how many CPUs a task has."""
    cpus = [f"--cpus-per-task={cluster.cpus_per_task}"] if cluster.cpus_per_task else []
    return ["--kill-on-bad-exit=1", *cpus, *(cluster.container.srun_arguments(directory) if cluster.container else [])]


def _setup(cluster: Cluster, code: Path, directory: Path) -> list[str]:
    return [
        f"cd {_quoted(directory)} || exit",
        *(f"module load {_quoted(module)}" for module in cluster.modules),
        *(f"export {name}={_quoted(value)}" for name, value in cluster.exports.items()),
        *cluster.setup,
        f"export PYTHONPATH={_quoted(code)}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


def _begin(cluster: Cluster, options: JobOptions, folder: Path) -> list[str]:
    return [
        f"export GLM_LAUNCH_LEAD={options.lead}",
        # The shell has to outlive the signals that end its processes: it decides what comes next.
        "trap : TERM USR1 USR2",
        f"GLM_LAUNCH_ATTEMPT=$({cluster.interpreter} -m glm_launch.after begin {_quoted(folder)}) || exit",
        "export GLM_LAUNCH_ATTEMPT",
    ]


def _end(cluster: Cluster, folder: Path) -> list[str]:
    """What decides must not die of the signal by which SLURM ends the rest."""
    return ["code=$?", "trap '' TERM", f"{cluster.interpreter} -m glm_launch.after end {_quoted(folder)} $code"]


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
