"""Published recurrences whose state is a matrix, to compare with: gated linear attention, the gated delta rule (with a
decay a head or a channel), log-linear attention.

    operators     the public functions, and the steps of decoding
    library       the operators as torch sees them
    reference     their definitions, row by row
    chunkwise     the two gated ones chunk by chunk in torch, on any device
    levels        log-linear attention in torch
    sharding      a sequence shard of the gated ones
    sums          running sums of log decays
    peer          flash-linear-attention's kernels, where they can be had and trusted
"""

from glm_kernels.linear_attention.operators import (
    gated_delta_rule,
    gated_delta_rule_step,
    gated_linear_attention,
    gated_linear_attention_step,
    log_linear_attention,
    log_linear_attention_step,
)
from glm_kernels.linear_attention.state import LevelState, empty_levels

__all__ = [
    "LevelState",
    "empty_levels",
    "gated_delta_rule",
    "gated_delta_rule_step",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "log_linear_attention",
    "log_linear_attention_step",
]
