"""stdout and stderr, which may be closed, full, read by nobody or unable to spell what is written.

What is written there is never worth the work that it tells of: a stream whose descriptor fails takes everything and
remembers the failure, for whoever has to say so. Standard library alone; `prepare_output` comes first in a process.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import BinaryIO, TextIO

__all__ = ["failure_of", "is_commentary", "lost_output", "prepare_output"]

_PATIENCE = 1.0
"""Seconds for a reader to make room in a stream that does not wait by itself."""
_READER_GONE = 128 + 13
"""The exit code of a command that SIGPIPE ended, as shells give it."""


class _Descriptor(io.RawIOBase):
    """Writes to a descriptor, or nowhere if that fails. `failure` is the first error."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        left = memoryview(data)
        try:
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._descriptor, left) :]
                    continue
                if not select.select([], [self._descriptor], [], 0 if self.failure else _PATIENCE)[1]:
                    raise BlockingIOError(errno.EAGAIN, "its reader does not read")
        except OSError as error:
            self.failure = self.failure or error
        return len(data)


class _Stream(io.TextIOWrapper):
    """What takes the place of sys.stdout or sys.stderr. `needed`: the command is run for what it writes here."""

    def __init__(self, descriptor: int, encoding: str, errors: str, line_buffering: bool) -> None:
        self.descriptor = _Descriptor(descriptor)
        self.needed = True
        # What a command names may be of any script, and its names of any bytes.
        errors = "backslashreplace" if errors in ("strict", "surrogateescape") else errors
        buffer: BinaryIO = io.BufferedWriter(self.descriptor)  # type: ignore[type-var]
        super().__init__(buffer, encoding=encoding, errors=errors, line_buffering=line_buffering)


def prepare_output() -> None:
    """Let writing to sys.stdout and sys.stderr never fail, whatever they lead to and whatever is written.

    Descriptors 0 to 2 that are closed are given to /dev/null: else the next file to be opened gets their number, and
    what a library prints. Streams that somebody else has put into the place of these are left alone.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = _tolerant(sys.stdout, 1)
    sys.stderr = _tolerant(sys.stderr, 2)


def failure_of(stream: TextIO) -> OSError | None:
    """The first error of a stream that `prepare_output` has made; what is in its buffer is written before."""
    if not isinstance(stream, _Stream):
        return None
    stream.flush()
    return stream.descriptor.failure


def is_commentary() -> None:
    """Declare that this command is not run for what it prints: its exit code tells how its work has ended, no more."""
    if isinstance(sys.stdout, _Stream):
        sys.stdout.needed = False


def lost_output() -> tuple[int, str]:
    """The exit code of a command that has done its work but could not print it, and a message; 0 if all is well.

    If a reader has gone away, as in `glm-scale plan … | head`, there is nothing to say.
    """
    failure = failure_of(sys.stdout)
    if failure is None or not getattr(sys.stdout, "needed", False):
        return 0, ""
    if failure.errno == errno.EPIPE:
        return _READER_GONE, ""
    return 1, f"not all of the output could be written to stdout: {failure.strerror}"


def _tolerant(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        return _Stream(descriptor, "utf-8", "backslashreplace", line_buffering=descriptor == 2)
    with contextlib.suppress(OSError, ValueError):
        if type(stream) is io.TextIOWrapper and stream.fileno() == descriptor:
            stream.flush()
            return _Stream(descriptor, stream.encoding, stream.errors or "strict", stream.line_buffering)
    return stream
