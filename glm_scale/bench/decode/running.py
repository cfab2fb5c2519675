"""Processes that measure, watched from outside: what they say as they say it, and another one after each that fails."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_scale.bench.decode.cases import Case, Setting
from glm_scale.bench.decode.session import Measured
from glm_scale.bench.processes import EndedError, answers

__all__ = ["Outcome", "outcomes"]


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
    told = 0
    try:
        for line in answers(command, len(cases), seconds, folder):
            yield _outcome(line)
            told += 1
    except EndedError as error:
        yield Outcome(cases[told], error=f"{cases[told]} {error}")


def _outcome(line: dict[str, Any]) -> Outcome:
    measured = line.get("measured")
    return Outcome(
        Case.parse(line["case"]),
        Measured.from_json(measured) if measured else None,
        line.get("refused"),
        line.get("error"),
    )
