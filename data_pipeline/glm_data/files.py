"""Files that are either whole or absent.

Everything that a build leaves behind is first written under a temporary name, flushed to the disk and only then
renamed, so that a process killed at any moment leaves nothing that looks finished and is not.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from glm_data.errors import unreadable

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing; it appears, whole and on the disk, when the block ends without an error."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames within a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a `.npy` file atomically."""
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
