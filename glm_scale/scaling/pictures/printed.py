"""A sheet as PNG, SVG or PDF, with matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from glm_scale.scaling.figures import INK, clear_axes, save
from glm_scale.scaling.pictures.shapes import Axis, Canvas, Label, Line, Panel, Points, Role, Sheet

__all__ = ["CANVAS", "print_sheet"]

CANVAS = Canvas(width=390.0, height=270.0, font=9.5)
"""In points, for each panel."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _STRIP, _GAP = 64.0, 22.0, 58.0, 40.0, 62.0, 12.0
_NOTE = 8.0
# (width, opacity, whether the mixer's dashes are drawn, else these)
_LINES: Mapping[Role, tuple[float, float, Any]] = MappingProxyType(
    {
        "training": (0.9, 1.0, "-"),
        "validation": (1.6, 1.0, None),
        "law": (1.7, 1.0, None),
        "joined": (1.0, 0.75, (0, (1.5, 2))),
        "frontier": (1.1, 0.7, "-"),
        "zero": (0.8, 1.0, "-"),
    }
)


def print_sheet(sheet: Sheet, path: Path) -> None:
    """Write the sheet in the format that the name of the file asks for. Raises OSError."""
    canvas, count = sheet.canvas, len(sheet.panels)
    strip = _STRIP + _GAP if any(panel.residuals for panel in sheet.panels) else 0.0
    width = count * (_LEFT + canvas.width + _RIGHT)
    notes = [line for note in sheet.notes for line in textwrap.wrap(note, int(width / (_NOTE * 0.52)))]
    below = _BOTTOM + strip + (1.35 * _NOTE * len(notes) + 6 if notes else 0)
    height = _TOP + canvas.height + below
    # A figure of its own, not pyplot's: no global state, no display needed.
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasAgg(figure)
    figure.text(
        8 / width, 1 - 10 / height, sheet.title, va="top", fontsize=13, fontweight="bold", color=INK, parse_math=False
    )
    for number, panel in enumerate(sheet.panels):
        left = number * (_LEFT + canvas.width + _RIGHT) + _LEFT
        axes = figure.add_axes((left / width, below / height, canvas.width / width, canvas.height / height))
        _draw(axes, panel, canvas)
        note = "\n".join(textwrap.wrap(panel.note, int(canvas.width / (_NOTE * 0.5))))
        axes.set_title(note, fontsize=_NOTE, color="#666666", loc="left", pad=5, parse_math=False)
        bottom = axes
        if panel.residuals is not None:
            axes.tick_params(axis="x", labelbottom=False)
            low = below - _GAP - _STRIP
            bottom = figure.add_axes((left / width, low / height, canvas.width / width, _STRIP / height))
            _draw(bottom, panel.residuals, canvas)
        bottom.set_xlabel(panel.x.title, fontsize=canvas.font, color=INK)
    if notes:
        figure.text(
            8 / width, 6 / height, "\n".join(notes), va="bottom", fontsize=_NOTE, color="#666666", parse_math=False
        )
    save(figure, path)


def _draw(axes: Axes, panel: Panel, canvas: Canvas) -> None:
    for band in panel.bands:
        axes.fill_between(band.x, band.low, band.high, color=band.style.colour, alpha=0.18, linewidth=0)
    for line in panel.lines:
        _draw_line(axes, line, panel.training_opacity)
    for points in panel.points:
        _draw_points(axes, points)
    for label in panel.labels:
        _draw_label(axes, label, canvas)
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)
    axes.set_ylabel(panel.y.title, fontsize=canvas.font, color=INK)
    axes.yaxis.set_label_coords(-0.76 * _LEFT / canvas.width, 0.5)
    clear_axes(axes)


def _draw_line(axes: Axes, line: Line, training_opacity: float) -> None:
    width, opacity, dashes = _LINES[line.role]
    opacity = training_opacity if line.role == "training" else opacity
    colour = line.style.colour if line.style else "#999999" if line.role == "zero" else INK
    shape = dashes if dashes is not None or line.style is None else line.style.line
    alone = "." if len(line.x) == 1 else ""
    axes.plot(line.x, line.y, color=colour, linewidth=width, alpha=opacity, linestyle=shape, marker=alone, zorder=2)


def _draw_points(axes: Axes, points: Points) -> None:
    colours = [to_rgba(points.style.colour, 0.32 if faint else 1.0) for faint in points.faint]
    axes.scatter(
        points.x, points.y, s=points.sizes**2, marker=points.style.marker, c=colours,
        edgecolors="white", linewidths=0.7, zorder=4,
    )  # fmt: skip


def _draw_label(axes: Axes, label: Label, canvas: Canvas) -> None:
    axes.annotate(
        label.text,
        xy=(label.x, label.y),
        xytext=label.offset,
        textcoords="offset points",
        va="center",
        fontsize=canvas.font,
        color=label.style.colour,
        fontweight="bold",
        annotation_clip=False,
        parse_math=False,
        zorder=5,
        arrowprops={
            "arrowstyle": "-", "color": label.style.colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4,
            "relpos": (0.0 if label.offset[0] > 0 else 0.5, 0.5),
        } if label.leader else None,
    )  # fmt: skip


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    own = axes.xaxis if which == "x" else axes.yaxis
    if axis.log:
        axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axes.set_xlim(axis.low, axis.high) if which == "x" else axes.set_ylim(axis.low, axis.high)
    own.set_ticks([value for value, _ in axis.ticks], labels=[text for _, text in axis.ticks])
    own.set_ticks([], minor=True)
