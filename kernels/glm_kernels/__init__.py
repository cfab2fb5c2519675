"""Patterns and operators of structured generalized linear recurrences. Imports torch (and triton) only."""

from glm_kernels import reference
from glm_kernels.attention import Packing, attention
from glm_kernels.convolution import short_convolution
from glm_kernels.linear_attention import (
    LevelState,
    empty_levels,
    gated_delta_rule,
    gated_delta_rule_step,
    gated_linear_attention,
    gated_linear_attention_step,
    log_linear_attention,
    log_linear_attention_step,
)
from glm_kernels.operators import recurrence, ssm
from glm_kernels.patterns import Lifetime, Offsets, Pattern, PatternError, parse_pattern
from glm_kernels.projections import project, project_gated, project_onto
from glm_kernels.state import RecurrenceState, empty_state, with_room
from glm_kernels.steps import attention_step, recurrence_step, ssm_step

__all__ = [
    "LevelState",
    "Lifetime",
    "Offsets",
    "Packing",
    "Pattern",
    "PatternError",
    "RecurrenceState",
    "attention",
    "attention_step",
    "empty_levels",
    "empty_state",
    "gated_delta_rule",
    "gated_delta_rule_step",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "log_linear_attention",
    "log_linear_attention_step",
    "parse_pattern",
    "project",
    "project_gated",
    "project_onto",
    "recurrence",
    "recurrence_step",
    "reference",
    "short_convolution",
    "ssm",
    "ssm_step",
    "with_room",
]
