"""Random operands of the operators of published recurrences, by the operator's name."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import gated_delta_rule, gated_linear_attention, log_linear_attention
from tests.kernels.operands import leaves

GATED = ("gla", "gated_delta_rule", "kda")
LEVELS = 10
"""Of log-linear attention, enough for 512 tokens."""


def operands(
    name: str,
    batch: int,
    length: int,
    heads: int = 2,
    key_dim: int = 4,
    value_dim: int = 3,
    *,
    decay: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Leaves: q, keys of length 1, v, log decays down to −`decay`, and what else the operator takes."""
    rows = (batch, length, heads)
    q, k, v, *gates = leaves(
        (*rows, key_dim), (*rows, key_dim), (*rows, value_dim), (*rows, key_dim), rows, (*rows, LEVELS), seed=seed
    )
    by_channel, by_head, level = gates
    log_decay = -decay * (by_channel if name in ("gla", "kda") else by_head).sigmoid()
    made = [q, F.normalize(k, dim=3), v, log_decay]
    if name in ("gated_delta_rule", "kda"):
        made.append(2 * (by_head + q[..., 0]).sigmoid())
    if name == "log_linear":
        made.append(level.sigmoid())
    return [x.detach().to(dtype).requires_grad_() for x in made]


def mixed(name: str, inputs: list[Tensor], **options: Any) -> tuple[Tensor, Any]:
    """y and the state of an operator."""
    run: Any = {"gla": gated_linear_attention, "log_linear": log_linear_attention}.get(name, gated_delta_rule)
    return run(*inputs, **options)
