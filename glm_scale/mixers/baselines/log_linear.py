"""`log_linear:N`: log-linear attention (arXiv 2506.04761), a baseline.

y_i = Σ_l λ_il q_iᵀ S_i^(l), one Mamba-2 state for each power of two of the tokens before i
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_kernels import LevelState, empty_levels, log_linear_attention, log_linear_attention_step
from glm_scale.layers.fused import in_one_kernel
from glm_scale.layers.projection import split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.linear_mixing import LinearMixing
from glm_scale.mixers.baselines.traffic import DECAY_BYTES, linear_traffic
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters, discretized
from glm_scale.mixers.ssm.spec import look_by_state, spelled, state_of
from glm_scale.parallel.sequence.costs import Spread, Traffic
from glm_scale.parallel.sequence.linear_attention import sharded_log_linear_attention
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.parallel.tensor.splitting import split_parameter


class LogLinearMixing(LinearMixing):
    """The recurrence of `ssm` with states of its own for the last token, the 1, 2, 4, … tokens before, which it weighs.

    Token i has one level for itself and one for every bit of i (counted from 0), as in a Fenwick tree: the decays are
    those of the single state, but how much a level is heard is chosen for every token. λ = softplus(L W x) as
    published.
    """

    sequence_strategies = ("a2a",)
    of_input = ("q", "k", "dt", "level", "gate")

    LEVELS = 18
    """Enough for documents of 2¹⁷ tokens, the longest that fla's kernel takes."""

    structure = None

    def __init__(self, state: int, dims: MixerDims) -> None:
        super().__init__(state, dims)
        self.dt = dims.projection(dims.heads)
        self.level = dims.projection(dims.heads * self.LEVELS)
        heads = dims.heads * (dims.tensor.size if dims.tensor else 1)
        self.level_scale = split_parameter(torch.ones(heads, self.LEVELS), dims.tensor)
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _operands(self, project: Project, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        q, k = split_heads(project(self.q), self.heads), split_heads(project(self.k), self.heads)
        level = F.softplus(self.level_scale * split_heads(project(self.level), self.heads)).to(v.dtype)
        k, log_decay = in_one_kernel(discretized, project(self.dt), k, self.dt_bias, self.log_rate)
        return q, k, v, log_decay, level

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        operands, starts, axis = self._operands(project, v), sequence.all_document_starts, sequence.axis
        if axis is None:
            return self._output(project, log_linear_attention(*operands, document_starts=starts)[0])
        assert axis.strategy is not None
        return self._output(project, sharded_log_linear_attention(operands, axis.ranks, axis.strategy, starts))

    def extend(
        self, project: Project, v: Tensor, cache: LevelState, rotation: Rotation | None = None
    ) -> tuple[Tensor, LevelState]:
        operands = self._operands(project, v)
        if v.shape[1] == 1:
            y, after = log_linear_attention_step(*operands, cache)
            return self._output(project, y), after
        y, final = log_linear_attention(*operands, initial_state=cache, output_final_state=True)
        assert final is not None
        return self._output(project, y), final

    def empty_cache(self, batch: int, length: int | None = None) -> LevelState:
        sizes = (self.heads, self.LEVELS, self.state_dim, self.head_dim)
        return empty_levels(batch, *sizes, device=self.k.weight.device)

    def flops_per_token(self, length: int) -> float:
        heard = sum(1 + i.bit_count() for i in range(length)) / max(length, 1)
        return self._projection_flops() + (2 + 2 * heard) * self._state_numbers

    def cache_bytes(self, length: int) -> int:
        return 4 * self.LEVELS * self._state_numbers + 8

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        if strategy != "a2a":
            return super().traffic(strategy, spread)
        return linear_traffic(strategy, spread, self.state_dim, [DECAY_BYTES, spread.itemsize * self.LEVELS])


def read_log_linear(spelling: str, argument: str | None) -> StageSpec:
    """`log_linear`, or `log_linear:N` with a state expansion N."""
    state = state_of("log_linear", spelling, argument)
    # A token reads several states, of as many tokens as there are bits in its position: no pattern over tokens.
    look = look_by_state("log_linear", "#117733", state)
    return StageSpec(spelled("log_linear", state), "outputs", partial(LogLinearMixing, state), None, look)
