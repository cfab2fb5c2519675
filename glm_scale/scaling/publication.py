"""What of a report goes into its MLflow run: numbers as metrics, tables, raw points, and how to read it all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from glm_scale.naming import slug
from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.answer import Answer
from glm_scale.scaling.comparison import numbers
from glm_scale.scaling.endpoints import Endpoint
from glm_scale.scaling.gaps import gaps
from glm_scale.scaling.laws import Bootstrap, HeldOut, Interval, Law, Multiplier, Refusal
from glm_scale.scaling.report import Report
from glm_scale.scaling.style import style_of
from glm_scale.tracking.place import Place
from glm_scale.tracking.state import TrackingState
from glm_scale.tracking.where import configured_tracking

__all__ = ["LAW_TAG", "Publication", "Published", "publication_of"]

LAW_TAG = "law"
_LAW = "L = E + A/N^α + B/D^β"
_COMMON = ("irreducible", "parameters_exponent", "tokens_exponent")
_OWN = ("parameters_scale", "tokens_scale")
_UNITS = MappingProxyType(
    {"FLOPs": "flops", "seconds of training": "seconds", "cache": "cache", "FLOPs per decoded token": "decode_flops"}
)
"""Of multipliers, as `--x` calls them."""


class Publication(BaseModel):
    """What goes into the MLflow run of a report, and to where.

    `parent`: the name of the run that the report goes into; None for a run of its own, which is found again by `place`,
    its folder, and stands under the run called `under` if there is one. `texts`: artifacts, by path; `tables`: those
    among them that MLflow lists as tables. `colours`: of the compared runs, by id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str
    experiment: str
    name: str
    kind: str
    place: str
    parent: str | None
    under: str | None
    metrics: dict[str, float]
    tags: dict[str, str]
    texts: dict[str, str]
    tables: list[str]
    files: list[Path]
    colours: dict[str, str]
    said: list[str]

    @property
    def page(self) -> str:
        """The artifact that shows the figures."""
        return self.files[0].name


class Published(BaseModel):
    """Where a report is in MLflow: its run, the artifact that shows its figures, and the key of the view of charts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment_id: str
    run_id: str
    page: str
    view: str


def publication_of(report: Report, uri: str, experiment: str, parent: str | None) -> Publication:
    """Everything that MLflow is told of a report; `parent`: see `publish`."""
    runs = [run.directory for run in report.comparison.runs]
    texts = dict(_tables(report))
    return Publication(
        uri=uri,
        experiment=experiment,
        name=report.name,
        kind=report.name.partition(":")[0],
        place=Place.of(RunDirectory(report.files[0].parent)).tag,
        parent=parent,
        under=_common_parent(runs) if parent is None else None,
        metrics=dict(law_metrics(report.answer)) if report.answer else {},
        tags=dict(_tags(report)),
        texts=texts | {"points.csv": _points(report.points)},
        tables=list(texts),
        files=[path.resolve() for path in report.files],
        colours=dict(_colours(report, uri)),
        said=_said(report),
    )


def law_metrics(answer: Answer) -> Iterator[tuple[str, float]]:
    """The numbers of the law and what follows from it, with the ends of their intervals; nothing where there is none.

    `law/…` is common to all mixers, `law/MIXER/…` a mixer's own; `multiplier/MIXER/…` is what it takes for the loss
    that the reference reaches, as a multiple of what that one takes.
    """
    if not isinstance(answer.law, Bootstrap):
        return
    mixers = answer.law.fit.table.mixers
    for name in _COMMON:
        yield from _with_ends(f"law/{name}", _constant(answer.law, mixers[0], name))
    if answer.lack_of_fit is not None:
        yield "law/residual_spread", answer.lack_of_fit.residual_spread
    if isinstance(answer.held_out, HeldOut):
        yield "law/held_out_error", max(map(abs, answer.held_out.errors))
    for mixer in mixers:
        for name in _OWN:
            yield from _with_ends(f"law/{slug(mixer)}/{name}", _constant(answer.law, mixer, name))
    for found in answer.multipliers:
        if isinstance(found, Multiplier):
            yield from _with_ends(f"multiplier/{slug(found.mixer)}/{_UNITS[found.unit]}", found.ratio)


def _constant(law: Bootstrap, mixer: str, name: str) -> Interval:
    """A number of a mixer's law; the ends are not numbers where there is no interval."""

    def of(laws: Mapping[str, Law]) -> float:
        return float(getattr(laws[mixer], name))

    found = law.interval(of)
    return Interval(of(law.fit.laws), math.nan, math.nan) if isinstance(found, Refusal) else found


def _with_ends(name: str, interval: Interval) -> Iterator[tuple[str, float]]:
    for end, value in (("", interval.value), ("/low", interval.low), ("/high", interval.high)):
        if math.isfinite(value):
            yield f"{name}{end}", value


def _tags(report: Report) -> Iterator[tuple[str, str]]:
    yield "runs", ", ".join(run.name for run in report.comparison.runs)
    if report.answer is None:
        yield LAW_TAG, "none: the runs are compared as they are"
        return
    yield "reference", report.answer.reference
    law = report.answer.law
    yield LAW_TAG, f"refused: {law.reason}" if isinstance(law, Refusal) else _LAW


def _tables(report: Report) -> Iterator[tuple[str, str]]:
    if (found := gaps(report.points, report.answer)) is not None:
        yield "mixers.json", _table(found.headings, found.rows)
    runs = numbers(report.comparison)["runs"]
    columns = [name for name in runs[0] if name != "directory"]
    yield "runs.json", _table(columns, [[run[name] for name in columns] for run in runs])


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As MLflow's `log_table` writes one; that would append to what is there."""
    return json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}, ensure_ascii=False)


def _points(points: Iterable[Endpoint]) -> str:
    """One line for each finished run, from which figures and fits can be made again."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Endpoint)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return text.getvalue()


def _colours(report: Report, uri: str) -> Iterator[tuple[str, str]]:
    """Of the runs that are in this store."""
    for run in report.comparison.runs:
        state = TrackingState.read_own(run.directory)
        if state is not None and state.run_id is not None and state.uri == uri:
            yield state.run_id, style_of(run.mixer).colour


def _said(report: Report) -> list[str]:
    found = [*(report.answer.sentences if report.answer else ()), report.verdict]
    return [*filter(None, found), *(f"note: {remark}" for remark in report.comparison.remarks)]


def _common_parent(runs: Sequence[RunDirectory]) -> str | None:
    """The name of the MLflow run that all of these stand under."""
    parents = {configured_tracking(run).parent for run in runs}
    return parents.pop() if len(parents) == 1 else None
