"""Processes that measure, watched from outside: what they say as they say it, and another one after each that fails."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_scale.bench.decode.cases import Case, Setting
from glm_scale.bench.decode.session import Measured
from glm_scale.bench.processes import last_words, running

__all__ = ["Outcome", "outcomes"]

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """Of a case: what was measured, or why it was refused for want of memory, or what went wrong."""

    case: Case
    measured: Measured | None = None
    refused: str | None = None
    error: str | None = None


def outcomes(cases: Sequence[Case], setting: Setting, seconds: float) -> Iterator[Outcome]:
    """Measure cases of one mixer in order, each within so many seconds."""
    left = list(cases)
    while left:
        with tempfile.TemporaryDirectory(prefix="glm-bench-") as folder:
            for outcome in _of_one_process(tuple(left), setting, seconds, Path(folder)):
                left.remove(outcome.case)
                yield outcome


def _of_one_process(cases: Sequence[Case], setting: Setting, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Ends with the process, and says of the case it was at why it has ended, unless it did itself."""
    asked = {"setting": setting.to_json(), "cases": [str(case) for case in cases]}
    command = [sys.executable, "-m", "glm_scale.bench.decode.worker", json.dumps(asked)]
    told, deadline = 0, time.monotonic() + seconds
    with running(command, folder) as process:
        while told < len(cases):
            code = process.poll()
            lines = _lines(folder / "out")
            for line in lines[told:]:
                yield _outcome(line)
                told, deadline = told + 1, time.monotonic() + seconds
            late = time.monotonic() > deadline
            if (code is not None or late) and told < len(cases):
                if not lines or late or code == 0 or "error" not in lines[-1]:
                    what = f"took longer than {seconds:.0f} s" if late else f"ended its process with exit code {code}"
                    case = cases[told]
                    yield Outcome(case, error=last_words(f"{case} {what}", [folder / "err"]))
                return
            time.sleep(_POLL_SECONDS)


def _lines(path: Path) -> list[dict[str, Any]]:
    complete = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in complete if line.startswith(b'{"case"')]


def _outcome(line: dict[str, Any]) -> Outcome:
    measured = line.get("measured")
    return Outcome(
        Case.parse(line["case"]),
        Measured.from_json(measured) if measured else None,
        line.get("refused"),
        line.get("error"),
    )
