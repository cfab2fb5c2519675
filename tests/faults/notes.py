"""What ranks note down while they work: lines that are there even if the rank is killed right after."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Note:
    """`when` is of the monotonic clock, which all processes of a machine share."""

    rank: int
    when: float
    kind: str
    values: list[Any]


class Notebook:
    """Of one rank, to write into."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = os.open(folder / f"rank-{rank}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, kind: str, *values: Any) -> None:
        os.write(self._file, (json.dumps([time.monotonic(), kind, *values]) + "\n").encode())


class Notes(list[Note]):
    """Of all ranks, in order of time."""

    @classmethod
    def read(cls, folder: Path) -> Notes:
        found = (note for path in folder.glob("rank-*.notes") for note in _notes(path))
        return cls(sorted(found, key=lambda note: note.when))

    def of(self, kind: str) -> list[Note]:
        return [note for note in self if note.kind == kind]

    def firsts(self, kind: str) -> list[Any]:
        """The first value of every note of a kind."""
        return [note.values[0] for note in self.of(kind)]

    def is_saving(self, when: float) -> bool:
        """Whether some rank was in a save."""
        open_saves = set()
        for note in self:
            if note.when <= when and note.kind == "save begins":
                open_saves.add((note.rank, note.values[0]))
            elif note.when <= when and note.kind == "save ends":
                open_saves.discard((note.rank, note.values[0]))
        return bool(open_saves)


def _notes(path: Path) -> Iterator[Note]:
    rank = int(path.stem.partition("-")[2])
    # Somebody may be writing the last line.
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            when, kind, *values = json.loads(line)
            yield Note(rank, when, kind, values)
