"""One checkpoint as its readers see it: what it holds, whether it is whole, and the lock that keeps it in its place."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from glm_scale.checkpoint.files import FileRecord, hash_file
from glm_scale.checkpoint.manifest import MANIFEST, MARKER, PENDING, FormatError, Manifest, marker_of
from glm_scale.checkpoint.state import TrainingState
from glm_scale.errors import UserError
from glm_scale.locking import shared_lock

__all__ = ["Check", "Checkpoint", "DamagedError", "GoneError", "UnfinishedError", "wrong_files"]

Check = Literal["full", "sizes"]
"""How closely files are looked at: their SHA-256, or their sizes alone."""

# What a file system answers when a file is broken or not there. Anything else (no permission, too many open files, a
# server that is away) says nothing about the checkpoint.
_DAMAGE = {errno.EIO, errno.ENOENT, errno.EISDIR, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA}
_OLD_MANIFEST = "checkpoint.json"
_READERS = 8


class DamagedError(UserError):
    """The checkpoint at `path` is not what it was when it was committed; `problem` says in what."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"the checkpoint {path} is damaged: {problem}")
        self.path, self.problem = path, problem


class UnfinishedError(UserError):
    """A checkpoint is being written, or its writer has died."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is no checkpoint yet: it is being saved, or its save was interrupted")


class GoneError(UserError):
    """A checkpoint has been removed or renamed."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"there is no checkpoint {path}; if there was, it has been removed to make room for newer ones"
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """The optimizer step after which it was saved."""
        return self.manifest.step

    @property
    def state(self) -> TrainingState:
        """What was saved beside the tensors: counters, random state, …"""
        return self.manifest.state

    @property
    def files(self) -> dict[str, FileRecord]:
        """Its files, by name, with size and SHA-256."""
        return self.manifest.files

    @property
    def size(self) -> int:
        """Bytes of its files, manifest and marker left out."""
        return sum(record.size for record in self.files.values())

    @classmethod
    def at(cls, path: Path, check: Check = "sizes", progress: Callable[[int], None] | None = None) -> "Checkpoint":
        """The checkpoint in the folder `path`; `progress` is told the bytes that have been read.

        Raises:
            DamagedError: it is damaged.
            UnfinishedError, GoneError: there is none yet, or no more.
            UserError: it is of another version, or cannot be read now.
        """
        with _reading(path), _as_damage(path):
            checkpoint = cls(path, _manifest(path))
            problem = wrong_files(path, checkpoint.files, {MANIFEST, MARKER})
            if problem is None and check == "full":
                problem = checkpoint.wrong_content(checkpoint.files, progress)
        if problem is not None:
            raise DamagedError(path, problem)
        return checkpoint

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Until the block ends the checkpoint is neither deleted nor renamed. Raises GoneError if it has been."""
        with _reading(self.path):
            yield

    def wrong_content(self, names: Collection[str], progress: Callable[[int], None] | None = None) -> str | None:
        """What is wrong with files whose SHA-256 is compared; None if nothing is. Ranks may share the names."""
        with _as_damage(self.path), ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as threads:
            found = threads.map(partial(hash_file, progress=progress), (self.path / name for name in names))
            try:
                changed = [n for n, record in zip(names, found, strict=True) if record != self.files[n]]
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
        return f"the content of {', '.join(changed[:3])} has changed (another SHA-256)" if changed else None


def wrong_files(folder: Path, files: Mapping[str, FileRecord], besides: Iterable[str] = ()) -> str | None:
    """What is wrong with the names and sizes of the files in a folder that also holds `besides`; None if nothing is."""
    for name, record in files.items():
        # Asked for by name: a network file system may list another machine's files late.
        try:
            status = (folder / name).lstat()
        except FileNotFoundError:
            return f"{name} is missing"
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is no regular file"
        if status.st_size != record.size:
            return f"{name} has {status.st_size} bytes instead of {record.size}"
    foreign = {entry.name for entry in os.scandir(folder)} - files.keys() - set(besides)
    return f"{min(foreign)} does not belong to it" if foreign else None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(shared_lock(path / MARKER))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _unmarked(path) from error
        except OSError as error:
            raise UserError(f"cannot read {path / MARKER}: {error.strerror}") from error
        yield


def _unmarked(path: Path) -> UserError:
    """What it is that has no marker."""
    if (path / PENDING).exists():
        return UnfinishedError(path)
    if (path / _OLD_MANIFEST).exists():
        return UserError(
            f"{path} is a checkpoint of format 1, which this version does not read; start a new run (name=…), "
            "or go on with the version that wrote it"
        )
    if not path.is_dir():
        return GoneError(path)
    return DamagedError(path, f"its marker {MARKER} is missing")


def _manifest(path: Path) -> Manifest:
    marker, content = (path / MARKER).read_bytes(), (path / MANIFEST).read_bytes()
    if marker != marker_of(content):
        raise DamagedError(path, f"{MANIFEST} and {MARKER} do not belong together; one of them has changed")
    try:
        return Manifest.decode(content)
    except ValueError as error:
        raise DamagedError(path, f"{MANIFEST} cannot be understood: {error}") from error
    except FormatError as error:
        raise UserError(f"cannot read the checkpoint {path}: {error}") from error


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = Path(error.filename).name if error.filename else "a file"
        if error.errno in _DAMAGE:
            raise DamagedError(path, f"{name} cannot be read: {error.strerror}") from error
        raise UserError(f"cannot read {name} of the checkpoint {path}: {error.strerror}") from error
