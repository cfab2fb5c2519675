"""Log files of a run, which ones there are and what is added to them."""

from __future__ import annotations

import codecs
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from glm_launch.checks import pause_of, works
from glm_launch.records import LaunchFolder
from glm_scale.output import failure_of

__all__ = ["files_of", "follow_files", "last_lines"]

_POLL = 0.5


def files_of(folder: LaunchFolder, rank: int | None, batch: bool) -> list[Path]:
    """The log of the run, of one of its ranks, or of the batch script; oldest first. None may be there yet."""
    submission = folder.submission()
    if not batch and rank is None:
        return [folder.run.log] if folder.run.log.exists() else []
    if submission is None:
        found = [folder.run.ranks / f"rank-{rank}.log"]
    elif submission.kind == "local":
        own = batch or rank == 0
        found = [folder.supervisor_log] if own else [*folder.path.glob(f"attempt-*/rank-{rank}.log")]
    elif batch:
        found = [submission.folder / f"batch-{submission.job}.out"]
    else:
        found = [*submission.folder.glob(f"{submission.job}_{rank}_log.*")]
    return sorted((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime)


def last_lines(path: Path, count: int) -> tuple[str, int]:
    """The end of a file, and how far it was read, in bytes."""
    with path.open("rb") as file:
        lines = deque(file, count)
        return b"".join(lines).decode(errors="replace"), file.tell()


def follow_files(folder: LaunchFolder, files: Callable[[], list[Path]], shown: Mapping[Path, int]) -> None:
    """Print what is added to any of the files, until nobody works on the run any more, or nobody reads on.

    shown: how many bytes of them were shown before.
    """
    places = dict(shown)
    asked, active = time.monotonic(), works(folder)
    while True:
        for path in files():
            places[path] = _print_from(path, places.get(path, 0))
        if not active or failure_of(sys.stdout):
            return
        if time.monotonic() - asked >= pause_of(folder):
            asked, active = time.monotonic(), works(folder)
        time.sleep(_POLL)


def _print_from(path: Path, place: int) -> int:
    size = path.stat().st_size
    if size < place:
        place = 0  # it was begun anew
    if size > place:
        with path.open("rb") as file:
            file.seek(place)
            added = file.read(size - place)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        sys.stdout.write(decoder.decode(added))
        sys.stdout.flush()
        half_a_character, _ = decoder.getstate()
        return place + len(added) - len(half_a_character)
    return size
