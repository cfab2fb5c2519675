"""Files that one process holds at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from glm_scale.errors import PassingError


class FileLock:
    """Exclusive hold on a file, by `flock`; the kernel lets go when the process dies, however it dies.

    Raises PassingError naming the holder if another process holds the file. Where the file system knows no locks
    (some network mounts) nothing is held and nothing is refused.
    """

    def __init__(self, path: Path, purpose: str, patience: float = 1.0) -> None:
        self.path = path
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _try_flock(self._file, fcntl.LOCK_EX, patience) is False:
            who = holder(path)
            os.close(self._file)
            raise PassingError(f"process {who} is {purpose} {path.parent}; wait for it, or stop it first")
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        _close_in_forked_children(self)

    def is_in_place(self) -> bool:
        """Whether the file that is held is still the one of its path."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(self._file), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let go; calling it again does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def _close_in_forked_children(lock: FileLock) -> None:
    """A forked worker shares the open file, and would hold the lock on after the trainer was killed."""
    reference = weakref.ref(lock)

    def close() -> None:
        if (inherited := reference()) is not None:
            inherited.release()

    os.register_at_fork(after_in_child=close)


def _try_flock(file: int, kind: int, patience: float) -> bool | None:
    """Whether the lock could be taken within `patience` seconds; None if the file system has no locks."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                return None
            raise


def holder(path: Path) -> str:
    """Who holds a file, or held it last, such as "123 on host"."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if text := path.read_text(encoding="utf-8").strip():
            return text
    return "(unknown)"


@contextlib.contextmanager
def folder_lock(folder: Path, patience: float) -> Iterator[None]:
    """Enter one process at a time, by a lock on the folder itself; after `patience` seconds enter regardless."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _try_flock(file, fcntl.LOCK_EX, patience)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def shared_lock(path: Path) -> Iterator[None]:
    """Hold a file together with other readers, so that nobody who asks `held_alone` removes it.

    Raises FileNotFoundError if it is not there, or is being removed.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        held = _try_flock(file, fcntl.LOCK_SH, 1.0)
        # Between opening and locking it may have been moved away, or replaced by another file of its name.
        if held is False or not os.path.samestat(os.fstat(file), path.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        _unlock(file)


@contextlib.contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the file. If so nobody gets it until the block ends; true where locks do not exist."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _try_flock(file, fcntl.LOCK_EX, 0.0) is not False
    finally:
        _unlock(file)


def _unlock(file: int) -> None:
    """Close a locked file, and let go of the lock even if a forked child still has the file open."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def is_held(path: Path) -> bool:
    """Whether some process, this one included, holds the file; true as well where locks do not exist."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A shared lock, so that two onlookers never take each other for the holder.
        return _try_flock(file, fcntl.LOCK_SH, 0.0) is not True
    finally:
        os.close(file)
