"""Several runs side by side: their order, what makes them hard to compare, and their scaling laws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.run_search import usable
from glm_scale.scaling.curves import TrainedRun, load_run
from glm_scale.scaling.differences import remarks_on
from glm_scale.scaling.fit import MINIMUM_POINTS, PowerLaw, fit_power_law
from glm_scale.scaling.selection import Filter, select

_SUPERSCRIPT = str.maketrans("-.0123456789", "⁻·⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Comparison:
    """Runs by validation loss, best first, and remarks on what keeps them from being compared fairly."""

    runs: tuple[TrainedRun, ...]
    remarks: tuple[str, ...]

    @property
    def unfinished(self) -> int:
        """How many of the runs have not finished."""
        return sum(run.status != "finished" for run in self.runs)

    def label(self, run: TrainedRun) -> str:
        """What a figure calls the run: its mixer if that says which run it is, else mixer and name."""
        alone = sum(other.mixer == run.mixer for other in self.runs) == 1
        return run.mixer if alone else f"{run.mixer} ({run.name})"


@dataclass(frozen=True)
class ScalingCurve:
    """The final validation losses of one mixer; arrays of equal length, by size. Laws where there are enough sizes."""

    mixer: str
    parameters: np.ndarray
    flops: np.ndarray
    loss: np.ndarray
    by_parameters: PowerLaw | None
    by_flops: PowerLaw | None


def compare(
    directories: Iterable[RunDirectory],
    *,
    scaling: bool = False,
    filters: Iterable[Filter] = (),
    finished: bool = False,
) -> Comparison:
    """Load the runs, choose and order them.

    `scaling`: the runs are meant to differ in size, and in tokens with it. `filters` and `finished`: see `select`.
    A run that cannot be read is named on stderr and left out. Raises UserError if that is all of them.
    """
    runs = select(usable(directories, load_run), filters, finished)
    runs.sort(key=lambda run: (math.inf if run.validation_loss is None else run.validation_loss, run.name))
    return Comparison(tuple(runs), tuple(remarks_on(runs, scaling)))


def scaling_curves(comparison: Comparison) -> list[ScalingCurve]:
    """One curve per mixer, of the runs that finished. Raises UserError if there is none."""
    usable = [run for run in comparison.runs if run.validation_loss is not None and _is_final(run)]
    if not usable:
        raise UserError(
            "no finished run with a final validation loss among these; a scaling curve needs runs that have ended, on "
            "data with a validation split"
        )
    curves = []
    for mixer in sorted({run.mixer for run in usable}):
        group = sorted((r for r in usable if r.mixer == mixer), key=lambda r: r.summary.non_embedding_parameters)
        parameters = np.array([run.summary.non_embedding_parameters for run in group], dtype=np.float64)
        flops = np.array([run.flops for run in group], dtype=np.float64)
        loss = np.array([run.validation_loss for run in group], dtype=np.float64)
        laws = fit_power_law(parameters, loss), fit_power_law(flops, loss)
        curves.append(ScalingCurve(mixer, parameters, flops, loss, *laws))
    return curves


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
        table.add_row(*(escape(cell) for cell in table_row(run)), style=None if _is_final(run) else "dim")
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


def numbers(comparison: Comparison, curves: Sequence[ScalingCurve] = ()) -> dict[str, Any]:
    """Everything that the table and the fits show, for other programs to read."""
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
                "status": run.status,
            }
            for run in comparison.runs
        ],
        "remarks": list(comparison.remarks),
        "scaling": [
            {
                "mixer": curve.mixer,
                "non_embedding_parameters": curve.parameters.tolist(),
                "flops": curve.flops.tolist(),
                "validation_loss": curve.loss.tolist(),
                "by_parameters": vars(curve.by_parameters) if curve.by_parameters else None,
                "by_flops": vars(curve.by_flops) if curve.by_flops else None,
            }
            for curve in curves
        ],
    }


def describe_law(law: PowerLaw | None, sizes: int, symbol: str) -> str:
    """A fitted law in words, or why there is none. `symbol`: what the loss is a function of (N or C)."""
    if law is not None:
        exponent = f"-{law.exponent:.3g}".translate(_SUPERSCRIPT)
        return f"L = {law.irreducible:.3g} + {law.scale:.3g} {symbol}{exponent}"
    if sizes < MINIMUM_POINTS:
        return f"no fit: {sizes} of the {MINIMUM_POINTS} sizes it takes"
    return "no fit: these points follow no power law"
