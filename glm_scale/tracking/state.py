"""What to mirror where (`Order`), and how far that has come: tracking.json (`TrackingState`)."""

from __future__ import annotations

import uuid
import zlib
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict, Field

from glm_data.files import write_atomically
from glm_scale.run_directory import RunDirectory
from glm_scale.tracking.place import Place, is_copy, lies_at
from glm_scale.tracking.uris import choose_uri, resolve_uri, sqlite_path

MISSED = "MISSED"
"""First word of what the mirroring process says last if not everything has been received."""

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
    found again instead of repeated. `requested_uri` is the URI as it was chosen, `uri` the same made absolute.
    `complete`: everything up to the end of the run, artifacts and final status included, has been received.
    `places`: where the run directory lay when it was mirrored, the last one at the end; earlier ones while the MLflow
    run may still name them. `copy_of` is the MLflow run of the run that this one was copied from.
    """

    model_config = ConfigDict(extra="forbid")

    requested_uri: str
    uri: str
    experiment: str
    uid: str = Field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    complete: bool = False
    marks: list[Mark] = []
    places: list[Place] = []
    copy_of: str | None = None

    @classmethod
    def read(cls, run: RunDirectory) -> Self | None:
        """The state of a run; None if it has never been mirrored or the file is damaged."""
        try:
            return cls.model_validate_json(run.tracking.read_bytes())
        except (OSError, ValueError):
            return None

    @classmethod
    def read_own(cls, run: RunDirectory) -> Self | None:
        """Like `read`, but None as well for a copy that has not been mirrored itself yet."""
        state = cls.read(run)
        return None if state is None or state.is_copied(run) else state

    def is_copied(self, run: RunDirectory) -> bool:
        """Whether `run` is a copy of the run that this state is about, as far as can be told without MLflow."""
        return bool(self.places) and is_copy(Place.of(run), self.places[-1], self.uid)

    def belongs_elsewhere(self, run: RunDirectory, tagged: Place | None, directory: str | None) -> bool:
        """Whether another directory has gone on in the MLflow run, which is `tagged` with a place.

        `directory`: the path in the tag that was the only one in earlier versions.
        """
        here = Place.of(run)
        if tagged is not None:
            return tagged not in self.places and not here.is_directory_of(tagged)
        moved = directory is not None and Path(directory).resolve() != here.path
        return moved and not self.places and lies_at(Path(directory or ""), self.uid)

    def start_anew(self) -> None:
        """Forget the MLflow run, which is that of another directory. A new one gets everything."""
        self.copy_of, self.run_id, self.uid = self.run_id or self.copy_of, None, uuid.uuid4().hex
        self.marks, self.places = [], []

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
    """What to mirror to where. `uri` is what the user has told; None leaves it to the rule of `uris`. A relative sqlite
    path starts at `base`.

    `parent`: the process to watch. Without one, what is there is sent and the final status set, once;
    `patience`: then, seconds to go on trying.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path
    uri: str | None
    experiment: str
    base: Path
    parent: int | None = None
    patience: float = 0.0


def open_state(run: RunDirectory, order: Order) -> TrackingState:
    """The state to go on from: what tracking.json says, unless the order names another store or experiment.

    Raises ValueError if the rule comes to an environment variable that does not name a store.
    """
    state, copy_of = TrackingState.read(run), None
    if state is not None and state.is_copied(run):
        copy_of = state.run_id or state.copy_of
        state = None
    if state is not None and order.uri in (None, state.requested_uri, state.uri):
        _follow_store(state, order.base)
        if order.experiment == state.experiment:
            return state
        # The store stays where it is.
        return TrackingState(requested_uri=state.requested_uri, uri=state.uri, experiment=order.experiment)
    uri = choose_uri(order.uri)
    return TrackingState(
        requested_uri=uri, uri=resolve_uri(uri, order.base), experiment=order.experiment, copy_of=copy_of
    )


def _follow_store(state: TrackingState, base: Path) -> None:
    """A folder that was moved as a whole has taken its database along: look for it from where the run goes on."""
    recorded, moved = sqlite_path(state.uri), resolve_uri(state.requested_uri, base)
    if recorded is None or recorded.exists() or (found := sqlite_path(moved)) is None:
        return
    if found.exists() or not recorded.parent.is_dir():
        state.uri = moved


def _checksum(metrics: BinaryIO, offset: int) -> int:
    start = max(0, offset - _FINGERPRINT_BYTES)
    metrics.seek(start)
    text = metrics.read(offset - start)
    return zlib.crc32(text) if len(text) == offset - start else -1
