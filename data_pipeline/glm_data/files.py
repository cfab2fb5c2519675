"""Files that are either whole or absent, and what they held before until they are whole.

They are first written under a temporary name, flushed to the disk and only then renamed, so that a process killed at
any moment leaves nothing that looks finished and is not, and readers see the old content or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from glm_data.errors import unreadable

if TYPE_CHECKING:
    import numpy as np

_TEMPORARY = ".tmp"


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, whole and on the disk, when the block ends without an error."""
    # A name of its own: two processes may write the same file, and the last one wins.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames within a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file; text as UTF-8."""
    with atomic_writer(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers that were killed have left in `folder`. Nobody may be writing there."""
    for leftover in folder.glob(f".*{_TEMPORARY}"):
        leftover.unlink()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file atomically."""
    import numpy as np  # here, since commands that list runs want the rest of this module quickly

    with atomic_writer(path) as file:
        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error
