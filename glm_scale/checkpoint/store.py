"""The checkpoints of a run as the one process that writes them sees them: made, chosen, set aside and deleted here.

    begin(step) → ranks write and sync their files → commit: manifest → rename → marker → retention

Knows files and their records, no tensors. Whatever point a process dies at, what had its marker before has it after.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from glm_data.files import sync_directory
from glm_scale.checkpoint.files import FileRecord, cannot_write, write_synced
from glm_scale.checkpoint.layout import (
    Aside,
    aside_place,
    deleting_place,
    leftovers,
    newest_whole,
    next_place,
    places,
    writing_place,
)
from glm_scale.checkpoint.manifest import MANIFEST, MARKER, PENDING, Manifest, check_names, marker_of
from glm_scale.checkpoint.points import Point, Reached, unwatched
from glm_scale.checkpoint.reading import (
    Check,
    Checkpoint,
    DamagedError,
    GoneError,
    UnfinishedError,
    wrong_files,
)
from glm_scale.checkpoint.retention import Retention
from glm_scale.checkpoint.state import TrainingState
from glm_scale.errors import UserError
from glm_scale.locking import held_alone

__all__ = ["CheckpointStore"]

_logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints in `folder`, for the process that holds the lock of the run.

    `tell` gets messages for the user, `reached` the points of a save as it comes to them, and `clock` gives the unix
    seconds that manifests record.
    """

    def __init__(
        self,
        folder: Path,
        retention: Retention,
        *,
        tell: Callable[[str], None] = _logger.warning,
        reached: Reached = unwatched,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.retention = retention
        self._tell = tell
        self._reached = reached
        self._clock = clock

    def begin(self, step: int) -> Path:
        """An empty folder for the files of a checkpoint; what earlier writers left unfinished is removed.

        Raises UserError where it cannot be made.
        """
        staging = writing_place(self.folder, step)
        try:
            for leftover in leftovers(self.folder):
                shutil.rmtree(leftover)
            staging.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(staging, error) from error
        self._reached(Point.STAGING_MADE)
        return staging

    def commit(self, staging: Path, step: int, state: TrainingState, files: Mapping[str, FileRecord]) -> Path:
        """Make the files in `staging`, which are synced, a checkpoint; returns its folder. Then retention.

        Raises UserError, with `staging` removed, if they are not the `files` that were written or the disk refuses.
        """
        check_names(files)
        manifest = Manifest(step, state, dict(files), self._clock()).encode()
        folder = staging
        try:
            if problem := wrong_files(staging, files):
                self.discard(staging)
                raise UserError(f"the checkpoint of step {step} is not saved: in {staging} {problem}")
            self._reached(Point.BEFORE_MANIFEST)
            write_synced(staging / MANIFEST, manifest)
            self._reached(Point.MANIFEST_WRITTEN)
            write_synced(staging / PENDING, marker_of(manifest))
            sync_directory(staging)
            self._reached(Point.BEFORE_RENAME)
            folder = staging.rename(next_place(self.folder, step))
            self._reached(Point.RENAMED)
            sync_directory(self.folder)
            self._reached(Point.BEFORE_MARKER)
            (folder / PENDING).rename(folder / MARKER)
            sync_directory(folder)
        except OSError as error:
            # Once it has its marker it is a checkpoint, even if it is unknown whether that has come to the disk.
            if not (folder / MARKER).exists():
                self.discard(folder)
            raise cannot_write(staging, error) from error
        self._reached(Point.COMMITTED)
        self._retain()
        return folder

    def discard(self, staging: Path) -> None:
        """Remove what was begun, after a save that failed. If that fails too, the next `begin` does it."""
        shutil.rmtree(staging, ignore_errors=True)

    def newest(self, check: Check = "full") -> Checkpoint | None:
        """The newest whole checkpoint. Newer ones that are damaged are set aside, and the user is told.

        Raises UserError if a newer one is of another version, or cannot be read for a reason that may pass.
        """
        for leftover in leftovers(self.folder):
            if not leftover.name.endswith(".deleting"):
                self._tell(f"{leftover} does not count: its save was interrupted; the next save removes it")
        return newest_whole(self.folder, check, lambda damage: self.set_aside(damage.path, str(damage)))

    def newest_before(self, step: int, check: Check = "full") -> Checkpoint | None:
        """The newest whole checkpoint of a step before `step`, or else the oldest of those that are left."""
        found = places(self.folder)
        earlier, later = [p for p in found if p.step < step], [p for p in found if p.step >= step]
        for place in (*reversed(earlier), *later):
            try:
                return place.checkpoint(check)
            except DamagedError as damage:
                self.set_aside(damage.path, str(damage))
            except (UnfinishedError, GoneError):
                continue
        return None

    def set_aside_after(self, checkpoint: Checkpoint) -> None:
        """Set all newer checkpoints aside: a run that goes back to this one must not go on from them later."""
        paths = [place.path for place in places(self.folder)]
        for path in paths[paths.index(checkpoint.path) + 1 :]:
            self.set_aside(path, f"the run goes back from the checkpoint {path}", "diverged")

    def set_aside(self, path: Path, reason: str, why: Aside = "damaged") -> None:
        """Rename a checkpoint so that it does not count any more; not while it is read. The user is told `reason`."""
        try:
            with _unread(path) as unread:
                if unread:
                    aside = path.rename(aside_place(path, why))
                    sync_directory(self.folder)
                    self._tell(f"{reason}. It was set aside as {aside.name}")
                else:
                    self._tell(f"{reason}. It is passed over; another process reads it, so it stays in its place")
        except OSError as error:
            self._tell(f"{reason}. It is passed over; it cannot be set aside: {error.strerror}")

    def _retain(self) -> None:
        """Delete what retention does not keep. That fails without harm: the checkpoint that was saved is there."""
        whole = []
        for place in places(self.folder):
            # One that is damaged must not stand for a whole one. The user is told of it when the run goes on.
            with contextlib.suppress(UserError):
                whole.append(place.checkpoint("sizes"))
        kept = self.retention.reasons(whole)
        for checkpoint in whole:
            if checkpoint.path not in kept:
                self._delete(checkpoint.path)

    def _delete(self, path: Path) -> None:
        try:
            with _unread(path) as unread:
                if not unread:
                    _logger.info("%s is being read; it will be deleted after a later save", path)
                    return
                self._reached(Point.BEFORE_DELETE)
                # Renamed first: a folder that is half deleted must not look like a damaged checkpoint.
                doomed = path.rename(deleting_place(path))
                sync_directory(self.folder)
            self._reached(Point.DELETING)
            shutil.rmtree(doomed)
        except OSError as error:
            self._tell(f"the old checkpoint {path} could not be deleted: {error.strerror}")
            return
        self._reached(Point.DELETED)


@contextlib.contextmanager
def _unread(path: Path) -> Iterator[bool]:
    """Whether nobody reads the checkpoint, and nobody begins to until the block ends."""
    if not (path / MARKER).exists():
        yield True
        return
    with held_alone(path / MARKER) as alone:
        yield alone
