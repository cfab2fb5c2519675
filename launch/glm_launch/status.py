"""How launched runs stand: told by SLURM, by the history of their attempts, and by what they have measured."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glm_launch.records import Attempt, LaunchFolder, Submission
from glm_launch.slurm import JobState, job_states
from glm_scale.errors import UserError
from glm_scale.locking import is_held
from glm_scale.run_directory import COMMITTED, RunDirectory
from glm_scale.run_search import note, usable

__all__ = ["RunState", "states_of"]

_TAIL = 1 << 16


@dataclass(frozen=True)
class RunState:
    """One run. `eta` and `checkpoint_age` are seconds; what is not known is None. `restarts`: their causes."""

    name: str
    path: str
    job: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    tokens_per_second: float | None
    eta: float | None
    checkpoint: int | None
    checkpoint_age: float | None
    restarts: tuple[str, ...]


def states_of(runs: Sequence[RunDirectory], tell: Callable[[str], None] = note) -> tuple[list[RunState], str]:
    """How the runs stand, and what the user has to know about it ("" if nothing): that SLURM does not answer.

    `tell` hears of runs whose files cannot be read. Raises UserError if that is all of them.
    """
    pairs = usable(runs, lambda run: (LaunchFolder(run), LaunchFolder(run).submission()), tell)
    jobs: dict[str, JobState] | None = None
    remark = ""
    try:
        jobs = job_states(s.job for _, s in pairs if s is not None and s.kind == "slurm")
    except UserError as error:
        remark = f"states are those of the last attempt, because {error}"
    return usable(pairs, lambda pair: _state(*pair, jobs), tell), remark


def _state(launch: LaunchFolder, submission: Submission | None, jobs: dict[str, JobState] | None) -> RunState:
    try:
        return _looked_at(launch, submission, jobs)
    except OSError as error:
        raise UserError(f"{error.filename or launch.run.path} cannot be read: {error.strerror}") from error


def _looked_at(launch: LaunchFolder, submission: Submission | None, jobs: dict[str, JobState] | None) -> RunState:
    # Asked first: who is gone by now has written down everything that is read below.
    supervised = submission is not None and submission.kind == "local" and is_held(launch.supervisor_lock)
    run, attempts = launch.run, launch.attempts() if submission else []
    last = _last_measurement(run.metrics)
    steps = _steps(launch)
    step, rate = last.get("step", 0), _number(last.get("tokens_per_second"))
    saved = max(run.saved_steps(), default=None)
    word = _word(launch, submission, attempts, jobs, supervised)
    left = None
    if steps is not None and rate and word.startswith("running"):
        left = (steps - step) * last["tokens"] / max(step, 1) / rate
    return RunState(
        name=run.name,
        path=str(run.path),
        job=submission.job if submission else "",
        state=word,
        step=step,
        steps=steps,
        loss=_number(last.get("loss")),
        tokens_per_second=rate if word.startswith("running") else None,
        eta=left,
        checkpoint=saved,
        checkpoint_age=None if saved is None else _age(run, saved),
        restarts=tuple(_why(attempt) for attempt in attempts[:-1]),
    )


def _word(
    launch: LaunchFolder,
    submission: Submission | None,
    attempts: list[Attempt],
    jobs: dict[str, JobState] | None,
    supervised: bool,
) -> str:
    if submission is None:
        return launch.run.status() if launch.run.exists() else "not started"
    if submission.kind == "local":
        if supervised:
            return _running(launch, attempts)
        # It may have been started again by `glm-scale train`.
        return "running" if launch.run.is_locked() else _ended(launch, attempts)
    if jobs is None:
        over = attempts and attempts[-1].end and attempts[-1].end.decided != "restart"
        return _ended(launch, attempts) if over or launch.cancelled.exists() else "unknown"
    state = jobs.get(submission.job)
    if state is None or state.is_over:
        return _ended(launch, attempts, state)
    if state.word == "PENDING":
        waits = f" ({state.reason})" if state.reason else ""
        return f"{'requeued' if attempts else 'queued'}{waits}"
    if state.word in ("RUNNING", "COMPLETING", "CONFIGURING", "STOPPED", "SUSPENDED", "SIGNALING"):
        return _running(launch, attempts) if state.word != "SUSPENDED" else "suspended"
    return state.word.lower().replace("_", " ")


def _running(launch: LaunchFolder, attempts: list[Attempt]) -> str:
    if launch.cancelled.exists():
        return "cancelling"
    if not attempts:
        return "starting"
    latest = attempts[-1]
    if latest.end is not None:
        return "restarting" if latest.end.decided == "restart" else "ending"
    metrics = launch.run.metrics
    measured = metrics.exists() and metrics.stat().st_mtime >= latest.beginning.time
    return "running" if measured else "starting"


def _ended(launch: LaunchFolder, attempts: list[Attempt], state: JobState | None = None) -> str:
    """Of a run on which nobody works, nor will."""
    end = attempts[-1].end if attempts else None
    by_slurm = (state is not None and state.word == "CANCELLED") or (end is not None and end.kind == "cancelled")
    # One that came to its end all the same has finished.
    if (end is None or end.kind != "finished") and (launch.cancelled.exists() or by_slurm):
        return "cancelled"
    if end is None:
        return "killed: " + (f"SLURM says {state.word}" if state else "nobody works on it any more")
    if end.decided == "restart":
        word = launch.run.status() if launch.run.exists() else "killed"
        return f"{word}: to be restarted after {end.cause}, but nobody works on it any more"
    return "finished" if end.kind == "finished" else f"failed ({end.kind}): {end.cause}"


def _why(attempt: Attempt) -> str:
    return attempt.end.cause if attempt.end else "ended by SLURM or with its node"


def _steps(launch: LaunchFolder) -> int | None:
    """The length of the run; None if its configuration cannot be read."""
    for path in (launch.config, launch.run.config):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, LookupError, TypeError, ArithmeticError):
            training = yaml.safe_load(path.read_text(encoding="utf-8"))["training"]
            return -(-training["tokens"] // training["batch_tokens"])
    return None


def _last_measurement(metrics: Path) -> dict[str, Any]:
    """The last record of training, with its step and tokens; only the end of the log is read."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        if b'"kind": "train"' in line:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and all(isinstance(record.get(key), int) for key in ("step", "tokens")):
                    return record
    return {}


def _number(value: Any) -> float | None:
    """A measured value, of which NaN and infinities are texts; None if there is none."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _age(run: RunDirectory, step: int) -> float | None:
    markers = [path.stat().st_mtime for path in run.checkpoints.glob(f"step-{step:08d}*/{COMMITTED}")]
    return time.time() - max(markers) if markers else None
