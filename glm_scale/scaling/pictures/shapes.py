"""What is drawn, as plain data: no library of figures knows it, and two renderers do nothing but draw it.

Lengths on the sheet are in units of the canvas (points of a printed sheet, pixels of a page), from the left and from
below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from glm_scale.scaling.style import Style

__all__ = ["Axis", "Band", "Canvas", "Label", "Line", "Panel", "Points", "Role", "Sheet", "Tick"]

Role = Literal["training", "validation", "law", "joined", "frontier", "zero"]
"""What a line shows: a training or validation loss, a fitted law, final losses of one budget joined by size, the best
of what a cost buys, or where a residual is none."""

Tick = tuple[float, str]
_FEW = 12


@dataclass(frozen=True)
class Canvas:
    """The room that one panel has between its axes, and the height of its letters."""

    width: float
    height: float
    font: float


@dataclass(frozen=True)
class Axis:
    """A range of values, logarithmic if `log`, and the places that are marked."""

    title: str
    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = True

    def share(self, value: np.ndarray | float) -> np.ndarray:
        """How far along the axis values lie: 0 at its low end, 1 at its high one."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return np.asarray((np.log(value) - low) / (high - low))
        return np.asarray((np.asarray(value) - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class Line:
    """Points [P] joined in their order. `style`: None for what belongs to no mixer. `run`: empty for several."""

    role: Role
    x: np.ndarray
    y: np.ndarray
    style: Style | None = None
    mixer: str = ""
    run: str = ""


@dataclass(frozen=True)
class Band:
    """The 90 % interval around a law, at places [P]."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    style: Style
    mixer: str


@dataclass(frozen=True)
class Points:
    """Final losses [P] of a mixer. `sizes`: diameters; `faint`: those that something else beats; `hover`: lines of text
    about each."""

    x: np.ndarray
    y: np.ndarray
    sizes: np.ndarray
    faint: np.ndarray
    hover: tuple[tuple[str, ...], ...]
    style: Style
    mixer: str


@dataclass(frozen=True)
class Label:
    """A name, with its left end and middle `offset` from the place (x, y) that it belongs to, and a line to there if it
    is so far away that it needs a `leader`."""

    text: str
    x: float
    y: float
    offset: tuple[float, float]
    leader: bool
    style: Style
    mixer: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes and all that is drawn between them; `note` says how to read it. `residuals`: of a law, below."""

    x: Axis
    y: Axis
    note: str = ""
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    points: tuple[Points, ...] = ()
    labels: tuple[Label, ...] = ()
    residuals: Panel | None = None

    @property
    def training_opacity(self) -> float:
        """Of training losses, which are light, and lighter where there are many of them."""
        return 0.32 if sum(line.role == "training" for line in self.lines) <= _FEW else 0.13


@dataclass(frozen=True)
class Sheet:
    """Panels side by side under one title; `notes`: the small print."""

    title: str
    notes: tuple[str, ...]
    canvas: Canvas
    panels: tuple[Panel, ...]
