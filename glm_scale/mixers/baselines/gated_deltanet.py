"""`gated_deltanet:N`: the gated delta rule (arXiv 2412.06464), a baseline.

S_i = α_i (I − β_i k_i k_iᵀ) S_{i−1} + β_i k_i v_iᵀ
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from glm_scale.layers.token import Project
from glm_scale.mixers.baselines.delta import DeltaMixing
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.structure import Structure


class GatedDeltaNetMixing(DeltaMixing):
    """One decay a head, as in `ssm`."""

    of_input = ("q", "k", "dt", "beta", "gate")
    decays_per_head = 1

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        super().__init__(structure, dims)
        self.dt = dims.projection(dims.heads)
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _log_decay(self, project: Project) -> Tensor:
        step = F.softplus(project(self.dt).float() + self.dt_bias.float())
        return -step * self.log_rate.float().exp()


def read_gated_deltanet(spelling: str, argument: str | None) -> StageSpec:
    """`gated_deltanet`, or `gated_deltanet:N` with a state expansion N."""
    # Taking out what a key holds costs one more product with the state than an SSM's outer product and read-out.
    structure = first_order("gated_deltanet", spelling, argument, state_flops=6)
    look = look_by_state("gated_deltanet", "#6666FF", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(GatedDeltaNetMixing, structure), structure, look)
