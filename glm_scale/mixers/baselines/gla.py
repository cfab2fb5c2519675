"""`gla:N`: gated linear attention (arXiv 2312.06635), a baseline.

S_i = diag(α_i) S_{i−1} + k_i v_iᵀ
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.projection import SharedProjection, projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.linear_mixing import LinearMixing, continued, mixed
from glm_scale.mixers.baselines.traffic import DECAY_BYTES, linear_traffic
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.costs import Spread, Traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy


class GLAMixing(LinearMixing):
    """Gated linear attention: a decay of its own for every line of the state, by a projection of low rank, whose first
    half serves all heads. The cache is the state `[B, H, N, head_dim]`, fp32."""

    sequence_strategies = ("scan", "ring", "a2a")
    of_input = ("q", "k", "decay_in", "gate")

    RANK = 16
    TEMPERATURE = 16.0

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        assert structure.state is not None
        super().__init__(structure.state, dims)
        self.structure = structure
        self.decay_in = SharedProjection(dims.width, self.RANK, dims.tensor)
        self.decay_out = projection(self.RANK, dims.heads * self.state_dim, bias=True, tensor=dims.tensor)
        nn.init.zeros_(self.decay_out.bias)

    def _operands(self, project: Project, v: Tensor) -> tuple[Tensor, ...]:
        log_decay = F.logsigmoid(self.decay_out(project(self.decay_in)).float()) / self.TEMPERATURE
        q, k, log_decay = (split_heads(y, self.heads) for y in (project(self.q), project(self.k), log_decay))
        return q, k, v, log_decay

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        return self._output(project, mixed(self._operands(project, v), sequence))

    def extend(
        self, project: Project, v: Tensor, cache: Tensor, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        y, state = continued(self._operands(project, v), cache)
        return self._output(project, y), state

    def empty_cache(self, batch: int, length: int | None = None) -> Tensor:
        return self._empty_state(batch)

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        return linear_traffic(strategy, spread, self.state_dim, [DECAY_BYTES * self.state_dim], self.state_dim)


def read_gla(spelling: str, argument: str | None) -> StageSpec:
    """`gla`, or `gla:N` with a state expansion N."""
    structure = first_order("gla", spelling, argument)
    look = look_by_state("gla", "#882255", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(GLAMixing, structure), structure, look)
