"""From the cases that a user asks for to a table of what they take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import typer

from glm_scale.bench.calls import machine
from glm_scale.bench.decode.cases import Case, Setting
from glm_scale.bench.decode.results import Results
from glm_scale.bench.decode.running import outcomes
from glm_scale.errors import UserError

__all__ = ["run_table"]


def run_table(cases: Sequence[Case], setting: Setting, output: Path, seconds: float) -> None:
    """Measure cases, the model of each mixer in a process of its own, and print each as it comes.

    Cases that the device has no memory for are refused, and the rest goes on. Raises UserError in the end for what was
    wrong or failed.
    """
    results = Results(output, machine(), setting)
    typer.echo(f"{machine()}; size {setting.size}, {setting.precision}, {len(cases)} cases; results go to {output}")
    refused: list[str] = []
    problems: list[str] = []
    for _, of_mixer in groupby(cases, lambda case: case.mixer):
        for outcome in outcomes(list(of_mixer), setting, seconds):
            if outcome.measured is not None:
                results.add(outcome.measured)
                typer.echo(results.line())
            elif outcome.refused is not None:
                refused.append(outcome.refused)
                typer.echo(f"refused: {outcome.refused}")
            else:
                problems.append(str(outcome.error))
                typer.echo(f"{outcome.case}: not measured\n  {outcome.error}", err=True)
    typer.echo("\n".join(["", results.markdown(), *(f"Refused: {reason}" for reason in refused)]))
    if problems:
        raise UserError("\n".join(problems))
