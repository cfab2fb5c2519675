"""The figures of a comparison as PNG, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from glm_scale.scaling.comparison import Comparison, ScalingCurve, describe_law, quantity
from glm_scale.scaling.curves import TrainedRun
from glm_scale.scaling.figures import INK, clear_axes, label_ends, new_figure, save
from glm_scale.scaling.style import styles

# The start of training falls from ln(vocabulary), the same for all, and would flatten the rest.
_SHOWN_FROM = 0.02
TOKENS, FLOPS, PARAMETERS = "training tokens", "training FLOPs", "parameters outside the embeddings"


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Validation loss (points) and smoothed training loss (thin) of every run against tokens and FLOPs."""
    figure = new_figure("Loss against what it took", _noted(comparison.remarks))
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
        _set_window(axes, comparison.runs, attribute)
        _finish(axes, name)
    by_tokens.set_ylabel("loss (nats per token)")
    label_ends(by_flops, ends)
    by_tokens.legend(
        handles=[
            Line2D([], [], color=INK, linewidth=1.8, marker="o", markersize=5, markeredgecolor="white"),
            Line2D([], [], color=INK, linewidth=1.0, alpha=0.45),
        ],
        labels=["validation", "training, smoothed"],
        frameon=False,
        loc="lower left",
        fontsize=9,
    )
    save(figure, path)


def draw_scaling(curves: Sequence[ScalingCurve], remarks: Sequence[str], path: Path) -> None:
    """Final validation loss of every mixer against parameters and training FLOPs, with its power law."""
    figure = new_figure("Scaling of the final validation loss", _noted(remarks))
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
    save(figure, path)


def _noted(remarks: Sequence[str]) -> str:
    """Remarks as the small print of a figure, not too many of them."""
    more = f"\n… and {len(remarks) - 4} more" if len(remarks) > 4 else ""
    return "\n".join(f"Note: {remark}" for remark in remarks[:4]) + more


def _set_window(axes: Axes, runs: Sequence[TrainedRun], attribute: str) -> None:
    """Show every curve but for the start of its training."""
    curves = [curve for run in runs for curve in (run.train, run.validation) if len(curve)]
    if not curves:
        axes.text(0.5, 0.5, "nothing measured yet", transform=axes.transAxes, ha="center", color=INK)
        return
    places = [getattr(curve, attribute) for curve in curves]
    starts = [_SHOWN_FROM * float(place[-1]) for place in places]
    losses = np.concatenate([c.loss[place >= start] for c, place, start in zip(curves, places, starts, strict=True)])
    _log_log(axes)
    axes.set_xlim(min(starts), max(float(place[-1]) for place in places) * 1.06)
    # The highest percent is the noise of single batches; the curves drawn are smoothed.
    axes.set_ylim(losses.min() * 0.985, float(np.quantile(losses, 0.99)) * 1.02)


def _log_log(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    # A loss spans less than a decade: its ticks are plain numbers.
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes, name: str) -> None:
    axes.set_xlabel(name)
    axes.autoscale_view()
    low, high = axes.get_xlim()
    few_decades = axes.get_xscale() == "log" and high / low < 100
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,), numticks=12))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power_of_ten(x) if name == FLOPS else _count(x)))
    clear_axes(axes)
    axes.tick_params(axis="y", labelleft=True)


def _count(value: float) -> str:
    """10M, 2.5B: a tick, without the zeros that a table aligns by."""
    text = quantity(value)
    return text if text[-1].isdigit() else f"{float(text[:-1]):g}{text[-1]}"


def _power_of_ten(value: float) -> str:
    if value <= 0:
        return "0"
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = f"{value / 10**exponent:g}"
    return f"$10^{{{exponent}}}$" if factor == "1" else rf"${factor}\times10^{{{exponent}}}$"
