"""A panel for plotly's JavaScript, as plain values, and all panels of a subject with a switch of their axes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from glm_scale.scaling.pictures.panels import Subject, panel_of
from glm_scale.scaling.pictures.quantities import ACROSS, LOSSES, Across, Loss
from glm_scale.scaling.pictures.shapes import Axis, Band, Canvas, Label, Line, Panel, Points, Role
from glm_scale.scaling.style import style_of

__all__ = ["CANVAS", "as_plotly", "states_of", "switched"]

CANVAS = Canvas(width=940.0, height=460.0, font=13.0)
"""In pixels."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _STRIP, _GAP = 78.0, 30.0, 34.0, 56.0, 96.0, 18.0
_INK, _GREY, _FAINT = "#222222", "#666666", "#DDDDDD"
_DIGITS = 6
# (width, opacity, dash where the mixer's own is not drawn)
_LINES: Mapping[Role, tuple[float, float, str | None]] = MappingProxyType(
    {
        "training": (1.2, 1.0, "solid"),
        "validation": (2.2, 1.0, None),
        "law": (2.2, 1.0, None),
        "joined": (1.3, 0.8, "dot"),
        "frontier": (1.4, 0.7, "solid"),
        "zero": (1.0, 1.0, "solid"),
    }
)
_SCRIPT = """
(() => {
  const states = JSON.parse(document.getElementById("states").textContent);
  const figure = document.getElementById("figure");
  const asked = new URLSearchParams(location.hash.slice(1));
  const chosen = {x: asked.get("x") || figure.dataset.x, y: asked.get("y") || figure.dataset.y};
  const hidden = new Set();
  const shown = item => !hidden.has(item.meta ?? item.name);
  function draw() {
    if (!states[chosen.x + "/" + chosen.y]) { chosen.x = figure.dataset.x; chosen.y = figure.dataset.y; }
    const state = states[chosen.x + "/" + chosen.y];
    const layout = {...state.layout, annotations: state.layout.annotations.filter(shown)};
    Plotly.react(figure, state.data.filter(shown), layout,
      {displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
       toImageButtonOptions: {format: "svg", filename: "figure"}});
    fit();
    for (const button of document.querySelectorAll("button[data-axis]")) {
      const on = chosen[button.dataset.axis] === button.value;
      button.setAttribute("aria-pressed", on);
      const other = {...chosen, [button.dataset.axis]: button.value};
      button.disabled = !states[other.x + "/" + other.y];
    }
  }
  // Labels are placed for one size, so in a narrow frame, as MLflow's, the whole figure is made smaller.
  function fit() {
    const {width, height} = states[chosen.x + "/" + chosen.y].layout;
    const scale = Math.min(1, figure.parentElement.clientWidth / width);
    figure.style.transform = scale < 1 ? `scale(${scale})` : "";
    figure.style.height = `${scale * height}px`;
  }
  window.addEventListener("resize", fit);
  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-axis], button[data-mixer]");
    if (!button) return;
    if (button.dataset.axis) {
      chosen[button.dataset.axis] = button.value;
      history.replaceState(null, "", "#" + new URLSearchParams(chosen));
    } else {
      const off = !hidden.delete(button.dataset.mixer);
      if (off) hidden.add(button.dataset.mixer);
      button.setAttribute("aria-pressed", !off);
    }
    draw();
  });
  draw();
})();
"""


def switched(subject: Subject, across: Across, loss: Loss) -> str:
    """All figures of a subject as a piece of HTML that needs no network: buttons choose the axes and hide mixers.

    across, loss: those that are shown first, if anything is known of them.
    """
    states = states_of(subject)
    if not states:
        return "<p>nothing measured yet</p>"
    first = f"{across.key}/{loss.key}"
    x, y = (first if first in states else next(iter(states))).split("/")
    mixers = dict.fromkeys(run.mixer for run in subject.comparison.runs)
    data = json.dumps(states, separators=(",", ":"), ensure_ascii=True, allow_nan=False).replace("</", "<\\/")
    return (
        '<div class="switch">'
        + _buttons(
            "across", "x", ((a.key, a.name) for a in ACROSS if any(key.startswith(f"{a.key}/") for key in states))
        )
        + _buttons("up", "y", ((each.key, each.name) for each in LOSSES if f"{x}/{each.key}" in states))
        + "".join(_toggle(mixer) for mixer in mixers if len(mixers) > 1)
        + f'</div><div id="figure" style="transform-origin: 0 0" data-x="{x}" data-y="{y}"></div>'
        + f'<script type="application/json" id="states">{data}</script>'
        + f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script>"
    )


def states_of(subject: Subject) -> dict[str, dict[str, Any]]:
    """What plotly draws, by the axes that are known of some run: "flops/loss", …"""
    found = {f"{a.key}/{loss.key}": panel_of(subject, a, loss, CANVAS) for a in ACROSS for loss in LOSSES}
    return {key: as_plotly(panel, CANVAS) for key, panel in found.items() if panel is not None}


