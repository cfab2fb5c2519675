"""A process that is measured: started with its output in a folder, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["last_words", "running"]

_LAST_LINES = 25


@contextlib.contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process with all that it starts, its output in `out` and `err`; it is killed at the end: what it would save
    is of no use."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_words(what: str, paths: Iterable[Path]) -> str:
    """A message of what has failed, with the last lines of these files."""
    words = [
        line
        for path in paths
        if path.exists()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    ]
    return "\n  ".join([f"{what}. Its last words:", *words])
