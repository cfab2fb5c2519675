"""The directory of a run: where its files lie, the small ones among them, and who may write there.

    runs/<name>/
        config.yaml      the resolved configuration          version.json   the code that ran
        summary.json     what the run is and how it stands   metrics.jsonl  every measurement (the truth)
        train.log        the log                             tracking.json  the MLflow run and what it has received
        breakdown.json   the loss by position and kind of the tokens
        tasks.json       what tasks of lm-eval came to
        checkpoints/  samples/  plots/  profile/             run.lock       held by the process that trains

This module imports neither torch nor MLflow, so that listing runs is quick.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glm_data.files import write_atomically
from glm_scale import __version__
from glm_scale.errors import UserError
from glm_scale.locking import FileLock, holder, is_held
from glm_scale.version import code_version

FinalStatus = Literal["finished", "failed", "stopped", "cancelled", "killed"]
RunStatus = Literal["running"] | FinalStatus
"""How a run stands, by the same word in summary.json, on the screen, in `status`, in `compare` and in MLflow.

    running      a process trains in its directory
    finished     it has spent its budget of tokens
    failed       it ended by an error, and nothing starts it again
    stopped      it was asked to end (Ctrl-C, a signal, its time limit), and has saved: the same command goes on
    cancelled    it was ended by `glm-scale cancel`, and has saved if there was time: `glm-scale resume` takes that back
    killed       its processes are gone without a word; summaries of earlier versions say so of stopped runs as well

What waits for its turn or lies between two attempts has further words, which `glm-scale status` adds.
"""

_FOREIGN = ", or is not the summary of a run"

COMMITTED = "COMMITTED"
"""A file of this name is in every folder that is a whole checkpoint."""


class RunSummary(BaseModel):
    """What a run is and how it stands: the content of summary.json.

    `mixer` is the spelling of the mixer, joined by "+" for hybrids. `parameters` counts all parameters and
    `non_embedding_parameters` those outside the embedding and the output head. `train_flops_per_token` is the
    FLOPs of forward and backward, `cache_bytes` what one document of `sequence_length` tokens leaves in the caches of a
    decoder (early runs do not say). `started` and `ended` are unix seconds. `step` counts optimizer steps, `tokens`
    and `samples` what was consumed up to it. The fingerprints tell whether two runs had the same tokenizer, the same
    sequences in the same order (`data_fingerprint`), and the same texts, whatever became of them
    (`documents_fingerprint`, which early runs lack). `neighbours`: how many runs at most have shared its
    GPUs with it, or the machine on CPUs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    mixer: str
    parameters: int = Field(ge=0)
    non_embedding_parameters: int = Field(ge=0)
    train_flops_per_token: float = Field(ge=0)
    sequence_length: int = Field(ge=1)
    cache_bytes: int | None = Field(default=None, ge=0)
    status: RunStatus = "running"
    started: float
    ended: float | None = None
    step: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    tokenizer_fingerprint: str | None = None
    data_fingerprint: str | None = None
    documents_fingerprint: str | None = None
    neighbours: int = Field(default=0, ge=0)


