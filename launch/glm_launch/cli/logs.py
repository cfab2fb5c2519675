"""`glm-scale logs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended, or Ctrl-C.")] = False,
    rank: Annotated[int | None, typer.Option(min=0, help="What this rank printed, instead of the run's log.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="What the batch script, or the supervisor, printed.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How much of what is there already.")] = 40,
) -> None:
    """Show the log of a run; with -f as it grows, through restarts, until the run has come to its end."""
    import contextlib

    from glm_launch.following import files_of, follow_files, last_lines
    from glm_launch.records import LaunchFolder
    from glm_scale.errors import UserError
    from glm_scale.run_directory import RunDirectory

    folder = LaunchFolder(RunDirectory(run))
    if not (folder.run.exists() or folder.submission_file.exists()):
        raise UserError(f"{run} is not a run directory")
    found = files_of(folder, rank, batch)
    if not found and not follow:
        raise UserError(f"{run} has no such log yet; -f waits for it")
    shown = {path: path.stat().st_size for path in found[:-1]}
    for path in found[-1:]:
        text, shown[path] = last_lines(path, lines)
        print(text, end="", flush=True)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            follow_files(folder, lambda: files_of(folder, rank, batch), shown)
