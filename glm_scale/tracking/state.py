"""What to mirror where (`Order`), and how far that has come: tracking.json (`TrackingState`)."""

from __future__ import annotations

import uuid
import zlib
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict, Field

from glm_scale.runs import RunDirectory, write_atomically

_MARKS = 64
# The tail of a record holds its values and the head of the next line its time: this much text never repeats.
_FINGERPRINT_BYTES = 512


class Mark(BaseModel):
    """A place in metrics.jsonl up to which everything was received, and a checksum of the text before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offset: int
    checksum: int

    @classmethod
    def at(cls, metrics: BinaryIO, offset: int) -> Self:
        """A mark in the log that is open: it stands for what was read, even if the log was cut meanwhile."""
        return cls(offset=offset, checksum=_checksum(metrics, offset))

    def holds(self, metrics: Path) -> bool:
        """Whether the log still reads as it did when the mark was set."""
        try:
            with metrics.open("rb") as file:
                return self.checksum == _checksum(file, self.offset)
        except OSError:
            return False


class TrackingState(BaseModel):
    """Content of tracking.json.

    `uid` names the run for MLflow before MLflow has named it (`run_id`), so that a creation whose answer was lost is
    found again instead of repeated. `requested_uri` is the URI as configured, `uri` the same made absolute.
    `complete`: everything up to the end of the run, artifacts and final status included, has been received.
    """

    model_config = ConfigDict(extra="forbid")

    requested_uri: str
    uri: str
    experiment: str
    uid: str = Field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    complete: bool = False
    marks: list[Mark] = []

    @classmethod
    def read(cls, run: RunDirectory) -> Self | None:
        """The state of a run; None if it has never been mirrored or the file is damaged."""
        try:
            return cls.model_validate_json(run.tracking.read_bytes())
        except (OSError, ValueError):
            return None

    def write(self, run: RunDirectory) -> None:
        write_atomically(run.tracking, self.model_dump_json(indent=2) + "\n")

    def offset(self, metrics: Path) -> int:
        """Where to go on reading: the last mark that still fits the log.

        A run that went back has cut its log and written on, so text behind the cut is new whatever its length.
        """
        while self.marks and not self.marks[-1].holds(metrics):
            self.marks.pop()
        return self.marks[-1].offset if self.marks else 0

    def advance(self, mark: Mark) -> None:
        """Remember that everything before `mark` was received. Old marks are thinned, recent ones stay dense."""
        self.marks.append(mark)
        if len(self.marks) > _MARKS:
            half = _MARKS // 2
            self.marks = self.marks[:half:2] + self.marks[half:]


class Order(BaseModel):
    """What to mirror to where; a relative sqlite path in `uri` starts at `base`.

    `parent`: the process to watch. Without one, what is there is sent and the final status set, once;
    `patience`: then, seconds to go on trying.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    uri: str
    experiment: str
    base: Path
    parent: int | None = None
    patience: float = 0.0


def _checksum(metrics: BinaryIO, offset: int) -> int:
    start = max(0, offset - _FINGERPRINT_BYTES)
    metrics.seek(start)
    text = metrics.read(offset - start)
    return zlib.crc32(text) if len(text) == offset - start else -1
