"""A comparison as files: figures and tables as an HTML page, the figures as PNG, SVG or PDF, the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from glm_data.files import write_atomically
from glm_scale.errors import UserError
from glm_scale.run_directory import RunDirectory
from glm_scale.scaling.answer import Answer, answer, reference_of
from glm_scale.scaling.breakdown import breakdown_numbers
from glm_scale.scaling.comparison import Comparison, compare, numbers, render_table, table_row
from glm_scale.scaling.endpoints import Endpoint, endpoints_of
from glm_scale.scaling.gaps import gaps
from glm_scale.scaling.html import html_list, html_table, write_page
from glm_scale.scaling.laws import Bootstrap
from glm_scale.scaling.pictures.interactive import switched
from glm_scale.scaling.pictures.panels import Subject
from glm_scale.scaling.pictures.quantities import LOSSES, Across, Loss
from glm_scale.scaling.pictures.sheets import FORMATS, USUAL, draw, reason_of, title_of
from glm_scale.scaling.pictures.tasks import write_tasks
from glm_scale.scaling.selection import Filter
from glm_scale.scaling.task_tables import Measured, measured_tasks, task_numbers
from glm_scale.scaling.verdict import verdict

__all__ = ["Asked", "Report", "default_folder", "write_report"]


@dataclass(frozen=True)
class Asked:
    """What figures show across, a panel for each, and up; and files besides those of every report, whose names end in
    their formats. Raises UserError for other formats."""

    files: tuple[Path, ...] = ()
    across: tuple[Across, ...] = USUAL
    loss: Loss = LOSSES[0]

    def __post_init__(self) -> None:
        for path in self.files:
            if path.suffix not in (*FORMATS, ".html"):
                raise UserError(f"--figure {path}: the name has to end in one of {', '.join(FORMATS)}, .html")


@dataclass(frozen=True)
class Report:
    """A comparison and the files that show it; `answer` only of a report on scaling."""

    name: str
    comparison: Comparison
    answer: Answer | None
    files: tuple[Path, ...]
    tasks: Sequence[Measured] = ()

    @property
    def points(self) -> Sequence[Endpoint]:
        """The finished runs that count."""
        return points_of(self.comparison, self.answer)

    @property
    def verdict(self) -> str:
        """What the comparison comes to, where there is no law that says it; empty if there is, or nothing to say."""
        lawful = self.answer is not None and isinstance(self.answer.law, Bootstrap)
        return "" if lawful else verdict(self.comparison.runs)


def default_folder(source: str | None = None) -> str:
    """What the folder of a report beside its runs is called."""
    return "comparison" if source is None else f"comparison-{source}"


def points_of(comparison: Comparison, answer: Answer | None) -> Sequence[Endpoint]:
    """The finished runs: those of the answer, if there is one."""
    return answer.runs if answer else endpoints_of(comparison.runs)


def write_report(
    directories: Iterable[RunDirectory],
    output: Path,
    *,
    scaling: bool = False,
    reference: str | None = None,
    filters: Iterable[Filter] = (),
    finished: bool = False,
    asked: Asked | None = None,
    source: str | None = None,
) -> Report:
    """Compare the runs and write comparison.{html,png,json} into `output`, or scaling.{html,png,json}, the figures
    that are asked for besides, and tasks.html if tasks were measured that can be drawn.

    `filters` and `finished` choose among the runs, `source` among what they were validated on, see `compare`.
    `reference`: the mixer that a report on scaling compares the others with. Raises UserError for damaged runs, if no
    run is left, for a scaling report without finished runs, and if a file is not writable.
    """
    comparison = compare(directories, scaling=scaling, filters=filters, finished=finished, source=source)
    subject = Subject(comparison, _answer(comparison, reference) if scaling else None)
    kind, asked = "scaling" if scaling else "comparison", asked or Asked()
    page, picture, data = (output / f"{kind}.{suffix}" for suffix in ("html", "png", "json"))
    tasks, task_page = measured_tasks(comparison), output / "tasks.html"
    path = output
    try:
        output.mkdir(parents=True, exist_ok=True)
        _write(subject, page, asked)
        _write(subject, picture, asked)
        scaled = {"scaling": subject.answer.values()} if subject.answer else {}
        content = numbers(comparison) | {"breakdown": breakdown_numbers(comparison)} | scaled
        content |= {"tasks": task_numbers(tasks)}
        write_atomically(data, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        drawn = [task_page] if write_tasks(tasks, task_page, f"Tasks: {title_of(subject)}") else []
        for path in asked.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(subject, path, asked)
    except OSError as error:
        way_out = "choose another folder with --output" if path is output else "choose another name with --figure"
        raise UserError(f"cannot write to {path}: {error.strerror}; {way_out}") from error
    beside = output.name in (default_folder(source), "")
    folder = output.resolve().parent.name if beside else output.resolve().name
    of = f" ({source})" if source else ""
    return Report(
        f"{kind}: {folder}{of}", comparison, subject.answer, (page, picture, data, *drawn, *asked.files), tasks
    )


def _answer(comparison: Comparison, reference: str | None) -> Answer:
    ends = endpoints_of(comparison.runs)
    if not ends:
        raise UserError(
            "no finished run with a final validation loss among these; a scaling curve needs runs that have ended, on "
            "data with a validation split"
        )
    return answer(ends, reference_of((end.mixer for end in ends), reference))


def _write(subject: Subject, path: Path, asked: Asked) -> None:
    if path.suffix != ".html":
        draw(subject, path, asked.across, asked.loss)
        return
    title, comparison = title_of(subject), subject.comparison
    content = [
        switched(subject, asked.across[0], asked.loss),
        html_list([reason] if (reason := reason_of(subject)) else []),
    ]
    if subject.answer and not reason_of(subject):
        content.append(html_list(subject.answer.sentences, "said"))
    content.append(html_list(comparison.remarks))
    content += [*_mixers(subject), "<h2>Runs</h2>", _runs(comparison)]
    write_page(path, title, (), content)


def _mixers(subject: Subject) -> Sequence[str]:
    if (found := gaps(points_of(subject.comparison, subject.answer), subject.answer)) is None:
        return ()
    return (
        "<h2>Mixers</h2>",
        html_table(found.headings, found.rows, best=0),
        f'<p class="note">{escape(found.note)}</p>',
    )


def _runs(comparison: Comparison) -> str:
    headings = [str(column.header) for column in render_table(comparison).columns]
    best = comparison.runs.index(comparison.best) if comparison.best else None
    return html_table(headings, map(table_row, comparison.runs), words=(0, 1, len(headings) - 1), best=best)
