"""`glm-scale plan`."""

from __future__ import annotations

import json as json_format
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from glm_scale.cli.arguments import ConfigPath, Overrides
from glm_scale.cli.gpus import Calibrated, Kind, calibration_of, known_gpu

if TYPE_CHECKING:
    from rich.console import Console

    from glm_scale.planning import Planning

_SHOWN = 12
# Wider tables are hard to read; and where output goes to a file or a pipe, rich would assume 80 columns.
_WIDTH = 100


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, max=2**20, help="How many GPUs; none of them is needed.")] = 1,
    gpu: Kind = "h100",
    calibration: Calibrated = None,
    everything: Annotated[bool, typer.Option("--all", help="All layouts, not only the best dozen.")] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Also what ranks send, and what takes how much of a step.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="All layouts as JSON, in bytes and seconds.")] = False,
) -> None:
    """Lay a run out over many GPUs: memory, bytes sent and the time of a step of every layout, best first.

    Times are predictions where single operators have been measured on that kind of GPU (`glm-scale bench calibrate`),
    in bf16, with a table of what takes how much. Else they are upper bounds of speed, by a roofline: what the GPU's
    data sheet allows if nothing is hidden behind anything else; real steps take longer, how long is said by a usual
    MFU. A prediction is kept by `--json > FILE`.

    A layout that does not fit is tried with higher stages of ZeRO and with more activation checkpointing (selective,
    then full); what was changed is named.
    """
    from glm_scale.config import load_config
    from glm_scale.planning import plan_layouts

    kind = known_gpu(gpu)
    run = load_config(config, overrides or ())
    measured = calibration_of(gpu, calibration)
    planning = plan_layouts(run, gpus, kind, measured)
    if json:
        from glm_scale.planning.report import values

        sys.stdout.write(json_format.dumps(values(planning), indent=2) + "\n")
        return
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=min(Console().width, _WIDTH) if known else _WIDTH, highlight=False)
    training, again = run.training, run.training.activation_checkpointing
    console.print(
        f"{run.name} on {gpus} × {gpu}: steps of {training.batch_tokens:,} tokens, {training.micro_batch} sequences of "
        f"{run.data.sequence_length:,} at a time, {training.precision}, ZeRO {training.zero_stage}"
        f"{'' if again == 'none' else f', {again} activation checkpointing'}",
    )
    _show(planning, console, None if everything else _SHOWN, details)
    if not planning.calibrated:
        why = "is in bf16 alone, see training.precision" if measured else "there is none; --calibration names one"
        console.print(f"Calibration of {gpu}: {why}", markup=False, style="dim")


def _show(planning: Planning, console: Console, most: int | None, details: bool) -> None:
    from glm_scale.planning import report

    plans, impossible = planning.plans[:most], planning.impossible[:most]
    if plans:
        console.print("\nlayouts, best first", style="bold")
        console.print(report.summary_table(plans))
        console.print(report.likely(plans[0]), markup=False)
        console.print("\nmemory of one GPU, GB", style="bold")
        console.print(report.memory_table(plans))
        if details:
            console.print("sent by one rank in a step, GB", style="bold")
            console.print(report.exchanges_table(plans))
            console.print("what takes how much of a step", style="bold")
            console.print(report.times_table(plans))
        if plans[0].seconds.calibrated:
            console.print("a step of the first, by component", style="bold")
            console.print(report.parts_table(plans[0]))
        for term, meaning in report.legend(planning, details).items():
            console.print(f"{term}: {meaning}", markup=False, style="dim")
        console.print()
    _say_how_many(len(planning.plans) - len(plans), "more layouts are possible", console)
    for layout in impossible:
        reasons = "\n    ".join(layout.reasons)
        console.print(f"not {layout.layout}:\n    {reasons}", markup=False)
    _say_how_many(len(planning.impossible) - len(impossible), "more are not", console)


def _say_how_many(left: int, what: str, console: Console) -> None:
    if left:
        console.print(f"{left} {what}; --all shows them", style="dim")
