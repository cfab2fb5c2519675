"""`glm-scale patterns`: what structures cost and how far they reach, measured, without training anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from glm_scale.mixers import Structure
    from glm_scale.theory import Measurement

_STRUCTURES = (
    "attention",
    "local:16",
    "ssm",
    "window:16",
    "dense",
    "offsets:2^k",
    "lattice:2^k",
    "offsets:k^2+1",
    "lattice:k^2+1",
)
_COPY_LENGTH = 127  # the farthest copy for 2^k below 128: seven terms


def patterns(
    structures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STRUCTURE …]",
            help="Spelled as in model.mixers: attention, local:w, ssm:N, window:w, dense, lattice:f, offsets:f with "
            "any increasing f of k, or an input mixing in front of a recurrence, 'local:128 > lattice:2^k'. "
            "Default: the nine structures of the README.",
            show_default=False,
        ),
    ] = None,
    length: Annotated[int, typer.Option(min=2, max=2**20, help="Rows of the document that is measured.")] = 4096,
    head_dim: Annotated[int, typer.Option(min=1, max=2**20, help="Key and value size of a head.")] = 64,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Also draw A, B and (I − B)^-1 of the first rows.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with full precision instead.")] = False,
) -> None:
    """Compare token-mixing structures Y = (I − B)^-1 A X by cost and reach.

    Nothing is trained; every figure follows from the sparsity of A and B.

    READS: the earlier rows that a row reads, through A and through B.
    CACHE: the most rows a decoder ever holds.
    PATH: the reads that lie between the last row and an earlier input.
    The fewer, the better information survives the way.
    CONGESTION: how many messages must share one row when a text is copied.
    The lower, the more can be carried at once.

    glm-scale patterns 'lattice:3^k' 'lattice:floor(k*log(k+1))+k+1'
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from glm_scale.theory import measure

    chosen = [_structure(spelling) for spelling in structures or _STRUCTURES]
    if plot:
        _draw(chosen, plot)
    measured = []
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("", total=len(chosen))
        for structure in chosen:
            progress.update(task, description=f"measuring {structure}")
            measured.append(measure(structure, length, head_dim, _COPY_LENGTH))
            progress.advance(task)
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in measured], indent=2))
        return
    Console().print(_table(measured, length, head_dim))


def _structure(spelling: str) -> Structure:
    from glm_scale.errors import UserError
    from glm_scale.mixers import parse_mixer

    found = parse_mixer(spelling).structure
    if found is None:
        raise UserError(
            f"mixer {spelling!r} is not of the form Y = (I − B)⁻¹ A X over tokens, so there is nothing to measure; "
            "leave it out"
        )
    return found


def _draw(structures: list[Structure], path: Path) -> None:
    from glm_scale.errors import UserError
    from glm_scale.theory.plots import plot_structures

    try:
        plot_structures(structures, path)
    except OSError as error:
        raise UserError(
            f"--plot {path}: {error.strerror}; name a file in a folder that exists and is writable"
        ) from error
    except ValueError as error:
        raise UserError(f"--plot {path}: {error}") from error


def _table(measured: list[Measurement], length: int, head_dim: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"Structures at {length} rows, one head of {head_dim}",
        caption=f"path: from the last row back to every earlier one; congestion: of copying {_COPY_LENGTH} rows, "
        "proven bound–best routing found, or the exact value; kFLOP: forward, without projections",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        caption_justify="left",
    )
    table.add_column("structure\n", overflow="fold")
    table.add_column("A\n", no_wrap=True)
    table.add_column("B\n", no_wrap=True)
    for heading in ("reads\nmean", "\nmax", "cache\nrows", "path\nmean", "\nmax", "conges-\ntion", "kFLOP\n/token"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in measured:
        table.add_row(
            str(one.structure),
            *one.structure.matrices,
            _short(one.reads_mean),
            str(one.reads_max),
            str(one.cache_rows),
            _short(one.path_mean),
            _short(one.path_max, digits=0),
            str(one.congestion or "no path"),
            _short(one.flops_per_token / 1000),
        )
    return table


def _short(value: float, digits: int = 1) -> str:
    """A number in at most five characters or so."""
    return "∞" if math.isinf(value) else f"{value:.{digits if value < 1000 else 0}f}"
