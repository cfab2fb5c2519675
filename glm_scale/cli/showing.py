"""What commands for files of weights print with: a wide console, a bar of bytes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["byte_progress", "error_console", "in_bytes", "wide_console"]

# Where output goes to a file or a pipe, rich would assume 80 columns and fold the table.
_WIDE = 160


@contextlib.contextmanager
def byte_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; gives the function that is told bytes."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=error_console(), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def wide_console() -> Console:
    """Stdout, without colours for numbers and without folds."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=True)


def error_console() -> Console:
    """Stderr."""
    from rich.console import Console

    return Console(stderr=True)


def in_bytes(count: float) -> str:
    """So many bytes, as people read it."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
