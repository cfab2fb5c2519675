"""`glm-scale status`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glm_launch.status import RunState

_WIDE = 200
"""Columns where output goes to a file or a pipe, for which rich would assume 80 and fold the table."""


def status(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN...]", help="Run directories, or folders of them; default: runs/"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one object for each run.")] = False,
) -> None:
    """How runs stand: state, step, loss, speed, estimated end, last checkpoint, and why they were restarted.

    Works for runs in SLURM (with or without accounting), in the background of this machine, and in a terminal.
    """
    from glm_launch.finding import find_launched
    from glm_launch.status import states_of

    states, remark = states_of(find_launched(runs or [Path("runs")]))
    if as_json:
        sys.stdout.write(json.dumps([asdict(state) for state in states], indent=2) + "\n")
    else:
        _show(states)
    if remark:
        print(remark, file=sys.stderr)


def _show(states: list[RunState]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "job", "state", "step", "loss", "tokens/s", "eta", "last checkpoint", "restarts"):
        table.add_column(heading, justify="right" if heading in ("step", "loss", "tokens/s", "eta") else "left")
    for state in states:
        checkpoint = "" if state.checkpoint is None else f"step {state.checkpoint}"
        if state.checkpoint_age is not None:
            checkpoint += f", {_duration(state.checkpoint_age)} ago"
        cells = (
            state.name,
            state.job,
            state.state,
            f"{state.step}/{state.steps}" if state.steps else str(state.step),
            "" if state.loss is None else f"{state.loss:.4f}",
            "" if state.tokens_per_second is None else f"{state.tokens_per_second:,.0f}",
            "" if state.eta is None else _duration(state.eta),
            checkpoint,
            f"{len(state.restarts)}: {'; '.join(state.restarts)}" if state.restarts else "",
        )
        table.add_row(*map(Text, cells))
    console = Console()
    Console(width=None if console.is_terminal else _WIDE).print(table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
