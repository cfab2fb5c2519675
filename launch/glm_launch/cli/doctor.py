"""`glm-scale doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from glm_launch.doctor import Asked, Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "not applicable": "dim"}
_WIDE = 200
"""Columns where output goes to a file or a pipe, for which rich would assume 80 and fold the lines."""


def doctor(
    folder: Annotated[
        Path, typer.Option(help="Where runs are to lie. On a cluster: a folder that all nodes see.")
    ] = Path("runs"),
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="Where runs are to be tracked, as tracking.uri. Default: what MLFLOW_TRACKING_URI says, else "
            "sqlite:///mlflow.db.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, one object for each check, when all are done.")
    ] = False,
) -> None:
    """Check this machine: Python, torch, GPUs, Triton, the folder of the runs, MLflow, SLURM, clocks and limits.

    Says for each what was found and, if something is amiss, what to do. Nothing is changed; what is written for a trial
    is removed. Exit code 1 if there is a problem. A GPU that is missing is none: most login nodes have no GPU.

    srun --gpus=8 glm-scale doctor --folder /shared/runs --tracking-uri http://mlflow.example.org:5000
    """
    from glm_launch.doctor import Asked, examine

    asked = Asked(folder, tracking_uri)
    if as_json:
        findings = list(examine(asked))
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False) + "\n")
    else:
        findings = _tell(asked)
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _tell(asked: Asked) -> list[Finding]:
    """Print each finding when it is there."""
    from rich.console import Console

    from glm_launch.doctor import examine

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    findings = []
    with console.status("") as status:
        for finding in examine(asked, begin=lambda name: status.update(f"{name} …")):
            findings.append(finding)
            _print(console, finding)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("problem", "warning")}
    console.print(", ".join(f"{count} {state}{'' if count == 1 else 's'}" for state, count in counts.items()))
    return findings


def _print(console: Console, finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    row = Table.grid(padding=(0, 1))
    row.add_column(width=14)
    row.add_column(width=19)
    row.add_column()
    says = finding.says + (f" → {finding.way_out}" if finding.way_out else "")
    row.add_row(Text(finding.state, _STYLES[finding.state]), Text(finding.name), Text(says))
    console.print(row)
