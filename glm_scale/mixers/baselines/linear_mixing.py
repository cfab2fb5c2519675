"""What baselines with a matrix of a state share: `gla`, `gated_deltanet`, `kda`, `log_linear`.

They run on the operators of `glm_kernels.linear_attention`: on GPUs those of flash-linear-attention with `pip install
glm-scale[fla]`, where it is not known to be wrong, else this project's in torch. The state has N × head_dim numbers a
head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import gated_delta_rule_step, gated_linear_attention_step
from glm_scale.layers.norm import RMSNorm
from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import HeadMixing
from glm_scale.parallel.sequence.linear_attention import gated, sharded_linear_attention
from glm_scale.parallel.tensor.splitting import mark_split


class LinearMixing(HeadMixing):
    """Queries, keys, a norm and a gate for every head. gate: a projection in place of one of x."""

    def __init__(self, state: int, dims: MixerDims, gate: Projection | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim, self.state_dim = dims.heads, dims.head_dim, state
        inner = dims.heads * dims.head_dim
        self.q = dims.projection(dims.heads * state)
        self.k = dims.projection(dims.heads * state)
        self.gate = gate or dims.projection(inner)
        self.norm = RMSNorm(inner, dims.norm_eps, groups=dims.heads)
        mark_split(self.norm.weight, dims.tensor)

    def _gate(self, project: Project) -> Tensor:
        """`[B, T, H · head_dim]`, by which outputs are multiplied."""
        return F.silu(project(self.gate))

    def _output(self, project: Project, y: Tensor) -> Tensor:
        return split_heads(self.norm(y.flatten(-2)) * self._gate(project), self.heads)

    def _empty_state(self, batch: int) -> Tensor:
        shape = (batch, self.heads, self.state_dim, self.head_dim)
        return torch.zeros(shape, device=self.k.weight.device, dtype=torch.float32)

    @property
    def _state_numbers(self) -> int:
        return self.heads * self.state_dim * self.head_dim


def mixed(operands: tuple[Tensor, ...], sequence: Sequence) -> Tensor:
    """y of `glm_kernels.gated_linear_attention` of four operands, or `gated_delta_rule` of five, of the tokens that
    this rank has."""
    starts, axis = sequence.all_document_starts, sequence.axis
    if axis is None:
        return gated(operands, document_starts=starts)[0]
    assert axis.strategy is not None
    return sharded_linear_attention(operands, axis.ranks, axis.strategy, starts)


def continued(operands: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    """y of more tokens, one or several, and the state after them."""
    if operands[0].shape[1] == 1:
        step: Any = gated_linear_attention_step if len(operands) == 4 else gated_delta_rule_step
        y, after = step(*operands, state)
        return y, after
    y, final = gated(operands, initial_state=state, output_final_state=True)
    assert final is not None
    return y, final
