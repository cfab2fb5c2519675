"""Files that are on the disk when a function returns, what identifies them, and what to say when that fails."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from glm_scale.errors import PassingError

__all__ = ["FileRecord", "cannot_write", "hash_file", "write_synced"]

_BLOCK_BYTES = 1 << 20


class FileRecord(NamedTuple):
    """What a file has to be: its bytes, and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


def hash_file(path: Path, progress: Callable[[int], None] | None = None) -> FileRecord:
    """Read a file in blocks; `progress` is told the bytes of each."""
    digest, size = hashlib.sha256(), 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                digest.update(block[:count])
                size += count
                if progress:
                    progress(count)
    except OSError as error:
        # A failed read, unlike a failed open, does not tell of which file.
        error.filename = str(path)
        raise
    return FileRecord(size, digest.hexdigest())


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def cannot_write(path: Path, error: OSError) -> PassingError:
    """What to tell the user when a checkpoint cannot be written to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way_out = "free space there, keep fewer checkpoints (checkpoint.keep), or move the run to a larger disk"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        way_out = "make the folder writable, or move the run to a place where you may write"
    else:
        way_out = "check the disk"
    return PassingError(
        f"cannot write the checkpoint {path}: {error.strerror or error}. Older checkpoints are untouched; {way_out}, "
        "then the same command goes on from the newest one"
    )
