"""The figure of a folder of results, as PNG and as one HTML page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
from matplotlib.axes import Axes
from plotly.subplots import make_subplots

from glm_scale.scaling.figures import clear_axes, new_figure, save
from glm_scale.scaling.html import html_figure, html_table, write_page
from glm_scale.scaling.style import Style, style_of
from glm_scale.tasks.report import Table, remarks_on, tables_of
from glm_scale.tasks.results import Result, mixers_in, tasks_in
from glm_scale.tasks.setting import TIMES

__all__ = ["draw_tasks", "write_tasks_page"]

TITLE = "Synthetic tasks"
_PANELS = ((1, "at the length of training"), (TIMES[-1], f"at {TIMES[-1]}× the length"))
_HEIGHT = "percent right, at the best rate"
_SPREAD_OVER = 0.6
"""Of the room that a task has, by the structures side by side."""


class _Points(NamedTuple):
    """A structure's accuracies in percent, one for each task that it has, side by side with those of the others."""

    mixer: str
    style: Style
    places: list[float]
    tasks: list[str]
    means: list[float]
    spreads: list[float]


def draw_tasks(results: list[Result], path: Path) -> None:
    """Accuracies by task, one colour for each family of structures, as a picture. Raises OSError."""
    figure = new_figure(TITLE, "\n".join(remarks_on(results)))
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for panel, (times, title) in zip(axes, _PANELS, strict=True):
        for points in _points(results, times):
            panel.errorbar(
                points.places,
                points.means,
                yerr=points.spreads,
                linestyle="none",
                marker=points.style.marker,
                color=points.style.colour,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
                elinewidth=1.2,
                label=points.mixer,
            )
        _finish(panel, title, tasks_in(results))
    axes[0].set_ylabel(_HEIGHT)
    axes[-1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    save(figure, path)


def write_tasks_page(results: list[Result], path: Path) -> None:
    """The same, interactive, with all tables. Raises OSError."""
    figure = make_subplots(rows=1, cols=len(_PANELS), shared_yaxes=True, subplot_titles=[name for _, name in _PANELS])
    figure.update_layout(template="plotly_white", height=520, margin={"t": 40}, legend={"orientation": "h", "y": -0.2})
    tasks = tasks_in(results)
    ticks = {"tickmode": "array", "tickvals": list(range(len(tasks))), "ticktext": [escape(task) for task in tasks]}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(range=[-2, 102])
    figure.update_yaxes(title_text=_HEIGHT, row=1, col=1)
    for column, (times, _) in enumerate(_PANELS, 1):
        for points in _points(results, times):
            figure.add_trace(_trace(points, column == 1), row=1, col=column)
    write_page(path, TITLE, remarks_on(results), [html_figure(figure), *map(_as_html, tables_of(results))])


def _trace(points: _Points, first: bool) -> go.Scatter:
    return go.Scatter(
        x=points.places,
        y=points.means,
        error_y={"type": "data", "array": points.spreads, "thickness": 1.2, "width": 2},
        name=points.mixer,
        legendgroup=points.mixer,
        showlegend=first,
        mode="markers",
        marker={"symbol": points.style.plotly_marker, "size": 9, "color": points.style.colour},
        text=points.tasks,
        hovertemplate="%{text}: %{y:.1f} %",
    )


def _points(results: list[Result], times: int) -> Iterator[_Points]:
    tasks = tasks_in(results)
    mixers = mixers_in(results)
    for number, mixer in enumerate(mixers):
        own = [result for result in results if result.mixer == mixer]
        scores = [result.best(times) for result in own]
        aside = _SPREAD_OVER * ((number + 0.5) / len(mixers) - 0.5)
        yield _Points(
            mixer,
            style_of(mixer),
            [tasks.index(result.task) + aside for result in own],
            [result.task for result in own],
            [100 * score.mean for score in scores],
            [100 * (score.spread or 0.0) for score in scores],
        )


def _finish(axes: Axes, title: str, tasks: list[str]) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(tasks)), tasks, rotation=25, ha="right")
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_ylim(-2, 102)
    clear_axes(axes)
    axes.tick_params(axis="y", labelleft=True)


def _as_html(table: Table) -> str:
    rows = [
        [f"* {cell}" if (row, column) in table.marked else cell for column, cell in enumerate(cells)]
        for row, cells in enumerate(table.rows)
    ]
    return f"<h2>{escape(table.title)}</h2><p>{escape(table.note)}</p>{html_table(table.headings, rows)}"
