"""Run directories by the paths that a user gives: what cannot be looked at is named, and hides nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory

__all__ = ["find_runs", "note", "usable"]

Run = TypeVar("Run")
Result = TypeVar("Result")

# Folders of runs may be grouped (a sweep inside runs/); deeper than this nobody means.
_SEARCH_DEPTH = 3


def note(text: str) -> None:
    """Tell the user something beside the result."""
    print(f"note: {text}", file=sys.stderr)


def find_runs(
    paths: Iterable[str | os.PathLike[str]],
    tell: Callable[[str], None] = note,
    is_run: Callable[[RunDirectory], bool] = RunDirectory.exists,
) -> list[RunDirectory]:
    """The runs at `paths`, each a run directory or a folder that holds some, each run once, in order.

    `tell` hears of folders that cannot be read and of links that lead nowhere. `is_run`: what counts as one.
    Raises UserError for a path that does not exist or holds no run.
    """
    found: dict[Path, RunDirectory] = {}
    for path in map(Path, paths):
        if not os.path.isdir(path):  # noqa: PTH112  # unlike Path.is_dir it bears a path that cannot exist
            raise UserError(f"{path} is not a folder; give run directories, or a folder that holds them")
        skipped: list[str] = []
        runs = list(_search(path, _SEARCH_DEPTH, is_run, skipped.append))
        if not runs:
            raise UserError(
                f"no run in {path}: neither it nor a folder inside holds one. `glm-scale train` and `glm-scale submit` "
                "make runs in runs/." + "".join(f"\n  {problem}" for problem in skipped)
            )
        for problem in skipped:
            tell(problem)
        for run in runs:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def usable(runs: Iterable[Run], read: Callable[[Run], Result], tell: Callable[[str], None] = note) -> list[Result]:
    """What `read` makes of each run; `tell` hears of those of which it raises a UserError.

    Raises that error if there is nothing else to show.
    """
    results: list[Result] = []
    problems: list[UserError] = []
    for run in runs:
        try:
            results.append(read(run))
        except UserError as error:
            problems.append(error)
    if problems and not results:
        raise UserError("\n".join(map(str, problems)))
    for problem in problems:
        tell(f"left out: {problem}")
    return results


def _search(
    folder: Path, depth: int, is_run: Callable[[RunDirectory], bool], tell: Callable[[str], None]
) -> Iterator[RunDirectory]:
    run = RunDirectory(folder)
    if is_run(run):
        yield run
        return
    if depth == 0:
        return
    try:
        children = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        tell(f"{folder} cannot be looked into: {error.strerror}")
        return
    for child in children:
        if child.name.startswith("."):
            continue
        path = folder / child.name
        if os.path.isdir(path):  # noqa: PTH112
            yield from _search(path, depth - 1, is_run, tell)
        elif child.is_symlink() and not os.path.exists(path):  # noqa: PTH110
            tell(f"{path} is a link that leads nowhere, to {os.readlink(path)}")  # noqa: PTH115
