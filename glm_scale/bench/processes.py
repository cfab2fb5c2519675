"""A process that is measured: started with its output in a folder, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["EndedError", "answers", "last_words", "running"]

_LAST_LINES = 25
_POLL_SECONDS = 0.2


class EndedError(Exception):
    """A process ended, or took too long, before it had answered everything: what it did, and its last words."""


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


def answers(command: Sequence[str], count: int, seconds: float, folder: Path) -> Iterator[dict[str, Any]]:
    """What a process says of `count` cases as it says it, each within so many seconds: lines of JSON that begin with a
    "case". One with an "error" may be its last. Raises EndedError for what it does not say."""
    told, deadline = 0, time.monotonic() + seconds
    with running(command, folder) as process:
        while told < count:
            code = process.poll()
            lines = _lines(folder / "out")
            for line in lines[told:]:
                yield line
                told, deadline = told + 1, time.monotonic() + seconds
            late = time.monotonic() > deadline
            if (code is not None or late) and told < count:
                if not lines or late or code == 0 or "error" not in lines[-1]:
                    what = f"took longer than {seconds:.0f} s" if late else f"ended its process with exit code {code}"
                    raise EndedError(last_words(what, [folder / "err"]))
                return
            time.sleep(_POLL_SECONDS)


def _lines(path: Path) -> list[dict[str, Any]]:
    complete = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in complete if line.startswith(b'{"case"')]


def last_words(what: str, paths: Iterable[Path]) -> str:
    """A message of what has failed, with the last lines of these files."""
    words = [
        line
        for path in paths
        if path.exists()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    ]
    return "\n  ".join([f"{what}. Its last words:", *words])
