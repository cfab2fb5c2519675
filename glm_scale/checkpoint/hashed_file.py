"""A file that is hashed beside being written, past the page cache.

Shards are read again only after a failure, and by other machines: in the page cache they would push out what training
reads, and copying them there costs as much processor time as hashing them.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from glm_scale.checkpoint.files import FileRecord

__all__ = ["HashedFile"]

_BLOCK_BYTES = 16 << 20
_BLOCKS = 2


class HashedFile:
    """A new file; a context manager. Where the file system refuses direct writes, they go through the page cache.

    `write` fills a block while another is hashed and written, each by a thread. Errors of the disk are raised by the
    `write` after, or by `finish`.
    """

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._file = open(path, "wb", buffering=0, opener=_open_direct)  # noqa: SIM115
        self._digest = sha256()
        # A mapping begins at a page, as direct writes ask of memory.
        blocks = [np.frombuffer(mmap.mmap(-1, _BLOCK_BYTES), dtype=np.uint8) for _ in range(_BLOCKS)]
        self._next_block = cycle(blocks)
        self._block, self._filled = next(self._next_block), 0
        self._hasher, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._pending: list[Sequence[Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for thread in (self._hasher, self._writer):
            thread.shutdown(cancel_futures=True)
        self._file.close()

    def write(self, data: NDArray[np.uint8]) -> None:
        """Append bytes; they have been copied when it returns."""
        self.size += len(data)
        while len(data):
            part = data[: _BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == _BLOCK_BYTES:
                self._pass_on()

    def finish(self) -> FileRecord:
        """Write what is left; returns what identifies the file. Nothing can be written afterwards."""
        self._await(0)
        # The end is no whole number of sectors, so it cannot be written directly.
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._pass_on()
        self._await(0)
        return FileRecord(self.size, self._digest.hexdigest())

    def sync(self) -> None:
        """Until everything is on the disk. Raises OSError if something that was written is not."""
        os.fsync(self._file.fileno())

    def _pass_on(self) -> None:
        block = self._block[: self._filled].data
        self._pending.append((self._hasher.submit(self._digest.update, block), self._writer.submit(self._put, block)))
        self._await(_BLOCKS - 1)
        self._block, self._filled = next(self._next_block), 0

    def _await(self, pending: int) -> None:
        """Until no more than so many blocks are hashed and written."""
        while len(self._pending) > pending:
            for future in self._pending.pop(0):
                future.result()

    def _put(self, block: memoryview) -> None:
        while block:
            block = block[self._file.write(block) :]  # an unbuffered file may take less than it is given


def _open_direct(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)
