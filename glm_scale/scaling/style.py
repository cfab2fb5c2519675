"""How a mixer looks in every figure of the product: a colour, a line and a marker that follow from its spelling alone.

The hue is that of its family. Members of a family differ in shade, line and marker, so that a mixer keeps its look
whatever else is drawn beside it. What it is asked of the mixer (`Look`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

from glm_scale.mixers import Look, parse_hybrid

__all__ = ["Style", "look_of", "style_of"]

_HYBRID = "#999933"
"""Layers of more than one family. The olive of Paul Tol's muted scheme."""
# (matplotlib line, matplotlib marker, plotly line, plotly marker)
_VARIANTS = (
    ("-", "o", "solid", "circle"),
    ((0, (5, 2)), "s", "dash", "square"),
    ((0, (1, 1.5)), "^", "dot", "triangle-up"),
    ((0, (5, 1.5, 1, 1.5)), "D", "dashdot", "diamond"),
)
_SHADES = ((0, 0.0), (0, 0.42), (255, 0.34), (0, 0.6))
"""Of each variant: black or white, and how much of it is mixed with the family's colour."""


@dataclass(frozen=True)
class Style:
    """A mixer's colour, and its line and marker in matplotlib's and plotly's words."""

    colour: str
    line: str | tuple[float, tuple[float, ...]]
    marker: str
    plotly_line: str
    plotly_marker: str


def look_of(mixer: str) -> Look:
    """The look of a model's mixers, named as in its summary.

    Of layers of one family that family's, else a hybrid's. Where they differ, or an input mixing stands in front, a
    checksum of the spelling says which member of the family it is.

    >>> look_of("local:128 > lattice:2^k").family
    'lattice'
    """
    try:
        specs = {spec.name: spec.look for spec in parse_hybrid(mixer)}
    except ValueError:
        # Of a version, or of somebody, that knows more mixers.
        return Look(mixer.partition(":")[0])
    first, member = next(iter(specs.values())), zlib.crc32(mixer.encode())
    if len({look.family for look in specs.values()}) > 1:
        return Look("hybrid", _HYBRID, member)
    alone = len(specs) == 1 and ">" not in mixer
    return first if alone else Look(first.family, first.colour, 2 + member % 2)


@lru_cache(maxsize=256)
def style_of(mixer: str) -> Style:
    """The style of a model's mixers, named as in its summary."""
    look = look_of(mixer)
    variant = look.member % len(_VARIANTS)
    return Style(_mixed(look.colour, *_SHADES[variant]), *_VARIANTS[variant])


def _mixed(colour: str, other: int, share: float) -> str:
    """A colour with a share of a grey (0 black, 255 white), `#RRGGBB`."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(part + share * (other - part)):02X}" for part in parts)
