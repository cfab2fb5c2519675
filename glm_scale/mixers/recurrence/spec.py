"""The spellings of structured recurrences, which are those of their patterns."""

from __future__ import annotations

import zlib
from functools import partial
from types import MappingProxyType

from glm_kernels import parse_pattern
from glm_scale.mixers.contract import Look
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.recurrence.mixing import RecurrenceMixing
from glm_scale.mixers.structure import Structure

# The palette's yellow is too faint on white.
_COLOURS = MappingProxyType({"lattice": "#D55E00", "offsets": "#CC79A7", "window": "#E69F00", "dense": "#333333"})
_FUNCTIONS = MappingProxyType({"": 0, "2^k": 0, "k^2+1": 1})
"""Those that stand side by side in the documentation differ in any case."""


def read_recurrence(spelling: str, argument: str | None) -> StageSpec:
    """Any pattern of glm_kernels. Raises its PatternError, which shows the place in the spelling."""
    pattern = parse_pattern(spelling)
    structure = Structure(str(pattern), input_width=1, pattern=pattern)
    return StageSpec(str(pattern), "outputs", partial(RecurrenceMixing, structure), structure, _look(str(pattern)))


def _look(pattern: str) -> Look:
    """Members of a family differ in a window, or in a function, which has no order: a checksum of it decides."""
    family, _, argument = pattern.partition(":")
    if argument.isdecimal():
        return Look.of_width(family, _COLOURS[family], int(argument), usual=16)
    return Look(family, _COLOURS[family], _FUNCTIONS.get(argument, 2 + zlib.crc32(argument.encode()) % 2))
