"""The figures of a comparison as PNG, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from glm_scale.scaling.comparison import Comparison, ScalingCurve, describe_law, quantity
from glm_scale.scaling.curves import Curve
from glm_scale.scaling.style import styles

_INK, _FAINT = "#222222", "#D9D9D9"
_MOST_DIRECT_LABELS = 12
# The first hundredth of training falls from ln(vocabulary), the same for all, and would flatten the rest.
_SHOWN_FROM = 0.01
TOKENS, FLOPS, PARAMETERS = "training tokens", "training FLOPs", "parameters outside the embeddings"


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Validation loss (points) and smoothed training loss (thin) of every run against tokens and FLOPs."""
    figure = _new_figure("Loss against what it took", comparison.remarks)
    by_tokens, by_flops = figure.subplots(1, 2, sharey=True)
    look = styles(run.mixer for run in comparison.runs)
    ends: list[tuple[float, str, str]] = []
    for run in comparison.runs:
        style, train = look[run.mixer], run.train.smoothed().thinned(1500)
        for axes, quantity_name in ((by_tokens, "tokens"), (by_flops, "flops")):
            axes.plot(getattr(train, quantity_name), train.loss, color=style.colour, alpha=0.45, linewidth=1.0)
            axes.plot(
                getattr(run.validation, quantity_name),
                run.validation.loss,
                color=style.colour,
                linestyle=style.line,
                linewidth=1.8,
                marker=style.marker,
                markersize=5,
                markeredgecolor="white",
                markeredgewidth=0.6,
            )
        curve = run.validation if len(run.validation) else train
        if len(curve):
            state = "" if run.status == "finished" else f" ({run.status})"
            ends.append((float(curve.loss[-1]), f"{comparison.label(run)}{state}", style.colour))
    for axes, name, attribute in ((by_tokens, TOKENS, "tokens"), (by_flops, FLOPS, "flops")):
        _set_window(axes, [c for run in comparison.runs for c in (run.train, run.validation)], attribute)
        _finish(axes, name)
    by_tokens.set_ylabel("loss (nats per token)")
    _label_ends(by_flops, ends)
    by_tokens.legend(
        handles=[
            Line2D([], [], color=_INK, linewidth=1.8, marker="o", markersize=5, markeredgecolor="white"),
            Line2D([], [], color=_INK, linewidth=1.0, alpha=0.45),
        ],
        labels=["validation", "training, smoothed"],
        frameon=False,
        loc="lower left",
        fontsize=9,
    )
    _save(figure, path)


def draw_scaling(curves: Sequence[ScalingCurve], remarks: Sequence[str], path: Path) -> None:
    """Final validation loss of every mixer against parameters and training FLOPs, with its power law."""
    figure = _new_figure("Scaling of the final validation loss", remarks)
    by_parameters, by_flops = figure.subplots(1, 2, sharey=True)
    look = styles(curve.mixer for curve in curves)
    for axes, name, symbol in ((by_parameters, PARAMETERS, "N"), (by_flops, FLOPS, "C")):
        for curve in curves:
            x, law = (curve.parameters, curve.by_parameters) if symbol == "N" else (curve.flops, curve.by_flops)
            style = look[curve.mixer]
            order = np.argsort(x)
            points = {"color": style.colour, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8}
            if law is None:
                axes.plot(x[order], curve.loss[order], linestyle=(0, (2, 2)), linewidth=1.0, color=style.colour)
            else:
                fine = np.geomspace(x.min(), x.max(), 200)
                axes.plot(fine, law(fine), linestyle=style.line, linewidth=1.6, color=style.colour)
            label = f"{curve.mixer}:  {describe_law(law, len(np.unique(x)), symbol)}"
            axes.plot(x, curve.loss, linestyle="none", marker=style.marker, label=label, **points)
        _log_log(axes)
        _finish(axes, name)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, -0.16), borderaxespad=0.0)
    by_parameters.set_ylabel("final validation loss (nats per token)")
    _save(figure, path)


def _new_figure(title: str, remarks: Sequence[str]) -> Figure:
    # A figure of its own, not pyplot's: no global state, no display needed.
    figure = Figure(figsize=(12.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=_INK, fontweight="bold")
    if remarks:
        text = "\n".join(f"Note: {remark}" for remark in remarks[:4])
        more = f"\n… and {len(remarks) - 4} more" if len(remarks) > 4 else ""
        figure.supxlabel(text + more, x=0.01, ha="left", fontsize=8, color="#666666")
    return figure


def _set_window(axes: Axes, curves: Sequence[Curve], attribute: str) -> None:
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return
    last = max(float(getattr(curve, attribute)[-1]) for curve in curves)
    shown = [curve.loss[getattr(curve, attribute) >= _SHOWN_FROM * last] for curve in curves]
    losses = np.concatenate([loss for loss in shown if len(loss)])
    _log_log(axes)
    axes.set_xlim(_SHOWN_FROM * last, last * 1.06)
    # The highest percent is the noise of single batches; the curves drawn are smoothed.
    axes.set_ylim(losses.min() * 0.985, float(np.quantile(losses, 0.99)) * 1.02)


def _log_log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    # A loss spans less than a decade: its ticks are plain numbers.
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=tuple(np.arange(1, 10, 0.5)), numticks=30))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes, name: str) -> None:
    axes.set_xlabel(name)
    if name != FLOPS:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    axes.grid(True, which="major", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=_INK, which="both", labelsize=9)
    axes.tick_params(axis="y", labelleft=True)


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right edge, each at the height of its curve's end, pushed apart until none covers another."""
    low, high = np.log(axes.get_ylim())
    spacing = 0.048
    wanted = sorted(((np.log(loss) - low) / (high - low), text, colour) for loss, text, colour in ends)
    if not wanted or len(wanted) > _MOST_DIRECT_LABELS:
        _legend(axes, ends)
        return
    places = [min(max(wanted[0][0], 0.0), 1.0)]
    for place, _, _ in wanted[1:]:
        places.append(max(min(place, 1.0), places[-1] + spacing))
    shift = max(0.0, places[-1] - 1.0)
    for (origin, text, colour), place in zip(wanted, places, strict=True):
        axes.annotate(
            text,
            xy=(1.0, min(max(origin, 0.0), 1.0)),
            xytext=(1.035, place - shift),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9.5,
            color=colour,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
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


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150, facecolor="white")
