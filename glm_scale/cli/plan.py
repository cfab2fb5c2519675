"""`glm-scale plan`."""

from __future__ import annotations

import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.planning import Planning

_SHOWN = 12
# Where output goes to a file or a pipe, rich would assume 80 columns and fold the tables.
_WIDE = 180


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, max=2**20, help="How many GPUs; none of them is needed.")] = 1,
    gpu: Annotated[str, typer.Option(help="Their kind: h100, h200, b200, a100, l40s.")] = "h100",
    everything: Annotated[bool, typer.Option("--all", help="All layouts, not only the best dozen.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All layouts as JSON, in bytes and seconds.")] = False,
) -> None:
    """Lay a run out over many GPUs: memory, bytes sent and the time of a step of every layout, best first.

    Times are those of a roofline: what the GPU's data sheet allows if nothing is hidden behind anything else.
    """
    from glm_scale.config import load_config
    from glm_scale.errors import UserError
    from glm_scale.planning import GPUS, plan_layouts

    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu} is not known; known are {', '.join(GPUS)}")
    run = load_config(config, overrides or ())
    planning = plan_layouts(run, gpus, GPUS[gpu])
    if json:
        from glm_scale.planning.report import values

        sys.stdout.write(json_format.dumps(values(planning), indent=2) + "\n")
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    training = run.training
    console.print(
        f"{run.name} on {gpus} × {gpu}: steps of {training.batch_tokens:,} tokens, {training.micro_batch} rows of "
        f"{run.data.sequence_length:,} at a time, {training.precision}, ZeRO {training.zero_stage}"
        f"{', activation checkpointing' if training.activation_checkpointing else ''}",
        soft_wrap=True,
    )
    _show(planning, console, None if everything else _SHOWN)


def _show(planning: Planning, console: Console, most: int | None) -> None:
    from glm_scale.planning.report import exchanges_table, memory_table

    plans, impossible = planning.plans[:most], planning.impossible[:most]
    if plans:
        console.print("\nmemory in GB of one rank", style="bold")
        console.print(memory_table(plans))
        console.print("sent by one rank in a step, GB", style="bold")
        console.print(exchanges_table(plans))
    _say_how_many(len(planning.plans) - len(plans), "more layouts are possible", console)
    for layout in impossible:
        reasons = "\n    ".join(layout.reasons)
        console.print(f"not {layout.layout}:\n    {reasons}", markup=False, soft_wrap=True)
    _say_how_many(len(planning.impossible) - len(impossible), "more are not", console)


def _say_how_many(left: int, what: str, console: Console) -> None:
    if left:
        console.print(f"{left} {what}; --all shows them", style="dim")
