"""Run directories by the paths that a user gives; unlike measured runs, launched ones may not have started yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glm_launch.records import LaunchFolder, Submission
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import find_runs

__all__ = ["find_launched", "launched"]


def find_launched(paths: Iterable[Path]) -> list[RunDirectory]:
    """Like `find_runs`, of runs that have started and of those that were submitted only."""
    return find_runs(paths, is_run=lambda run: run.exists() or LaunchFolder(run).exists())


def launched(path: Path) -> tuple[LaunchFolder, Submission]:
    """The launched run in a directory. Raises UserError if none is there."""
    folder = LaunchFolder(RunDirectory(path))
    submission = folder.submission()
    if submission is None:
        raise UserError(f"{path} holds no run that `glm-scale submit` has started")
    return folder, submission
