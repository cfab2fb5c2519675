"""Reading files that may be compressed, and noticing every way in which that can go wrong.

The readers of the standard library and of `zstandard` each miss something: an end that comes too early, or what
follows the first stream of a bz2 file. All formats are sequences of streams, so one reader serves them.
"""

import bz2
import io
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import zstandard

COMPRESSIONS = (".gz", ".bz2", ".zst")
DAMAGE = (EOFError, OSError, zlib.error, zstandard.ZstdError)
"""What reading a file may raise."""

_INPUT_SIZE = 1 << 17  # bytes
_LARGEST_WINDOW = 1 << 31  # bytes: that of `zstd --long=31`, the most there is


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


_STREAMS: Mapping[str, Callable[[], _Stream]] = MappingProxyType(
    {
        ".gz": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
        ".bz2": bz2.BZ2Decompressor,
        # The window is memory that is taken as the file is read: at most as much as the file needs.
        ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj(),
    }
)
_PADDED = (".gz",)  # may be filled up with zeros, as for tapes


def open_text(file: io.BufferedReader, compression: str, buffer_size: int) -> io.BufferedIOBase:
    """The content of an opened file, which is closed with it; `compression` is one of `COMPRESSIONS` or "". Reading it
    raises one of `DAMAGE`."""
    return io.BufferedReader(_Decompressed(file, compression), buffer_size) if compression else file


def describe(error: Exception, compression: str) -> str:
    """One of `DAMAGE` in words: "damaged or incomplete: …"."""
    reason = getattr(error, "strerror", None) or str(error)
    if "too much memory" in reason:
        return (
            "compressed with a window of more than 2 GiB, or damaged. Compress it again with `zstd --long=31` or less."
        )
    if "not enough memory" in reason:
        return f"unreadable: {reason}. It was compressed with a long window (`zstd --long`), which takes as much memory"
    damaged = compression and not (isinstance(error, OSError) and error.errno)
    return f"{'damaged or incomplete' if damaged else 'unreadable'}: {reason}"


class _Decompressed(io.RawIOBase):
    """The joined content of the streams of a file."""

    def __init__(self, file: io.BufferedReader, compression: str):
        self._new_stream = _STREAMS[compression]
        self._padded = compression in _PADDED
        self._stream: _Stream | None = None  # None: between two
        self._padding = b""  # what may follow the last stream
        self._file = file
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            self._input = self._input or self._file.read(_INPUT_SIZE)
            if not self._input:
                if self._stream is not None:
                    raise EOFError("the file ends within compressed data")
                return 0
            self._output = memoryview(self._decompress())
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

    def _decompress(self) -> bytes:
        given, self._input = self._input, b""
        if self._stream is None:
            given = given.lstrip(self._padding) if self._padding else given
            if not given:
                return b""
            self._stream = self._new_stream()
        output = self._stream.decompress(given)
        if self._stream.eof:
            self._input = self._stream.unused_data
            self._stream = None
            self._padding = b"\0" if self._padded else b""
        return output

    def close(self) -> None:
        self._file.close()
        super().close()