def as_plotly(panel: Panel, canvas: Canvas) -> dict[str, Any]:
    """Data and layout of a panel, with its residuals below."""
    strip = _STRIP + _GAP if panel.residuals else 0.0
    inside = canvas.height + strip
    layout: dict[str, Any] = {
        "width": _LEFT + canvas.width + _RIGHT,
        "height": _TOP + inside + _BOTTOM,
        "margin": {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
        "font": {"family": "system-ui, sans-serif", "size": canvas.font, "color": _INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": _INK}},
        "xaxis": _axis(panel.x) | {"anchor": "y2" if panel.residuals else "y"},
        "yaxis": _axis(panel.y) | {"domain": [_share(strip, inside), 1]},
        "annotations": [_note(panel), *map(_annotation(panel), panel.labels)],
    }
    data = list(_traces(panel, "y"))
    if panel.residuals is not None:
        layout["yaxis2"] = _axis(panel.residuals.y) | {"domain": [0, _share(_STRIP, inside)]}
        data += _traces(panel.residuals, "y2")
    return {"data": data, "layout": layout}


def _traces(panel: Panel, yaxis: str) -> Iterator[dict[str, Any]]:
    for band in panel.bands:
        yield _band(band) | {"yaxis": yaxis}
    for line in panel.lines:
        yield _line(line, panel.training_opacity) | {"yaxis": yaxis}
    for points in panel.points:
        yield _points(points) | {"yaxis": yaxis}


def _line(line: Line, training_opacity: float) -> dict[str, Any]:
    width, opacity, dash = _LINES[line.role]
    colour = line.style.colour if line.style else _INK if line.role == "frontier" else "#999999"
    words = f"{escape(line.run)}<br>{escape(line.mixer)}, {line.role}: %{{y:.4f}}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "lines" if len(line.x) > 1 else "lines+markers",
        "x": _numbers(line.x),
        "y": _numbers(line.y),
        "meta": line.mixer,
        "opacity": training_opacity if line.role == "training" else opacity,
        "line": {"color": colour, "width": width, "dash": dash or (line.style.plotly_line if line.style else "solid")},
        **({"hovertemplate": words} if line.run else {"hoverinfo": "skip"}),
    }


def _band(band: Band) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(np.concatenate([band.x, band.x[::-1]])),
        "y": _numbers(np.concatenate([band.low, band.high[::-1]])),
        "meta": band.mixer,
        "fill": "toself",
        "fillcolor": _see_through(band.style.colour),
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def _points(points: Points) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": _numbers(points.x),
        "y": _numbers(points.y),
        "meta": points.mixer,
        "text": ["<br>".join(map(escape, filter(None, words))) for words in points.hover],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "symbol": points.style.plotly_marker,
            "color": points.style.colour,
            "size": _numbers(points.sizes),
            "opacity": [0.32 if faint else 1.0 for faint in points.faint],
            "line": {"color": "white", "width": 1},
        },
    }


def _annotation(panel: Panel) -> Any:
    """Names, at places as annotations have them: logarithms on logarithmic axes."""

    def annotation(label: Label) -> dict[str, Any]:
        across, up = label.offset
        shown = {
            "text": f"<b>{escape(label.text)}</b>",
            "name": label.mixer,
            "x": _on(panel.x, label.x),
            "y": _on(panel.y, label.y),
            "xanchor": "left",
            "yanchor": "middle",
            "font": {"color": label.style.colour},
        }
        if not label.leader:
            return shown | {"showarrow": False, "xshift": across, "yshift": up}
        line = {"arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": label.style.colour, "standoff": 5}
        return shown | line | {"showarrow": True, "ax": across, "ay": -up}

    return annotation


def _note(panel: Panel) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 6}
    return {"text": escape(panel.note), "name": "", "showarrow": False, "font": {"size": 12, "color": _GREY}, **place}


def _axis(axis: Axis) -> dict[str, Any]:
    return {
        "type": "log" if axis.log else "linear",
        "range": [_on(axis, axis.low), _on(axis, axis.high)],
        "title": {"text": escape(axis.title)},
        "tickmode": "array",
        "tickvals": [value for value, _ in axis.ticks],
        "ticktext": [text for _, text in axis.ticks],
        "gridcolor": _FAINT,
        "zeroline": False,
        "showline": True,
        "linecolor": "#999999",
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "#999999",
    }


def _buttons(word: str, axis: str, choices: Iterable[tuple[str, str]]) -> str:
    each = "".join(f'<button data-axis="{axis}" value="{key}">{escape(name)}</button>' for key, name in choices)
    return f'<span role="group" aria-label="{word}"><span class="word">{word}</span>{each}</span>'


def _toggle(mixer: str) -> str:
    colour, name = style_of(mixer).colour, escape(mixer)
    return f'<button class="mixer" data-mixer="{name}" aria-pressed="true" style="--own: {colour}">{name}</button>'


def _on(axis: Axis, value: float) -> float:
    return float(f"{math.log10(value) if axis.log else value:.{_DIGITS + 2}g}")


def _share(part: float, whole: float) -> float:
    return round(part / whole, 5)


def _numbers(values: np.ndarray) -> list[float]:
    """Short enough to be read and sent, exact enough to be drawn."""
    return [float(f"{value:.{_DIGITS}g}") for value in values.tolist()]


def _see_through(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
