"""The progress of a build: a bar a stage with documents, megabytes a second and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Advance = Callable[[int, int], None]  # documents, bytes


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed / 1e6:6.1f} MB/s" if speed else "", style="progress.data.speed")


class _Documents(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['documents']:,} documents")


class BuildProgress:
    """Shows stages on a console; silent without one."""

    def __init__(self, console: Console | None):
        self._console = console or Console(quiet=True)

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, description: str, total_bytes: int | None) -> Iterator[Advance]:
        """Show a bar while the block runs; what it yields takes steps of (documents, bytes).

        Args:
            description: of the stage.
            total_bytes: of the work, None if that is not known.
        """
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            _Documents(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(description, total=total_bytes, documents=0)
            documents = 0

            def advance(more_documents: int, more_bytes: int) -> None:
                nonlocal documents
                documents += more_documents
                progress.update(task, advance=more_bytes, documents=documents)

            yield advance
            if total_bytes is None:
                progress.update(task, total=progress.tasks[task].completed)
