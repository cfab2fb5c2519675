"""The batch script of a job, made by submitit, with what this project needs around its processes."""

from __future__ import annotations

import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import _make_sbatch_string

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
        # In a session of its own: Ctrl-C must not end it after SLURM has taken the job, and before it has told its id.
        return ["setsid", "--wait", "sbatch", f"--chdir={self.folder}", str(submission_file_path)]

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[submitit.Job[Any]]:
        """submitit would hand an array to an executor of its own class, and lose what is special about this one."""
        if len(delayed_submissions) == 1:
            return super()._internal_process_submissions(delayed_submissions)
        folder = JobPaths.get_first_id_independent_folder(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        pickles = [folder / f"{uuid.uuid4().hex}.pkl" for _ in delayed_submissions]
        for delayed, path in zip(delayed_submissions, pickles, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(path)
        self.parameters |= self._of_array(len(pickles))
        first = self._submit_command(self._submitit_command_str)
        tasks = list(range(self._num_tasks()))
        jobs = [self.job_class(self.folder, f"{first.job_id}_{number}", tasks) for number in range(len(pickles))]
        for job, path in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs

    def script(self, count: int = 1) -> str:
        """What would be submitted, for one task or an array of several."""
        parameters = self.parameters | (self._of_array(count) if count > 1 else {})
        return _make_sbatch_string(command=self._submitit_command_str, folder=self.folder, **parameters) + "\n"

    def _of_array(self, count: int) -> dict[str, Any]:
        """To SLURM its tasks are jobs with ids of their own, which nobody but SLURM knows."""
        log = "batch-%A_%a.out"
        more = {"output": log, "error": log}
        return {"map_count": count, "additional_parameters": self.parameters["additional_parameters"] | more}


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
    """An option that is false is left out: sbatch knows no such value."""
    options = {"requeue": True, "kill-on-invalid-dep": "yes", **cluster.sbatch}
    return {
        "output": "batch-%j.out",
        "error": "batch-%j.out",
        **{name: value for name, value in options.items() if value is not False},
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
