"""Places on an axis that people can read: 2M tokens, 5×10¹⁸ FLOPs, 10 min, 64 kB."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from glm_scale.scaling.pictures.shapes import Tick

__all__ = ["Unit", "linear_ticks", "log_ticks"]

Unit = Literal["count", "flops", "seconds", "bytes", "rate"]

_LEAST, _MOST = 3, 8
_STEPS: tuple[tuple[float, ...], ...] = ((1, 2, 5), (1, 3), (1,), (1, 1.5, 2, 3, 4, 6, 8))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TIMES: tuple[Tick, ...] = tuple(
    (number * unit, f"{number} {name}")
    for unit, name, numbers in (
        (1, "s", (1, 2, 5, 10, 20, 30)),
        (60, "min", (1, 2, 5, 10, 20, 30)),
        (3600, "h", (1, 2, 4, 8, 12)),
        (86400, "d", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
    )
    for number in numbers
)


def log_ticks(low: float, high: float, unit: Unit, most: int = _MOST) -> tuple[Tick, ...]:
    """At most `most` round numbers from `low` to `high` > `low` > 0, for a logarithmic axis.

    Powers of ten, or of a hundred, a thousand and so on over many decades; within few decades also their multiples;
    within less than one round steps.
    """
    if unit == "seconds" and (times := _thinned([tick for tick in _TIMES if low <= tick[0] <= high], most)):
        return times
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for every in (6, 4, 3, 2):
        found = [10.0**d for d in decades if d % every == 0 and low <= 10.0**d <= high]
        if len(found) > most // 2:
            return _named(found[:: math.ceil(len(found) / most)], unit)
    for steps in _STEPS:
        found = [step * 10.0**d for d in decades for step in steps if low <= step * 10.0**d <= high * (1 + 1e-9)]
        if _LEAST <= len(found) <= most:
            return _named(found, unit)
    return _named(list(_round_steps(low, high, min(most, 5))), unit)


def linear_ticks(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """At most `most` multiples of 1, 2, 2.5 or 5 times a power of ten, from `low` to `high`."""
    return tuple(_round_steps(low, high, most))


def _round_steps(low: float, high: float, most: int) -> Iterator[float]:
    decade = 10.0 ** (math.floor(math.log10((high - low) / most)))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * decade
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            yield from (float(f"{number * step:.12g}") for number in range(first, last + 1))
            return


def _thinned(ticks: Sequence[Tick], most: int) -> tuple[Tick, ...]:
    if len(ticks) < _LEAST:
        return ()
    return tuple(ticks[:: math.ceil(len(ticks) / most)])


def _named(values: Sequence[float], unit: Unit) -> tuple[Tick, ...]:
    name = _NAMES[unit]
    return tuple((value, name(value)) for value in values)


def _count(value: float) -> str:
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * (1 - 1e-9):
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _bytes(value: float) -> str:
    for size, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size * (1 - 1e-9):
            return f"{value / size:.4g} {suffix}"
    return f"{value:.4g} B"


def _power(value: float) -> str:
    exponent = math.floor(math.log10(value) + 1e-9)
    if -2 < exponent < 4:
        return f"{value:.4g}"
    power, factor = f"10{str(exponent).translate(_SUPERSCRIPT)}", f"{value / 10.0**exponent:.4g}"
    return power if factor == "1" else f"{factor}×{power}"


def _seconds(value: float) -> str:
    return f"{_count(value)} s"


_NAMES: Mapping[Unit, Callable[[float], str]] = MappingProxyType(
    {"count": _count, "flops": _power, "seconds": _seconds, "bytes": _bytes, "rate": _power}
)
