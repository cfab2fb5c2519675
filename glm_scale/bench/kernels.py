"""Results of `python -m glm_kernels.bench --output FILE`: reading them, and drawing time against length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from glm_scale.errors import UserError
from glm_scale.scaling.figures import clear_axes, label_ends, new_figure, save
from glm_scale.scaling.style import style_of

_PANELS = {"forward_ms": "forward", "forward_backward_ms": "forward and backward"}
_FLOOR = "#999999"


@dataclass(frozen=True)
class Benchmark:
    """One results file: the device and versions, the shape, and the lines as the benchmark wrote them."""

    path: Path
    machine: str
    settings: dict[str, Any]
    timings: list[dict[str, Any]]

    @property
    def device(self) -> str:
        """The name of the GPU, or `CPU`."""
        return self.machine.partition(",")[0]

    @property
    def setting(self) -> str:
        """The shape in words, as in `16 heads of 128, bfloat16, 32,768 tokens`."""
        s = self.settings
        parts = [f"{s.get('heads')} heads of {s.get('width')}", str(s.get("dtype"))]
        parts += [f"{s['tokens']:,} tokens"] if s.get("tokens") else []
        parts += [f"documents of {s['packed']:,} tokens"] if s.get("packed") else []
        return ", ".join(parts)


def read_benchmark(path: Path) -> Benchmark:
    """Raises UserError naming the file where it is none of the benchmark's."""
    way_out = "write one with `python -m glm_kernels.bench --output FILE`"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lines = [{"operator": str(t["operator"]), **{key: float(t[key]) for key in ("length", *_PANELS)}, **t}
                 for t in found["timings"]]  # fmt: skip
        benchmark = Benchmark(path, found["machine"], found["settings"], lines)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {way_out}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no results of the benchmark; {way_out}") from error
    if not lines:
        raise UserError(f"{path} holds no timings; every operator was wrong, or none was asked for")
    return benchmark


@dataclass(frozen=True)
class Curve:
    """An operator or peer at one machine and setting."""

    operator: str
    label: str
    points: dict[float, dict[str, Any]]
    """Timings by length."""

    def values(self, key: str) -> list[float]:
        """Timings under a key, in the order of lengths."""
        return [float(self.points[t][key]) for t in sorted(self.points)]


def draw_benchmarks(benchmarks: Sequence[Benchmark], path: Path) -> None:
    """Milliseconds against T, forward and forward+backward side by side, both axes logarithmic.

    Several files are drawn together. What a name alone does not tell apart, machine or shape, is added to it; of the
    same operator, shape and machine the last file counts. Raises OSError or ValueError where `path` cannot be written.
    """
    curves = curves_of(benchmarks)
    devices, settings = _distinct(b.device for b in benchmarks), _distinct(b.setting for b in benchmarks)
    machines = _distinct(b.machine for b in benchmarks)
    floor = "Grey: what copying operands, results and gradients once would take."
    small_print = "\n".join([f"{'; '.join(settings)}.  {floor}", *(machines if len(machines) > 1 else ())])
    figure = new_figure(f"Token mixing on {machines[0] if len(machines) == 1 else ' and '.join(devices)}", small_print)
    panels = figure.subplots(1, 2)
    for axes, (key, name) in zip(panels, _PANELS.items(), strict=True):
        for curve in curves:
            style = style_of(curve.operator)
            axes.plot(
                sorted(curve.points), curve.values(key), color=style.colour, linestyle=style.line, linewidth=1.6,
                marker=style.marker, markersize=5, markeredgecolor="white", markeredgewidth=0.6,
            )  # fmt: skip
        floors = _floors(curves, key)
        axes.plot(list(floors), list(floors.values()), color=_FLOOR, linewidth=1.2, linestyle=(0, (1, 2)), marker="_")
        _finish(axes, name, sorted({t for curve in curves for t in curve.points}))
    panels[0].set_ylabel("milliseconds")
    ends = [(curve.values("forward_backward_ms")[-1], curve.label, style_of(curve.operator).colour) for curve in curves]
    label_ends(panels[1], ends, most=18)
    save(figure, path)


def curves_of(benchmarks: Sequence[Benchmark]) -> list[Curve]:
    """The curves of several files, named by the operator and what the name does not tell apart."""
    several_devices = len(_distinct(b.device for b in benchmarks)) > 1
    several_settings = len(_distinct(b.setting for b in benchmarks)) > 1
    found: dict[str, Curve] = {}
    for benchmark in benchmarks:
        extra = [benchmark.device] * several_devices + [benchmark.setting] * several_settings
        for timing in benchmark.timings:
            label = f"{timing['operator']} ({'; '.join(extra)})" if extra else timing["operator"]
            curve = found.setdefault(label, Curve(timing["operator"], label, {}))
            curve.points[timing["length"]] = timing
    return list(found.values())


def _floors(curves: Sequence[Curve], key: str) -> dict[float, float]:
    """Milliseconds that the measured copy bandwidth allows, by length; those of the first curve of each length."""
    share = key.removesuffix("_ms") + "_of_floor"
    found: dict[float, float] = {}
    for curve in curves:
        for t, timing in curve.points.items():
            found.setdefault(t, timing[key] * timing.get(share, float("nan")))
    return dict(sorted(found.items()))


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _finish(axes: Axes, name: str, lengths: Sequence[float]) -> None:
    axes.set_title(name, fontsize=10.5, loc="left")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens of a sequence, T")
    axes.xaxis.set_major_locator(FixedLocator(list(lengths)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.log10(high / low) < 3 else (1,), numticks=16))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    clear_axes(axes)
