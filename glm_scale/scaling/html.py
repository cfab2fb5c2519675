"""The figures of a comparison as one interactive HTML file that needs no network, with plotly; and such a page for
others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from glm_data.files import write_atomically
from glm_scale.scaling.comparison import Comparison, ScalingCurve, describe_law, render_table, table_row
from glm_scale.scaling.png import FLOPS, PARAMETERS, TOKENS
from glm_scale.scaling.style import styles

_POINTS = 1500

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1280px; margin: 2em auto; padding: 0 1em; }}
h1 {{ font-size: 1.4em; }} table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3em .9em .3em 0; text-align: right; border-bottom: 1px solid #e5e5e5; }}
th:nth-child(-n+{names}), td:nth-child(-n+{names}) {{ text-align: left; }}
th:last-child, td:last-child {{ text-align: {last}; }}
.remarks {{ color: #8a4b00; }}
</style></head><body><h1>{title}</h1>{remarks}{content}</body></html>
"""


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Loss of every run against tokens and FLOPs; a click in the legend hides a run in both."""
    figure = _side_by_side(TOKENS, FLOPS, "loss (nats per token)")
    look = styles(run.mixer for run in comparison.runs)
    for run in comparison.runs:
        style, train = look[run.mixer], run.train.smoothed().thinned(_POINTS)
        for column, attribute in ((1, "tokens"), (2, "flops")):
            shared = {"legendgroup": run.name, "hovertemplate": "%{x:.4s}: %{y:.4f}"}
            label = comparison.label(run)
            figure.add_trace(
                go.Scatter(
                    x=getattr(run.validation, attribute),
                    y=run.validation.loss,
                    name=label,
                    mode="lines+markers",
                    line={"color": style.colour, "dash": style.plotly_line, "width": 2.5},
                    marker={"symbol": style.plotly_marker, "size": 8},
                    showlegend=column == 1,
                    **shared,
                ),
                row=1,
                col=column,
            )
            figure.add_trace(
                go.Scatter(
                    x=getattr(train, attribute),
                    y=train.loss,
                    name=f"{label}, training",
                    mode="lines",
                    line={"color": style.colour, "width": 1},
                    opacity=0.5,
                    showlegend=False,
                    **shared,
                ),
                row=1,
                col=column,
            )
    _write("Comparison of runs", comparison, figure, path)


def write_scaling(comparison: Comparison, curves: Sequence[ScalingCurve], path: Path) -> None:
    """Final validation loss of every mixer against parameters and FLOPs, with its power law."""
    figure = _side_by_side(PARAMETERS, FLOPS, "final validation loss (nats per token)")
    look = styles(curve.mixer for curve in curves)
    for curve in curves:
        style = look[curve.mixer]
        for column, x, law, symbol in (
            (1, curve.parameters, curve.by_parameters, "N"),
            (2, curve.flops, curve.by_flops, "C"),
        ):
            order = np.argsort(x)
            words = describe_law(law, len(np.unique(x)), symbol)
            figure.add_trace(
                go.Scatter(
                    x=x[order],
                    y=curve.loss[order],
                    name=curve.mixer,
                    legendgroup=curve.mixer,
                    showlegend=column == 1,
                    mode="lines+markers" if law is None else "markers",
                    line={"color": style.colour, "dash": "dot", "width": 1},
                    marker={"symbol": style.plotly_marker, "size": 9, "color": style.colour},
                    hovertemplate=f"%{{x:.4s}}: %{{y:.4f}}<br>{words}",
                ),
                row=1,
                col=column,
            )
            if law is not None:
                fine = np.geomspace(x.min(), x.max(), 200)
                figure.add_trace(
                    go.Scatter(
                        x=fine,
                        y=law(fine),
                        name=words,
                        legendgroup=curve.mixer,
                        mode="lines",
                        line={"color": style.colour, "dash": style.plotly_line, "width": 2},
                        hoverinfo="name",
                    ),
                    row=1,
                    col=column,
                )
    _write("Scaling of the final validation loss", comparison, figure, path)


def _side_by_side(left: str, right: str, height: str) -> go.Figure:
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.05)
    figure.update_layout(template="plotly_white", height=560, margin={"t": 30}, legend={"orientation": "h", "y": -0.16})
    figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(type="log", tickformat=".3~g")
    figure.update_xaxes(title_text=left, row=1, col=1)
    figure.update_xaxes(title_text=right, row=1, col=2)
    figure.update_yaxes(title_text=height, row=1, col=1)
    return figure


def _write(title: str, comparison: Comparison, figure: go.Figure, path: Path) -> None:
    headings = [str(column.header) for column in render_table(comparison).columns]
    table = html_table(headings, map(table_row, comparison.runs))
    write_page(path, title, comparison.remarks, [table, html_figure(figure)], names=2, last="left")


def html_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Texts as a table."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def html_figure(figure: go.Figure) -> str:
    """A figure with all that it needs to be looked at; one to a page."""
    return str(figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False}))


def write_page(
    path: Path,
    title: str,
    remarks: Iterable[str],
    content: Iterable[str],
    *,
    names: int = 1,
    last: Literal["left", "right"] = "right",
) -> None:
    """A page of pieces of HTML below a title and remarks, which are texts.

    names: columns of its tables that begin at the left, as the `last` one may. Raises OSError.
    """
    listed = "".join(f"<li>{escape(remark)}</li>" for remark in remarks)
    page = _PAGE.format(
        title=escape(title),
        remarks=f'<ul class="remarks">{listed}</ul>' if listed else "",
        content="".join(content),
        names=names,
        last=last,
    )
    write_atomically(path, page)
