"""Tasks as a page: recall against context length and against the bytes of the cache, others against training tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from glm_scale.scaling.html import html_figure, html_table, write_page
from glm_scale.scaling.style import style_of
from glm_scale.scaling.task_tables import Measured, compared_cells
from glm_scale.tracking.task_results import TaskResult

__all__ = ["task_figure", "write_tasks"]

_ACCURACY = "acc"
_PANEL_HEIGHT = 360

Panel = tuple[str, str, str, list[tuple[Measured, list[tuple[float, float, float]]]]]
"""A title, what is across, what is up, and of each model its points: across, up and the standard error."""


def task_figure(found: Sequence[Measured]) -> go.Figure | None:
    """Two panels for each recall task, and one for every metric that was measured at several steps; None if there is
    nothing to draw."""
    panels = [*_recall_panels(found), *_history_panels(found)]
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    figure = make_subplots(
        rows=rows, cols=2, subplot_titles=[escape(title) for title, *_ in panels], vertical_spacing=0.35 / (rows + 1)
    )
    figure.update_layout(
        template="plotly_white",
        height=80 + _PANEL_HEIGHT * rows,
        margin={"t": 50},
        legend={"orientation": "h", "y": -0.08},
    )
    named: set[str] = set()
    for number, (_, across, up, lines) in enumerate(panels):
        place = {"row": number // 2 + 1, "col": number % 2 + 1}
        for one, points in lines:
            figure.add_trace(_trace(one, points, one.label not in named), **place)
            named.add(one.label)
        figure.update_xaxes(title_text=across, type="log", **place)
        figure.update_yaxes(title_text=up, **({"range": [-0.03, 1.03]} if up == "accuracy" else {}), **place)
    return figure


def write_tasks(found: Sequence[Measured], path: Path, title: str) -> bool:
    """The figure, and a table of all tasks, as a page; whether there is anything to draw. Raises OSError."""
    figure = task_figure(found)
    if figure is None:
        return False
    headings, rows = compared_cells(found)
    write_page(path, title, (), [html_figure(figure), html_table(headings, rows)])
    return True


def _recall_panels(found: Sequence[Measured]) -> list[Panel]:
    panels: list[Panel] = []
    for family in dict.fromkeys(
        _family(name) for one in found for name, result in one.results.tasks.items() if result.context_length
    ):
        for across, place in (("context length in tokens", _length), ("bytes of the cache", _cache)):
            lines = [(one, points) for one in found if (points := _recall(one, family, place))]
            panels.append((f"{family} against {across}", across, "accuracy", lines))
    return panels


def _recall(one: Measured, family: str, place: Callable[[TaskResult], int | None]) -> list[tuple[float, float, float]]:
    return sorted(
        (float(x), result.metrics[_ACCURACY], result.errors.get(_ACCURACY, 0.0))
        for name, result in one.results.tasks.items()
        if _family(name) == family and result.context_length and _ACCURACY in result.metrics and (x := place(result))
    )


def _length(result: TaskResult) -> int | None:
    return result.context_length


def _cache(result: TaskResult) -> int | None:
    return result.cache_bytes


def _family(name: str) -> str:
    """The recall task that a name is of some length of."""
    return re.sub(r"_\d+$", "", name)


def _history_panels(found: Sequence[Measured]) -> list[Panel]:
    names = dict.fromkeys(name for one in found for name, points in one.history.items() if len(points) > 1)
    panels: list[Panel] = []
    for name in names:
        if name.endswith("_stderr"):
            continue
        lines = []
        for one in found:
            errors = dict(one.history.get(f"{name}_stderr", ()))
            # What was measured twice at a step counts as it was measured last.
            points = [(float(x), y, errors.get(x, 0.0)) for x, y in sorted(dict(one.history.get(name, ())).items())]
            if points:
                lines.append((one, points))
        panels.append((name, "training tokens", name.rpartition("/")[2], lines))
    return panels


def _trace(one: Measured, points: list[tuple[float, float, float]], first: bool) -> go.Scatter:
    style = style_of(one.mixer)
    x, y, errors = (list(values) for values in zip(*points, strict=True))
    return go.Scatter(
        x=x,
        y=y,
        error_y={"type": "data", "array": errors, "thickness": 1, "width": 2},
        name=escape(one.label),
        legendgroup=one.label,
        showlegend=first,
        mode="lines+markers",
        line={"color": style.colour, "dash": style.plotly_line},
        marker={"symbol": style.plotly_marker, "size": 8},
    )
