"""Lines that separate the documents of a text file.

A line ends with a line feed. Blanks, tabs and carriage returns at its end do not count, neither in the text nor in the
separator that is asked for, so files from Windows, of mixed origin, or touched by an editor are cut like any other.
What lies between separating lines is a document, byte for byte, without the end of its last line. A carriage return
alone (as the Macintosh once had it) ends no line: within a line it is text.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from glm_data.errors import DataError

_BLANKS = " \t\r"
_ANY_BLANKS = rb"[ \t\r]*+"


class Piece(NamedTuple):
    """A document, and the number of the line it begins on, counted from 0."""

    line: int
    content: bytes


class Separator:
    """A separating line.

    Args:
        line: its text; "" is a blank line.

    Raises:
        DataError: it is more than one line, or no UTF-8.
    """

    def __init__(self, line: str):
        if "\n" in line:
            raise DataError(f"The document separator {line!r} must be one line.")
        try:
            text = line.rstrip(_BLANKS).encode()
        except UnicodeEncodeError:
            raise DataError(f"The document separator {line!r} is not UTF-8.") from None
        separating = re.escape(text) + _ANY_BLANKS
        self._is_blank = not text
        # Each begins with a line feed, which is found fast.
        self._within = re.compile(rb"\n" + separating + rb"(?=\n)")
        self._run = re.compile(rb"\n(?:" + separating + rb"(?:\n|\Z))++")
        self._first_run = re.compile(rb"(?:" + separating + rb"(?:\n|\Z))++")

    def last_end(self, data: bytes) -> int:
        """Where the last separating line of `data` that ends there does; −1 if there is none.

        A line counts if its beginning is in `data`, too, in front of which there is a line feed.
        """
        end = -1
        for match in self._within.finditer(data):
            end = match.end() + 1
        return end

    def split(self, data: bytes) -> tuple[list[Piece], int]:
        """The documents of a text that begins with a line and ends with one, and how many separating lines it has."""
        pieces: list[Piece] = []
        start = line = separators = 0
        for match in self._runs(data):
            if content := data[start : match.start()].removesuffix(b"\r"):
                pieces.append(Piece(line, content))
            ends = match.group().count(b"\n")
            separators += self._lines(match, ends)
            line += data.count(b"\n", start, match.start()) + ends
            start = match.end()
        if start < len(data):
            pieces.append(Piece(line, data[start:]))
        return pieces, separators

    def _runs(self, data: bytes) -> Iterator[re.Match[bytes]]:
        """Separating lines that follow one another, each run with the end of the line in front of it."""
        first = self._first_run.match(data)
        if first is not None and first.end():
            yield first
        yield from self._run.finditer(data, first.end() if first is not None else 0)

    def _lines(self, match: re.Match[bytes], ends: int) -> int:
        """How many separating lines a run has. What follows the last line end of a file is no blank line."""
        in_front = match.re is self._run
        unended = not self._is_blank and not match.group().endswith(b"\n")
        return ends - in_front + unended
