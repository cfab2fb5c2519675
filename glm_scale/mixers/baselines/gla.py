"""`gla:N`: gated linear attention (arXiv 2312.06635), a baseline.

S_i = diag(α_i) S_{i−1} + k_i v_iᵀ
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.fla_mixing import FlaMixing, bounds_of, read
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.structure import Structure


class GLAMixing(FlaMixing):
    """Gated linear attention: a decay of its own for every line of the state, by a projection of low rank."""

    name, operator_name = "gla", "gla"
    of_input = ("q", "k", "decay_in", "gate")

    RANK = 16
    TEMPERATURE = 16.0

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        assert structure.state is not None
        super().__init__(structure.state, dims)
        self.structure = structure
        self.decay_in = Projection(dims.width, self.RANK)
        self.decay_out = Projection(self.RANK, dims.heads * self.state_dim, bias=True)
        nn.init.zeros_(self.decay_out.bias)

    def _operands(self, project: Project, v: Tensor) -> tuple[Tensor, ...]:
        log_decay = F.logsigmoid(self.decay_out(project(self.decay_in)).float()) / self.TEMPERATURE
        q, k, log_decay = (split_heads(y, self.heads) for y in (project(self.q), project(self.k), log_decay))
        return q, k, v, log_decay

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        return self._output(project, self._run(self._operands(project, v), bounds_of(sequence, *x.shape[:2])))

    def extend(
        self, project: Project, v: Tensor, cache: Tensor, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        y, state = self._rows(gla_row, self._operands(project, v), cache)
        return self._output(project, y.to(v.dtype)), state

    def empty_cache(self, batch: int, length: int | None = None) -> Tensor:
        return self._empty_state(batch)

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers


def gla_row(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of q, k, log_decay `[B, H, N]` and v `[B, H, head_dim]` that continues the state."""
    state = log_decay.exp()[..., None] * state + k[..., None] * v[:, :, None]
    return read(q, state), state


def read_gla(spelling: str, argument: str | None) -> StageSpec:
    """`gla`, or `gla:N` with a state expansion N."""
    structure = first_order("gla", spelling, argument)
    look = look_by_state("gla", "#882255", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(GLAMixing, structure), structure, look)
