"""What every figure has in common: the sheet, the axes, names at the ends of curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from glm_scale.scaling.placement import spread

INK, FAINT = "#222222", "#D9D9D9"
_LABEL_SPACING = 0.05  # of the height of the axes


def new_figure(title: str, small_print: str = "") -> Figure:
    """An empty sheet for two panels side by side, with a title above and small print below them."""
    # A figure of its own, not pyplot's: no global state, no display needed.
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK, fontweight="bold")
    if small_print:
        figure.supxlabel(small_print, x=0.01, ha="left", fontsize=8, color="#666666")
    return figure


def clear_axes(axes: Axes) -> None:
    """A faint grid behind the curves, no frame above and on the right."""
    axes.grid(True, which="major", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=INK, which="both", labelsize=9)


def label_ends(axes: Axes, ends: list[tuple[float, str, str]], most: int = 12) -> None:
    """Names at the right edge, each at the height of its curve's end, pushed apart until none covers another.

    ends: where each curve ends, its name and its colour. More than `most` become a legend.
    """
    if len(ends) > most:
        _legend(axes, ends)
        return
    ends = sorted(ends)
    low, high = np.log(axes.get_ylim()) if ends else (0.0, 1.0)
    heights = [min(max(float((np.log(loss) - low) / (high - low)), 0.0), 1.0) for loss, _, _ in ends]
    for height, place, (_, text, colour) in zip(heights, spread(heights, _LABEL_SPACING, 0.0, 1.0), ends, strict=True):
        axes.annotate(
            text,
            xy=(1.0, height),
            xytext=(1.04, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=colour,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0.0, 0.5),
            },
        )


def _legend(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    axes.legend(
        handles=[Line2D([], [], color=colour, linewidth=2) for _, _, colour in ends],
        labels=[text for _, text, _ in ends],
        frameon=False,
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
    )


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format that the name of the file asks for: the same figure, the same bytes."""
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
    # Fonts as outlines of their own in PDF: journals refuse those of type 3.
    with rc_context({"svg.hashsalt": "glm-scale", "pdf.fonttype": 42}):
        figure.savefig(path, dpi=150, facecolor="white", metadata=undated)
