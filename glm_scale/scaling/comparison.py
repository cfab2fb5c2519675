"""Several runs side by side: their order, and what makes them hard to compare."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.markup import escape
from rich.table import Table

from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import usable
from glm_scale.scaling.curves import TrainedRun, load_run
from glm_scale.scaling.differences import remarks_on
from glm_scale.scaling.selection import Filter, select


@dataclass(frozen=True)
class Comparison:
    """Runs by validation loss, best first, and remarks on what keeps them from being compared fairly."""

    runs: tuple[TrainedRun, ...]
    remarks: tuple[str, ...]

    @property
    def unfinished(self) -> int:
        """How many of the runs have not finished."""
        return sum(run.status != "finished" for run in self.runs)

    @property
    def best(self) -> TrainedRun | None:
        """Of several runs with a final validation loss that with the least."""
        final = [run for run in self.runs if run.validation_loss is not None and _is_final(run)]
        return final[0] if len(final) > 1 else None

    def label(self, run: TrainedRun) -> str:
        """What a figure calls the run: its mixer or its name if that says which run it is, else both."""
        alike = sum(other.mixer == run.mixer for other in self.runs)
        if alike == 1:
            return run.mixer
        return run.name if alike == len(self.runs) else f"{run.mixer} ({run.name})"


def compare(
    directories: Iterable[RunDirectory],
    *,
    scaling: bool = False,
    filters: Iterable[Filter] = (),
    finished: bool = False,
    source: str | None = None,
) -> Comparison:
    """Load the runs, choose and order them.

    `scaling`: the runs are meant to differ in size, and in tokens with it. `filters` and `finished`: see `select`.
    `source`: by the validation losses of that data set alone.
    A run that cannot be read is named on stderr and left out. Raises UserError if that is all of them.
    """
    runs = select(usable(directories, partial(load_run, source=source)), filters, finished)
    runs.sort(key=lambda run: (math.inf if run.validation_loss is None else run.validation_loss, run.name))
    said = [] if source is None else [f"validation losses are those of {source} alone"]
    return Comparison(tuple(runs), (*said, *remarks_on(runs, scaling)))


def _is_final(run: TrainedRun) -> bool:
    return run.status == "finished" and not run.provisional


def render_table(comparison: Comparison) -> Table:
    """The comparison as a table for the terminal, best validation loss first."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    for heading in ("run", "mixer"):
        table.add_column(heading, overflow="fold")
    for heading in ("parameters", "tokens", "FLOPs", "train loss", "val. loss", "bits/byte", "tokens/s", "status"):
        table.add_column(heading, justify="left" if heading == "status" else "right", no_wrap=True)
    for run in comparison.runs:
        style = "bold" if run is comparison.best else None if _is_final(run) else "dim"
        table.add_row(*(escape(cell) for cell in table_row(run)), style=style)
    return table


def table_row(run: TrainedRun) -> list[str]:
    """The cells of a run in the order of the table's columns; "~" marks a loss that is not the final one."""
    mark = "~" if run.provisional else ""
    return [
        run.name,
        run.mixer,
        quantity(run.summary.parameters),
        quantity(run.tokens),
        f"{run.flops:.2e}",
        _number(run.train_loss),
        mark * (run.validation_loss is not None) + _number(run.validation_loss),
        mark * (run.bits_per_byte is not None) + _number(run.bits_per_byte),
        "–" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
        run.status,
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def quantity(value: float) -> str:
    """A count with three digits and a suffix: 1.41M, 7.00B."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}" if value / size >= 100 else f"{value / size:.2f}{suffix}"
    return f"{value:.0f}"


def numbers(comparison: Comparison) -> dict[str, Any]:
    """Everything that the table shows, and what figures draw runs by, for other programs to read."""
    return {
        "runs": [
            {
                "name": run.name,
                "directory": str(run.directory.path),
                "mixer": run.mixer,
                "parameters": run.summary.parameters,
                "non_embedding_parameters": run.summary.non_embedding_parameters,
                "sequence_length": run.summary.sequence_length,
                "tokens": run.tokens,
                "flops": run.flops,
                "train_loss": run.train_loss,
                "validation_loss": run.validation_loss,
                "bits_per_byte": run.bits_per_byte,
                "final": _is_final(run),
                "tokens_per_second": run.tokens_per_second,
                "seconds": run.seconds or None,
                "cache_bytes": run.summary.cache_bytes,
                "status": run.status,
            }
            for run in comparison.runs
        ],
        "remarks": list(comparison.remarks),
    }
