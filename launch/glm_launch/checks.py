"""What has to hold before anything reaches a queue. All of it is checked where `glm-scale submit` is typed."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from glm_launch.profile import Cluster
from glm_launch.records import LaunchFolder, Submission
from glm_launch.slurm import job_states
from glm_scale.checkpoint.layout import places
from glm_scale.config import ConfigError, Problem, RunConfig, check_environment, check_layout, layout_of, load_config
from glm_scale.errors import UserError
from glm_scale.locking import is_held
from glm_scale.naming import former_slug, name_in_use, setting
from glm_scale.run.preflight import check_goes_on
from glm_scale.run_directory import RunDirectory

__all__ = [
    "check_memory_of_nodes", "check_run", "is_active", "lead_of", "must_be_idle", "pause_of", "runs_of_sweep",
    "wait_until_saved", "works",
]  # fmt: skip

_LEAST_LEAD = 120
_PATIENCE = 600.0
"""Seconds for a cancelled run to save, which a command that needs it idle waits."""
_ASK, _LOOK = 10.0, 0.2
"""Seconds between questions to SLURM whether a job is still there, and between looks at what is on this machine."""


def runs_of_sweep(configs: Sequence[Path], overrides: Sequence[str], vary: Sequence[str]) -> list[RunConfig]:
    """The runs of all configurations, for every combination of the values that `vary` lists: "training.seed=[1, 2]".

    What varies becomes part of the names. Raises ConfigError for what is no run, and for two of one name.
    """
    axes = [_axis(text) for text in vary]
    found: dict[str, RunConfig] = {}
    for path in configs:
        for values in product(*(choices for _, choices in axes)):
            pairs = [(key, value) for (key, _), value in zip(axes, values, strict=True)]
            changed = [*overrides, *(f"{key}={_inline(value)}" for key, value in pairs)]
            base = load_config(path, changed)
            name = "-".join([base.name, *(setting(key, value) for key, value in pairs)])
            former = base.name + "".join(f"-{key.rsplit('.', 1)[-1]}={former_slug(str(v))}" for key, v in pairs)
            run = load_config(path, [*changed, f"name={_inline(name_in_use(base.run_root, name, former))}"])
            if run.name in found:
                raise ConfigError(str(path), [Problem("name", "two runs of this sweep have it", run.name)])
            found[run.name] = run
    return list(found.values())


def check_run(run: RunConfig, processes: int, *, data_comes_later: bool, fresh: bool = False) -> None:
    """Raise what `glm-scale train` would raise on so many processes, before it uses any of them.

    data_comes_later: a job before this one makes the data. fresh: a run that is there does not go on.
    """
    missing = [source.path for source in run.data.sources if not source.path.exists()]
    if not (data_comes_later and missing):
        check_environment(run, run.name)
    check_layout(run, layout_of(run, processes), run.name)
    directory = RunDirectory(run.run_root / run.name)
    if directory.exists() and not fresh:
        check_goes_on(directory, run, directory.read_summary().tokens, data_are_here=not missing)


def check_memory_of_nodes(run: RunConfig, cluster: Cluster, nodes: int, tasks_per_node: int) -> str:
    """A remark if the processes of a node come close to the memory that the cluster's profile asks for, else "".

    Known where they train on CPUs and the profile says how much. Raises UserError if they do not fit.
    """
    asked = _bytes_of(cluster.memory)
    if asked is None or (cluster.gpus_per_node and run.training.device != "cpu"):
        return ""
    from glm_scale.planning.fitting import check_memory
    from glm_scale.planning.room import Room

    room = Room(asked, f"on each node (memory: {cluster.memory} in the cluster's profile)")
    return check_memory(run, layout_of(run, nodes * tasks_per_node), tasks_per_node, room)


def must_be_idle(folder: LaunchFolder) -> None:
    """Raises UserError if a job or a process works on the run, or waits to."""
    submission = folder.submission()
    if submission is not None and is_active(folder, submission):
        what = f"job {submission.job}" if submission.kind == "slurm" else f"process {submission.job}"
        run = shlex.quote(str(folder.run.path))
        if folder.cancelled.exists():
            raise UserError(
                f"{folder.run.path} was cancelled, and {what} on {submission.host} still saves; wait for it with: "
                f"glm-scale cancel --wait {run}"
            )
        raise UserError(
            f"{folder.run.path} belongs to {what} already, on {submission.host}; wait for it, or end it with: "
            f"glm-scale cancel {run}"
        )
    if folder.run.is_locked():
        raise UserError(f"a process is training in {folder.run.path}; wait for it, or stop it first")


def wait_until_saved(folder: LaunchFolder, tell: Callable[[str], None], patience: float = _PATIENCE) -> None:
    """Wait for a run that was cancelled and is about to end; `tell` hears of it. Any other run is left to itself."""
    if not (folder.cancelled.exists() and works(folder)):
        return
    tell(f"{folder.run.path} was cancelled and is still saving; waiting for it to end")
    deadline = time.monotonic() + patience
    while works(folder) and time.monotonic() < deadline:
        time.sleep(pause_of(folder))


def works(folder: LaunchFolder) -> bool:
    """Whether somebody works on a run, launched or not, or waits to. Where SLURM does not answer that is assumed."""
    if (submission := folder.submission()) is None:
        return folder.run.is_locked()
    try:
        return is_active(folder, submission)
    except UserError:
        return True


def pause_of(folder: LaunchFolder) -> float:
    """Seconds between two questions whether somebody works on the run. What is here is asked for nothing."""
    submission = folder.submission()
    return _ASK if submission is not None and submission.kind == "slurm" else _LOOK


def is_active(folder: LaunchFolder, submission: Submission) -> bool:
    """Whether a job or a supervisor works on the run or waits to. Raises UserError if SLURM does not answer."""
    if submission.kind == "local":
        return is_held(folder.supervisor_lock)
    state = job_states([submission.job]).get(submission.job)
    return state is not None and not state.is_over


def lead_of(runs: Sequence[RunConfig], minutes: int, wanted: int | None) -> int:
    """Seconds before the time limit at which processes are asked to save.

    Three times what the last save took where that is known, and a minute; SLURM looks at limits twice a minute.
    Raises UserError if that is most of the time that the job has.
    """
    saves = [seconds for run in runs if (seconds := _save_seconds(RunDirectory(run.run_root / run.name))) is not None]
    lead = wanted if wanted is not None else max(_LEAST_LEAD, round(60 + 3 * max(saves, default=0.0)))
    if 2 * lead > 60 * minutes:
        known = f" (the last save took {max(saves):.0f} s)" if saves else ""
        raise UserError(
            f"--time {minutes} min leaves too little: {lead} s of it are kept for saving{known}. "
            f"Ask for at least {-(-2 * lead // 60)} min, or set --lead"
        )
    return lead


def _save_seconds(run: RunDirectory) -> float | None:
    for place in reversed(places(run.checkpoints)):
        try:
            return place.checkpoint("sizes").state.seconds_of_last_save
        except UserError:
            continue
    return None


def _bytes_of(memory: str | None) -> int | None:
    """What `sbatch --mem` takes: megabytes, or a number with a unit. None if that is no number of bytes, or all."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", (memory or "").strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        return None
    return int(found[1]) << {"K": 10, "M": 20, "": 20, "G": 30, "T": 40}[found[2].upper()]


def _axis(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    try:
        choices = yaml.safe_load(values)
    except yaml.YAMLError:
        choices = None
    if not equals or not key or not isinstance(choices, list) or not choices:
        raise UserError(f"--vary {text!r} is not of the form KEY=[VALUE, VALUE], such as training.seed=[1, 2]")
    return key, choices


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
