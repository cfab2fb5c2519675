"""A comparison as files: table and figures as HTML, the figures as PNG, the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glm_data.files import write_atomically
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.scaling import html, png
from glm_scale.scaling.breakdown import breakdown_numbers
from glm_scale.scaling.comparison import Comparison, ScalingCurve, compare, numbers, scaling_curves
from glm_scale.scaling.selection import Filter


@dataclass(frozen=True)
class Report:
    """A comparison and the files that show it; `curves` only of a report on scaling."""

    name: str
    comparison: Comparison
    curves: tuple[ScalingCurve, ...]
    files: tuple[Path, ...]


def write_report(
    directories: Iterable[RunDirectory],
    output: Path,
    *,
    scaling: bool = False,
    filters: Iterable[Filter] = (),
    finished: bool = False,
) -> Report:
    """Compare the runs and write comparison.{html,png,json} into `output`, or scaling.{html,png,json}.

    `filters` and `finished` choose among the runs, see `select`. Raises UserError for damaged runs, if no run is left,
    for a scaling report without finished runs, and if `output` is not writable.
    """
    comparison = compare(directories, scaling=scaling, filters=filters, finished=finished)
    curves = tuple(scaling_curves(comparison)) if scaling else ()
    kind = "scaling" if scaling else "comparison"
    page, picture, data = (output / f"{kind}.{suffix}" for suffix in ("html", "png", "json"))
    try:
        output.mkdir(parents=True, exist_ok=True)
        if scaling:
            html.write_scaling(comparison, curves, page)
            png.draw_scaling(curves, comparison.remarks, picture)
        else:
            html.write_comparison(comparison, page)
            png.draw_comparison(comparison, picture)
        content = numbers(comparison, curves) | {"breakdown": breakdown_numbers(comparison)}
        write_atomically(data, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {output}: {error.strerror}; choose another folder with --output") from error
    folder = output.resolve().parent.name if output.name in ("comparison", "") else output.resolve().name
    return Report(f"{kind}: {folder}", comparison, curves, (page, picture, data))
