"""The spellings of structured recurrences, which are those of their patterns."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from glm_kernels import parse_pattern
from glm_scale.mixers.contract import Look
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.recurrence.mixing import RecurrenceMixing
from glm_scale.mixers.structure import Structure

# The palette's yellow is too faint on white.
_COLOURS = MappingProxyType({"lattice": "#D55E00", "offsets": "#CC79A7", "window": "#E69F00", "dense": "#333333"})


def read_recurrence(spelling: str, argument: str | None) -> StageSpec:
    """Any pattern of glm_kernels. Raises its PatternError, which shows the place in the spelling."""
    pattern = parse_pattern(spelling)
    structure = Structure(str(pattern), input_width=1, pattern=pattern)
    family = str(pattern).partition(":")[0]
    return StageSpec(
        str(pattern), "outputs", partial(RecurrenceMixing, structure), structure, Look(family, _COLOURS[family])
    )
