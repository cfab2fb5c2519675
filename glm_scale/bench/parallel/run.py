"""From the cases that a user asks for to a table of what they take."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import typer

from glm_scale.bench.calls import machine
from glm_scale.bench.parallel.cases import Case, Setting
from glm_scale.bench.parallel.results import Results
from glm_scale.bench.parallel.session import Measured
from glm_scale.bench.processes import EndedError, answers
from glm_scale.errors import UserError

__all__ = ["run_table"]


def run_table(cases: Sequence[Case], setting: Setting, output: Path, seconds: float) -> None:
    """Measure cases, those of as many ranks in the same processes, and print each as it comes.

    Raises UserError in the end for what was wrong or failed.
    """
    results = Results(output, machine(), setting)
    typer.echo(
        f"{machine()}; one layer, {setting.length:,} tokens, {setting.heads} heads of {setting.head_dim}, "
        f"{setting.precision}, {len(cases)} cases; results go to {output}"
    )
    problems: list[str] = []
    for _, of_size in groupby(cases, lambda case: case.ranks):
        for case, found in _outcomes(list(of_size), setting, seconds):
            if isinstance(found, Measured):
                results.add(found)
                typer.echo(results.line())
            else:
                problems.append(found)
                typer.echo(f"{case}: not measured", err=True)
    typer.echo(f"\n{results.markdown()}")
    if problems:
        raise UserError("\n".join(problems))


def _outcomes(cases: list[Case], setting: Setting, seconds: float) -> Iterator[tuple[Case, Measured | str]]:
    """What was measured, or what went wrong; then other processes take what is left."""
    while cases:
        asked = {"setting": setting.to_json(), "cases": [asdict(case) for case in cases]}
        command = [sys.executable, "-m", "glm_scale.bench.parallel.worker", json.dumps(asked)]
        with tempfile.TemporaryDirectory(prefix="glm-bench-") as folder:
            try:
                for line in answers(command, len(cases), seconds, Path(folder)):
                    case = cases.pop(0)
                    yield case, Measured.from_json(line["measured"]) if "measured" in line else line["error"]
            except EndedError as error:
                case = cases.pop(0)
                yield case, f"{case} {error}"
