"""`glm-scale tasks`: what structures learn of tasks whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm_scale.output import is_commentary

if TYPE_CHECKING:
    import torch
    from rich.table import Table as Rendered

    from glm_scale.tasks.report import Table
    from glm_scale.tasks.setting import Setting

_STRUCTURES = "attention,local:16,ssm,window:8,dense,offsets:2^k,lattice:2^k,offsets:k^2+1,lattice:k^2+1,mamba2,gla"


def run(
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK …]",
            help="copy:n, recall:p, recall_gaps:p, multihop:h or selective_copy; n symbols, p pairs, h hops. Default: "
            "copy, recall, recall_gaps, multihop:1, multihop:2, multihop:4 and selective_copy.",
            show_default=False,
        ),
    ] = None,
    mixers: Annotated[
        str,
        typer.Option(
            metavar="MIXER,…",
            help="Structures; several mixers of one model are joined by +. Default: the nine of the paper (local:16, "
            "window:8), mamba2 and gla.",
            show_default=False,
        ),
    ] = _STRUCTURES,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Models of each structure and rate.")] = 3,
    rates: Annotated[str, typer.Option(metavar="RATE,…", help="Peaks of the learning rate.")] = "3e-4,1e-3,3e-3",
    steps: Annotated[int, typer.Option(min=1, help="Of training.")] = 5000,
    batch: Annotated[int, typer.Option(min=1, max=2**20, help="Fresh sequences of each step and seed.")] = 128,
    sequences: Annotated[int, typer.Option(min=1, help="Fresh sequences of the evaluation, at each length.")] = 4096,
    conv: Annotated[
        bool, typer.Option("--conv/--no-conv", help="A convolution of 4 tokens in front of every mixer.")
    ] = False,
    mlp: Annotated[bool, typer.Option("--mlp/--no-mlp", help="The gated MLP of every layer.")] = True,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where there is a GPU.")] = "auto",
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where each result is kept; what is there is not done again.")
    ] = Path("runs/tasks"),
) -> None:
    """Train small models on synthetic tasks, and ask them on fresh sequences, also of 2 and 4 times the length.

    COPY: x … 0 x …; the second half is asked.
    RECALL: pairs of a key and a value, then the keys; their values are asked.
    RECALL_GAPS: the same with gaps between the queries, by a power law.
    MULTIHOP: links of a chain, shuffled; asked is the node h hops on.
    SELECTIVE_COPY: symbols in between noise; they are asked, in order.

    Models have two layers of width 128. What they learn depends on the rate,
    so each structure gets the whole grid; all its models train at once.
    A mixer that cannot run here is skipped by name.

    Each result is kept as it comes: the same command goes on where it stopped.

    glm-scale tasks run copy:6 --mixers attention,ssm --seeds 1 --rates 3e-3 --steps 100 --batch 32 --sequences 256
    """
    is_commentary()
    from glm_scale.tasks.registry import USUAL_TASKS, parse_task
    from glm_scale.tasks.running import run_tasks

    setting = _setting(seeds, rates, steps, batch, sequences, conv, mlp)
    wanted = list(dict.fromkeys(parse_task(spelling).name for spelling in tasks or USUAL_TASKS))
    run_tasks(wanted, _mixers(mixers), setting, _device(device), output)
    typer.echo(f"results are in {output}; glm-scale tasks report {output} shows them")


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The --output of `glm-scale tasks run`.")] = Path(
        "runs/tasks"
    ),
) -> None:
    """Show what `glm-scale tasks run` found: tables here, and tasks.html and tasks.png in DIR.

    Mean and standard deviation over seeds at the best learning rate,
    the same at longer lengths, every rate, and the paper's numbers.
    """
    import sys

    from rich.console import Console

    from glm_scale.errors import UserError
    from glm_scale.tasks.figures import draw_tasks, write_tasks_page
    from glm_scale.tasks.report import remarks_on, tables_of
    from glm_scale.tasks.results import Results

    results = Results(directory).read()
    if not results:
        raise UserError(f"{directory} holds no results; `glm-scale tasks run --output {directory}` makes some")
    # Where output goes to a file or a pipe, rich would assume 80 columns and fold the table.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in tables_of(results):
        console.print(f"\n{table.title}", style="bold", markup=False)
        if table.note:
            console.print(table.note, markup=False, style="dim")
        console.print(_rendered(table))
    console.print()
    for remark in remarks_on(results):
        console.print(f"note: {remark}", markup=False, style="dim")
    page, picture = directory / "tasks.html", directory / "tasks.png"
    try:
        write_tasks_page(results, page)
        draw_tasks(results, picture)
    except OSError as error:
        raise UserError(
            f"cannot write the figures to {directory}: {error.strerror}; copy it to where you may"
        ) from error
    for path in (page, picture):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)


def _setting(seeds: int, rates: str, steps: int, batch: int, sequences: int, conv: bool, mlp: bool) -> Setting:
    from glm_scale.errors import UserError
    from glm_scale.tasks.setting import Setting

    pieces = [piece.strip() for piece in rates.split(",") if piece.strip()]
    numbers = [_rate(piece) for piece in pieces]
    if not numbers or None in numbers:
        wrong = pieces[numbers.index(None)] if numbers else "nothing"
        raise UserError(
            f"--rates {rates}: {wrong!r} is no learning rate above 0 and at most 1; give some, as in 1e-3,3e-3"
        )
    return Setting(
        seeds=seeds, rates=tuple(filter(None, numbers)), steps=steps, batch=batch, sequences=sequences, conv=conv,
        mlp=mlp,
    )  # fmt: skip


def _rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        return None
    return rate if 0 < rate <= 1 else None


def _mixers(text: str) -> list[str]:
    from glm_scale.errors import UserError
    from glm_scale.mixers import parse_hybrid

    spellings = [mixer.strip() for mixer in text.split(",") if mixer.strip()]
    try:
        found = list(dict.fromkeys("+".join(spec.name for spec in parse_hybrid(spelling)) for spelling in spellings))
    except ValueError as error:
        raise UserError(f"--mixers: {error}") from error
    if not found:
        raise UserError("--mixers names none; give some, as in attention,lattice:2^k")
    return found


def _device(wanted: str) -> torch.device:
    import torch

    from glm_scale.errors import UserError

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but there is no GPU here that torch can use; --device cpu takes long")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def _rendered(table: Table) -> Rendered:
    from rich.table import Table as Rich

    rendered = Rich(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for number, heading in enumerate(table.headings):
        rendered.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row, cells in enumerate(table.rows):
        rendered.add_row(*(_cell(cell, (row, column) in table.marked) for column, cell in enumerate(cells)))
    return rendered


def _cell(text: str, marked: bool) -> str:
    from rich.markup import escape

    return f"[bold]* {escape(text)}[/]" if marked else escape(text)
