"""Run directories by the paths that a user gives; unlike measured runs, launched ones may not have started yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from glm_launch.records import LaunchFolder, Submission
from glm_scale.errors import UserError
from glm_scale.runs import RunDirectory

__all__ = ["find_launched", "launched"]

_SEARCH_DEPTH = 3


def find_launched(paths: Iterable[Path]) -> list[RunDirectory]:
    """The runs at `paths`, each a run directory or a folder that holds some, launched or not, each once.

    Raises UserError for a path that does not exist or holds no run.
    """
    found: dict[Path, RunDirectory] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give run directories, or a folder that holds them")
        runs = list(_search(path, _SEARCH_DEPTH))
        if not runs:
            raise UserError(f"no run in {path}; `glm-scale submit` and `glm-scale train` make runs in runs/")
        for run in runs:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def launched(path: Path) -> tuple[LaunchFolder, Submission]:
    """The launched run in a directory. Raises UserError if none is there."""
    folder = LaunchFolder(RunDirectory(path))
    submission = folder.submission()
    if submission is None:
        raise UserError(f"{path} holds no run that `glm-scale submit` has started")
    return folder, submission


def _search(folder: Path, depth: int) -> Iterator[RunDirectory]:
    run = RunDirectory(folder)
    if run.exists() or LaunchFolder(run).submission_file.is_file():
        yield run
    elif depth > 0:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, depth - 1)
