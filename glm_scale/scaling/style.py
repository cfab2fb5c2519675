"""How a mixer looks in every figure: hue for its family, line and marker for the variant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

# The palette of Okabe and Ito (2008), which people with colour vision deficiencies can tell apart; its yellow, too
# faint on white, is replaced by the olive of Paul Tol's muted scheme.
_FAMILY_COLOURS = MappingProxyType(
    {
        "attention": "#0072B2",
        "lattice": "#D55E00",
        "ssm": "#009E73",
        "offsets": "#CC79A7",
        "local": "#56B4E9",
        "window": "#E69F00",
        "dense": "#333333",
        "hybrid": "#999933",
    }
)
_OTHER_COLOUR = "#888888"
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


def family(mixer: str) -> str:
    """The family of a mixer's spelling: `local:128 > lattice:2^k` is a lattice, `lattice:2^k+attention` a hybrid.

    >>> family("lattice:k^2+1")
    'lattice'
    """
    # A "+" also stands inside a function; what follows it there is no family and drops out.
    parts = [part.rpartition(">")[2].strip().partition(":")[0] for part in mixer.split("+")]
    known = {part for part in parts if part in _FAMILY_COLOURS}
    return known.pop() if len(known) == 1 else "hybrid" if known else parts[0]


def styles(mixers: Iterable[str]) -> dict[str, Style]:
    """A style for each mixer. The colour depends on the mixer alone; variants of a family differ in line and marker."""
    found: dict[str, Style] = {}
    seen: dict[str, int] = {}
    for mixer in sorted(set(mixers), key=lambda spelling: (len(spelling), spelling)):
        name = family(mixer)
        variant = _VARIANTS[seen.get(name, 0) % len(_VARIANTS)]
        seen[name] = seen.get(name, 0) + 1
        found[mixer] = Style(_FAMILY_COLOURS.get(name, _OTHER_COLOUR), *variant)
    return found
