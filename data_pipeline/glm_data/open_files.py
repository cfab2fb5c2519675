"""Reading at places of many files with few of them open.

A process may hold so many files open (`ulimit -n`), and a run reads from all shards and tables of all of its sources.
Those that were read last stay open; another one is opened when it is needed.
"""

import os
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np

from glm_data.errors import DataError, is_at_limit, unreadable

_SHARE = 8  # of the files that a process may open: there are two splits, and much else
_FEWEST, _MOST = 4, 512


class OpenFiles:
    """Files that are open for reading; the one that was not read for the longest time is closed for another.

    Args:
        most: so many stay open; None is an eighth of what the process may open.
    """

    def __init__(self, most: int | None = None):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = most or min(max(limit // _SHARE, _FEWEST), _MOST)
        self._descriptors: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset` on.

        Raises:
            OSError: the file cannot be read.
        """
        return os.pread(self._descriptor(path), size, offset)

    def _descriptor(self, path: Path) -> int:
        if path in self._descriptors:
            self._descriptors.move_to_end(path)
            return self._descriptors[path]
        while len(self._descriptors) >= self._most:
            self._close_one()
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if not is_at_limit(error) or not self._descriptors:
                    raise
                self._close_one()
            else:
                self._descriptors[path] = descriptor
                return descriptor

    def _close_one(self) -> None:
        os.close(self._descriptors.popitem(last=False)[1])

    def close(self) -> None:
        """Close all; they open again when read."""
        while self._descriptors:
            self._close_one()

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):
            self.close()


class Table:
    """A one-dimensional `.npy` file of which only what is asked for is read.

    A memory map would do the same, but keep a file open for each table.

    Args:
        files: to read by.
        path: of the file.
        dtype: of its entries.

    Attributes:
        length: number of entries.

    Raises:
        DataError: it cannot be read, or is not what it should be.
    """

    _PIECE = 1 << 20  # entries that are read at a time

    def __init__(self, files: OpenFiles, path: Path, dtype: np.dtype):
        self._files = files
        self._path = path
        self._dtype = dtype
        try:
            with path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                shape, _, found = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), False, None)
                self._begin = file.tell()
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise unreadable(path, error, "Rebuild the data set.") from error
        except ValueError as error:
            raise DataError(f"{path}: cannot be read: {error}. Rebuild the data set.") from error
        if found != dtype or len(shape) != 1 or size != self._begin + shape[0] * dtype.itemsize:
            raise DataError(f"{path}: not the table that the index describes. Rebuild the data set.")
        self.length: int = shape[0]

    def read(self, first: int, count: int = 1) -> np.ndarray:
        """Entries `first` to `first + count` (exclusive)."""
        wanted = count * self._dtype.itemsize
        try:
            raw = self._files.read(self._path, wanted, self._begin + first * self._dtype.itemsize)
        except OSError as error:
            raise unreadable(self._path, error) from error
        if len(raw) != wanted:
            raise DataError(f"{self._path}: ends too early: it was changed. Restore it, or rebuild the data set.")
        return np.frombuffer(raw, self._dtype)

    def column(self, name: str) -> np.ndarray:
        """One field of all entries."""
        values = np.empty(self.length, self._dtype[name])
        for first in range(0, self.length, self._PIECE):
            count = min(self._PIECE, self.length - first)
            values[first : first + count] = self.read(first, count)[name]
        return values