class RunDirectory:
    """The files of one run. Making the object touches nothing; `create()` makes the folders."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The run's name: that of its directory."""
        return self.path.name

    @property
    def config(self) -> Path:
        """config.yaml, the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def version(self) -> Path:
        """version.json, the code that ran."""
        return self.path / "version.json"

    @property
    def summary(self) -> Path:
        """summary.json, what other commands read."""
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl, a record for every measurement."""
        return self.path / "metrics.jsonl"

    @property
    def breakdown(self) -> Path:
        """breakdown.json, the last validation loss by position and kind of the tokens."""
        return self.path / "breakdown.json"

    @property
    def tasks(self) -> Path:
        """tasks.json, the last results of tasks."""
        return self.path / "tasks.json"

    @property
    def log(self) -> Path:
        """train.log, all that was said."""
        return self.path / "train.log"

    @property
    def ranks(self) -> Path:
        """What other ranks than the first write, and reports of a run that hangs."""
        return self.path / "ranks"

    @property
    def tracking(self) -> Path:
        """tracking.json, how far MLflow has come."""
        return self.path / "tracking.json"

    @property
    def tracking_log(self) -> Path:
        """The log of the process that speaks to MLflow."""
        return self.path / "tracking.log"

    @property
    def cancelled(self) -> Path:
        """Is there once `glm-scale cancel` was told to end the run, until it is submitted again."""
        return self.path / "launch" / "cancelled"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of generated texts."""
        return self.path / "samples"

    @property
    def plots(self) -> Path:
        """The folder of figures."""
        return self.path / "plots"

    @property
    def profile(self) -> Path:
        """The folder of what `train --profile` has seen; there if it has."""
        return self.path / "profile"

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint taken after optimizer step `step`."""
        return self.checkpoints / f"step-{step:08d}"

    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that were saved whole, oldest first. Their other files are not looked at."""
        names = (path.parent.name for path in self.checkpoints.glob(f"step-*/{COMMITTED}"))
        return sorted({int(found[1]) for name in names if (found := re.match(r"step-(\d+)(\.\d+)?$", name))})

    def create(self) -> Self:
        """Make the folders. Raises UserError where that is not possible."""
        try:
            for folder in (self.path, self.checkpoints, self.samples, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the run directory {self.path}: {error.strerror}. "
                "Set run_root to a folder you may write to."
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UserError(
                f"cannot write to the run directory {self.path}. Set run_root to a folder you may write to."
            )
        return self

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return os.path.isfile(self.summary)  # noqa: PTH113  # unlike Path.is_file it bears a folder it may not enter

    def set_aside(self) -> Path | None:
        """Make room for a new run: one that was started here is moved to NAME.1, NAME.2, … beside it, whole.

        Returns where it is now, under which name it can go on; None if there was none.
        Raises UserError if a process trains in it, or it cannot be moved.
        """
        while self.exists() or self.config.exists() or self.metrics.exists() or any(self.checkpoints.glob("step-*")):
            with self.lock() as lock:
                # Whoever held it may have moved the run, and started another one here.
                if not lock.is_in_place():
                    continue
                moved = RunDirectory(self._move_away())
                with contextlib.suppress(UserError, OSError):
                    moved.update_summary(name=moved.name)
                return moved.path
        return None

    def _move_away(self) -> Path:
        for number in itertools.count(1):
            place = self.path.with_name(f"{self.name}.{number}")
            try:
                if not os.path.lexists(place):
                    return self.path.rename(place)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise UserError(f"cannot move {self.path} to {place}: {error.strerror}") from error
        raise AssertionError

    # Small files -----------------------------------------------------------------------------------------------

    def read_summary(self) -> RunSummary:
        """Raises UserError if the file is missing or is not the summary of a run."""
        try:
            return RunSummary.model_validate_json(self.summary.read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is not a run directory: it holds no summary.json") from error
        except OSError as error:
            raise UserError(f"{self.summary} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise UserError(unreadable(self.summary, error, self.read_version().get("glm_scale"), _FOREIGN)) from error

    def read_config(self) -> dict[str, Any]:
        """The content of config.yaml as it stands there; empty if it cannot be read."""
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_summary(self, summary: RunSummary) -> None:
        """Write summary.json, whole or not at all."""
        write_atomically(self.summary, summary.model_dump_json(indent=2) + "\n")

    def update_summary(self, **changes: Any) -> RunSummary:
        """Replace fields of summary.json (checked as RunSummary) and return the new content."""
        summary = RunSummary.model_validate(self.read_summary().model_dump() | changes)
        self.write_summary(summary)
        return summary

    def write_version(self) -> dict[str, Any]:
        """Record the code that runs (see `code_version`) in version.json and return it."""
        version = code_version()
        write_atomically(self.version, json.dumps(version, indent=2) + "\n")
        return version

    def read_version(self) -> dict[str, Any]:
        """The content of version.json; empty if there is none."""
        try:
            content = json.loads(self.version.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    # Who is here -----------------------------------------------------------------------------------------------

    def lock(self) -> FileLock:
        """Claim the directory for training. Raises UserError naming the process that holds it."""
        return FileLock(self.path / "run.lock", "training in")

    def tracking_lock(self, patience: float = 1.0) -> FileLock:
        """Claim the right to write to the run's MLflow run, one process at a time; waits `patience` seconds."""
        return FileLock(self.path / "tracking.lock", "copying to MLflow the measurements of", patience)

    def is_locked(self) -> bool:
        """Whether a process (this one included) trains here now."""
        return is_held(self.path / "run.lock")

    def lock_holder(self) -> str:
        """The process that trains here, such as "process 123 on host"."""
        return f"process {holder(self.path / 'run.lock')}"

    def was_cancelled(self) -> bool:
        """Whether `glm-scale cancel` was told to end the run since training began the last time."""
        try:
            # The configuration is written whenever training begins.
            return self.cancelled.stat().st_mtime >= self.config.stat().st_mtime
        except OSError:
            return False

    def status(self) -> RunStatus:
        """How the run stands: one that says "running" but whose process is gone was killed, or cancelled."""
        status = self.read_summary().status
        if status == "running" and not self.is_locked():
            return "cancelled" if self.was_cancelled() else "killed"
        return status

    def settle(self) -> RunStatus:
        """Like `status`, and writes into summary.json what has become of a run whose process is gone."""
        status = self.status()
        if status in ("killed", "cancelled") and self.read_summary().status == "running":
            self.conclude(status)
        return self.read_summary().status

    def conclude(self, status: FinalStatus) -> None:
        """Write into summary.json how the run ended, where what trained could not: it was gone, or did not know.

        Left alone are runs that have finished or failed, and those in which a process trains.
        """
        with contextlib.suppress(UserError, OSError), self.lock():
            if (summary := self.read_summary()).status in ("running", "stopped", "killed"):
                measured = self.metrics.stat().st_mtime if self.metrics.exists() else time.time()
                self.update_summary(status=status, ended=summary.ended or measured)


def unreadable(path: Path, error: ValidationError, version: str | None = None, instead: str = "") -> str:
    """What a user is told of a record that is none: damaged, or `instead` what else, or of a newer `version`."""
    problems = error.errors()
    unknown = [str(problem["loc"][-1]) for problem in problems if problem["type"] == "extra_forbidden"]
    if len(unknown) == len(problems):
        by = f" (version {version})" if version and version != __version__ else ""
        return (
            f"{path} was written by a newer glm-scale{by} and says what version {__version__} does not know: "
            f"{', '.join(unknown)}. Use the newer one"
        )
    place = ".".join(str(part) for part in problems[0]["loc"])
    reason = f"{place}: {problems[0]['msg']}" if place else problems[0]["msg"]
    return f"{path} is damaged{instead}: {reason}"
