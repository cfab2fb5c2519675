"""The directory of a run: where its files lie, the small ones among them, and who may write there.

    runs/<name>/
        config.yaml      the resolved configuration          version.json   the code that ran
        summary.json     what the run is and how it stands   metrics.jsonl  every measurement (the truth)
        train.log        the log                             tracking.json  the MLflow run and what it has received
        checkpoints/     samples/     plots/                 run.lock       held by the process that trains

This module imports neither torch nor MLflow, so that listing runs is quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glm_scale.errors import UserError
from glm_scale.locking import FileLock, is_held
from glm_scale.version import code_version

RunStatus = Literal["running", "finished", "failed", "killed"]

COMMITTED = "COMMITTED"
"""A file of this name is in every folder that is a whole checkpoint."""

# Folders of runs may be grouped (a sweep inside runs/); deeper than this nobody means.
_SEARCH_DEPTH = 3


class RunSummary(BaseModel):
    """What a run is and how it stands: the content of summary.json.

    `mixer` is the spelling of the mixer, joined by "+" for hybrids. `parameters` counts all parameters and
    `non_embedding_parameters` those outside the embedding and the output head. `train_flops_per_token` is the
    FLOPs of forward and backward. `started` and `ended` are unix seconds. `step` counts optimizer steps, `tokens`
    and `samples` what was consumed up to it. The fingerprints tell whether two runs saw the same text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    mixer: str
    parameters: int = Field(ge=0)
    non_embedding_parameters: int = Field(ge=0)
    train_flops_per_token: float = Field(ge=0)
    sequence_length: int = Field(ge=1)
    status: RunStatus = "running"
    started: float
    ended: float | None = None
    step: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    tokenizer_fingerprint: str | None = None
    data_fingerprint: str | None = None


class RunDirectory:
    """The files of one run. Making the object touches nothing; `create()` makes the folders."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def version(self) -> Path:
        return self.path / "version.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "train.log"

    @property
    def ranks(self) -> Path:
        """What other ranks than the first write, and reports of a run that hangs."""
        return self.path / "ranks"

    @property
    def tracking(self) -> Path:
        return self.path / "tracking.json"

    @property
    def tracking_log(self) -> Path:
        return self.path / "tracking.log"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

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
        return self.summary.is_file()

    def must_be_new(self) -> None:
        """Raises UserError if a run has been started here."""
        if self.exists() or any(self.checkpoints.glob("step-*")):
            raise UserError(
                f"{self.path} holds a run already, and --fresh overwrites none: choose another name (name=…), remove "
                "the directory, or leave --fresh out to go on with the run"
            )

    # Small files -----------------------------------------------------------------------------------------------

    def read_summary(self) -> RunSummary:
        """Raises UserError if the file is missing or is not the summary of a run."""
        try:
            return RunSummary.model_validate_json(self.summary.read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"{self.path} is not a run directory: it holds no summary.json") from error
        except (OSError, ValidationError) as error:
            reason = _first_problem(error) if isinstance(error, ValidationError) else error.strerror
            raise UserError(f"{self.summary} is not the summary of a run: {reason}") from error

    def write_summary(self, summary: RunSummary) -> None:
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
            content = json.loads(self.version.read_text())
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

    def status(self) -> RunStatus:
        """How the run stands: a run that says "running" but whose process is gone was killed."""
        status = self.read_summary().status
        return "killed" if status == "running" and not self.is_locked() else status

    def settle(self) -> RunStatus:
        """Like `status`, and writes "killed" into summary.json if that is what happened."""
        if self.status() != "killed" or self.read_summary().status == "killed":
            return self.read_summary().status
        with contextlib.suppress(UserError), self.lock():
            if self.read_summary().status == "running":
                ended = self.metrics.stat().st_mtime if self.metrics.exists() else time.time()
                self.update_summary(status="killed", ended=ended)
        return self.read_summary().status


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that a reader, or a restart after a crash, sees the old content or the new."""
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; a run is there to be looked at by colleagues.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[RunDirectory]:
    """The runs at `paths`, each a run directory or a folder that holds some, each run once, in order.

    Raises UserError for a path that does not exist or holds no run.
    """
    found: dict[Path, RunDirectory] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give run directories, or a folder that holds them")
        runs = list(_search(path, _SEARCH_DEPTH))
        if not runs:
            raise UserError(
                f"no run in {path}: neither it nor a folder inside holds a summary.json. "
                "`glm-scale train` makes runs in runs/."
            )
        for run in runs:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def _search(folder: Path, depth: int) -> Iterator[RunDirectory]:
    run = RunDirectory(folder)
    if run.exists():
        yield run
    elif depth > 0:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, depth - 1)
