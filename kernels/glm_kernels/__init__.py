"""Patterns and operators of structured generalized linear recurrences. Imports torch (and triton) only."""

from glm_kernels import reference
from glm_kernels.attention import Packing, attention
from glm_kernels.operators import recurrence, recurrence_step, ssm, ssm_step
from glm_kernels.patterns import Lifetime, Offsets, Pattern, PatternError, parse_pattern
from glm_kernels.state import RecurrenceState, empty_state, with_room

__all__ = [
    "Lifetime",
    "Offsets",
    "Packing",
    "Pattern",
    "PatternError",
    "RecurrenceState",
    "attention",
    "empty_state",
    "parse_pattern",
    "recurrence",
    "recurrence_step",
    "reference",
    "ssm",
    "ssm_step",
    "with_room",
]
