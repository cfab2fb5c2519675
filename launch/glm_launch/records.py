"""What a launched run keeps beside its measurements: how it was submitted, and how its attempts went.

runs/NAME/launch/
    submission.json      how it was submitted, and as what job
    config.yaml          the configuration with every override, which the job reads
    code/                the code that was there when it was submitted, which the job runs
    history.jsonl        beginnings and ends of attempts
    attempt-0001/        what the processes of an attempt said at their end, and what they printed
    cancelled            is there once the user has cancelled the run
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from glm_data.files import write_atomically
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory, unreadable

__all__ = ["Attempt", "Beginning", "End", "EndKind", "LaunchFolder", "RankReport", "Submission"]

Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Submission(_Record):
    """How a run was submitted. `job` is SLURM's id of the job (`12_3` for the third of an array), or the process id of
    the supervisor on `host`. `retries`: so many failures that may pass are borne without progress between them;
    `retry_delay` are seconds before the first such restart, doubled each time. `folder` holds submitit's files.
    """

    kind: Literal["slurm", "local"]
    job: str
    host: str
    folder: Path
    nodes: int = Field(1, ge=1)
    tasks_per_node: int = Field(1, ge=1)
    working_directory: Path
    submitted: float
    retries: int = Field(3, ge=0)
    retry_delay: float = Field(30.0, ge=0)
    options: dict[str, Any] = {}

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node


EndKind = Literal["finished", "stopped", "transient", "deterministic", "unknown", "cancelled"]
"""stopped: asked to, and saved. transient: it may pass. unknown: nobody can tell whether it does."""


class Beginning(_Record):
    """The begin of an attempt. `step` is what the run had come to."""

    event: Literal["begin"] = "begin"
    attempt: int
    time: float
    job: str
    nodes: str
    step: int


class End(_Record):
    """The end of an attempt: what `cause` ended it, in words; how it counts; and what was `decided` then."""

    event: Literal["end"] = "end"
    attempt: int
    time: float
    kind: EndKind
    cause: str
    step: int
    decided: Literal["done", "restart", "give up"]
    delay: float = 0.0


_EVENT: TypeAdapter[Beginning | End] = TypeAdapter(Annotated[Beginning | End, Field(discriminator="event")])


class Attempt(_Record):
    """One attempt of a run. `end` is None while it runs, and where nobody was left to tell, as when a node died."""

    beginning: Beginning
    end: End | None = None


class RankReport(_Record):
    """What a process says when it ends by itself. `error` is the class of the exception and its message."""

    rank: int
    host: str
    time: float
    status: Literal["finished", "stopped", "failed"]
    reason: str = ""
    error: str = ""
    kind: Literal["", "transient", "deterministic", "memory", "consequence", "unknown"] = ""


class LaunchFolder:
    """The files of one launched run. Making the object touches nothing."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.path = run.path / "launch"

    @property
    def submission_file(self) -> Path:
        """submission.json, how the run was submitted."""
        return self.path / "submission.json"

    @property
    def config(self) -> Path:
        """config.yaml, the configuration as it was submitted."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """history.jsonl, begin and end of every attempt."""
        return self.path / "history.jsonl"

    @property
    def cancelled(self) -> Path:
        """A file that is there once the run was cancelled."""
        return self.run.cancelled

    @property
    def supervisor_lock(self) -> Path:
        """Held by the process that supervises the run on this machine."""
        return self.path / "supervisor.lock"

    @property
    def supervisor_log(self) -> Path:
        """What that process has to say."""
        return self.path / "supervisor.log"

    def exists(self) -> bool:
        """Whether a run has been submitted here."""
        return os.path.isfile(self.submission_file)  # noqa: PTH113  # bears a folder that it may not enter

    def attempt(self, number: int) -> Path:
        """The folder of the reports of an attempt."""
        return self.path / f"attempt-{number:04d}"

    def write_submission(self, submission: Submission) -> None:
        """Write submission.json."""
        write_atomically(self.submission_file, submission.model_dump_json(indent=2) + "\n")

    def submission(self) -> Submission | None:
        """None if the run was not launched by `glm-scale submit`. Raises UserError if the file cannot be read."""
        try:
            return Submission.model_validate_json(self.submission_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.submission_file} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise UserError(unreadable(self.submission_file, error)) from error

    def attempts(self) -> list[Attempt]:
        """All attempts in order. A line that a dying machine has torn, or that says what is no event, is left out.

        Raises UserError if the history cannot be read.
        """
        found: dict[int, Attempt] = {}
        for event in self._events():
            if isinstance(event, Beginning):
                found[event.attempt] = Attempt(beginning=event)
            elif (known := found.get(event.attempt)) is not None:
                found[event.attempt] = Attempt(beginning=known.beginning, end=event)
        return list(found.values())

    def note(self, event: Beginning | End) -> None:
        """Add to the history; on the disk when it returns."""
        with self.history.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + event.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def write_report(self, attempt: int, report: RankReport) -> None:
        """Write a rank's report of an attempt."""
        folder = self.attempt(attempt)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"rank-{report.rank:05d}.json", report.model_dump_json() + "\n")

    def reports(self, attempt: int) -> list[RankReport]:
        """What the processes of an attempt have said, by the time at which they ended."""
        files = sorted(self.attempt(attempt).glob("rank-*.json"))
        return sorted((RankReport.model_validate_json(file.read_bytes()) for file in files), key=lambda r: r.time)

    def cancel(self) -> None:
        """Whoever decides from now on whether the run is started again decides against it."""
        write_atomically(self.cancelled, f"{time.time()}\n")

    def _events(self) -> Iterator[Beginning | End]:
        try:
            lines = self.history.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self.history} cannot be read: {error.strerror}") from error
        for line in lines:
            with contextlib.suppress(ValueError):
                yield _EVENT.validate_json(line)
