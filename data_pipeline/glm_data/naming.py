"""Names of files as text that every console, index and shard can hold.

A file name on Linux is bytes, and may be no UTF-8 or hold line breaks and commands to a terminal. A harmless name
stands as it is; another is written as the shell's `$'…'`, which a user can paste back and `original` reads.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

_ESCAPES = {ord("\\"): "\\\\", ord("'"): "\\'", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_QUOTED = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_UNUSUAL = re.compile(r"[^\w.-]")


def shown(name: Path | str) -> str:
    """A name for people and files: itself, or `$'…'` with what is no printable UTF-8 as escapes."""
    text = str(name)
    if text.isprintable() and not text.startswith("$'"):  # lone surrogates, which stand for other bytes, are not
        return text
    return "$'" + "".join(_spelled(character) for character in text) + "'"


def original(text: str) -> str:
    """The name that `shown` gave `text` for."""
    if not text.startswith("$'"):
        return text
    raw = os.fsencode(text[2:-1])
    return os.fsdecode(_QUOTED.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else _LETTERS.get(m[2], m[2]), raw))


def _spelled(character: str) -> str:
    if escape := _ESCAPES.get(ord(character)):
        return escape
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """A word for each folder, of letters, digits and . - _ only: its own name; behind a number of its own if two would
    be the same."""
    names = [_UNUSUAL.sub("_", folder.absolute().name) or "_" for folder in folders]
    alike = len(set(names)) < len(names)
    return [f"{number}-{name}" if alike else name for number, name in enumerate(names, 1)]
