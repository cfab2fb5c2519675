"""How a mixer looks in every figure: hue for its family, line and marker for those of one hue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from glm_scale.mixers import Look, parse_hybrid

_HYBRID = Look("hybrid", "#999933")
"""Layers of more than one family. The olive of Paul Tol's muted scheme."""
# (matplotlib line, matplotlib marker, plotly line, plotly marker)
_VARIANTS = (
    ("-", "o", "solid", "circle"),
    ((0, (5, 2)), "s", "dash", "square"),
    ((0, (1, 1.5)), "^", "dot", "triangle-up"),
    ((0, (5, 1.5, 1, 1.5)), "D", "dashdot", "diamond"),
)


@dataclass(frozen=True)
class Style:
    """A mixer's colour, and its line and marker in matplotlib's and plotly's words."""

    colour: str
    line: str | tuple[float, tuple[float, ...]]
    marker: str
    plotly_line: str
    plotly_marker: str


def look_of(mixer: str) -> Look:
    """The look of a model's mixers, named as in its summary: that of their family, or a hybrid's if they have several.

    >>> look_of("local:128 > lattice:2^k").family
    'lattice'
    """
    try:
        looks = {spec.look for spec in parse_hybrid(mixer)}
    except ValueError:
        # Of a version, or of somebody, that knows more mixers.
        return Look(mixer.partition(":")[0])
    return looks.pop() if len(looks) == 1 else _HYBRID


def styles(mixers: Iterable[str]) -> dict[str, Style]:
    """A style for each mixer. The colour depends on the mixer alone; those of one colour differ in line and marker."""
    found: dict[str, Style] = {}
    seen: dict[str, int] = {}
    for mixer in sorted(set(mixers), key=lambda spelling: (len(spelling), spelling)):
        look = look_of(mixer)
        variant = _VARIANTS[seen.get(look.colour, 0) % len(_VARIANTS)]
        seen[look.colour] = seen.get(look.colour, 0) + 1
        found[mixer] = Style(look.colour, *variant)
    return found
