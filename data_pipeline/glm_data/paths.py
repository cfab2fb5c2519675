"""Which paths there can be. Imports nothing heavy."""

from pathlib import Path

__all__ = ["path_problem"]

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes of one name and of a whole path that Linux takes."""


def path_problem(path: Path) -> str:
    """Why there can be no file of this path on any file system; empty if there can."""
    if "\0" in str(path):
        return "holds a NUL character, which no path may"
    longest = max((_bytes(part) for part in path.parts), default=0)
    if longest > _LONGEST_NAME or _bytes(str(path)) > _LONGEST_PATH:
        return f"is too long for a file system: {_LONGEST_NAME} bytes for each name in it, {_LONGEST_PATH} for all"
    return ""


def _bytes(text: str) -> int:
    # A byte that is no UTF-8 is one character in Python, and one byte in "?" as well.
    return len(text.encode(errors="replace"))
