"""`kda:N`: Kimi Delta Attention (Kimi Linear, arXiv 2510.26692), a baseline.

S_i = (I − β_i k_i k_iᵀ) diag(α_i) S_{i−1} + β_i k_i v_iᵀ

The gated delta rule with a decay for every channel of the keys. As in the paper queries, keys and values pass a short
convolution of 4 tokens and SiLU, queries and keys have length 1, β is a sigmoid, and decays and the output gate come by
projections of the rank of a head, the gate a sigmoid behind a norm of every head. As in the authors' layer in
flash-linear-attention (fla/layers/kda.py of 0.6) log α = −A softplus(W_out W_in x + b), with A a head's and b a
channel's, initialised over Mamba-2's ranges, and the gate has a bias. Here the ranges are covered by grids, A's over
heads and the steps' over the channels of each head, and the convolution is residual, as everywhere in this project.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.projection import SharedProjection, projection, split_heads
from glm_scale.layers.token import Project
from glm_scale.mixers.baselines.delta import DeltaMixing
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.structure import Structure


class KDAMixing(DeltaMixing):
    """A decay for every channel, and a gate by a sigmoid. The first halves of their projections serve all heads."""

    of_input = ("q", "k", "decay_in", "beta", "gate_in")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        rank, inner = dims.head_dim, dims.heads * dims.head_dim
        super().__init__(structure, dims, projection(rank, inner, bias=True, tensor=dims.tensor))
        nn.init.zeros_(self.gate.bias)
        self.gate_in = SharedProjection(dims.width, rank, dims.tensor)
        self.decay_in = SharedProjection(dims.width, rank, dims.tensor)
        self.decay_out = projection(rank, dims.heads * self.state_dim, tensor=dims.tensor)
        self.log_rate, self.dt_bias = decay_parameters(dims, self.state_dim)

    @property
    def decays_per_head(self) -> int:  # type: ignore[override]
        return self.state_dim

    def _gate(self, project: Project) -> Tensor:
        return self.gate(project(self.gate_in)).sigmoid()

    def _log_decay(self, project: Project) -> Tensor:
        step = F.softplus(self.decay_out(project(self.decay_in)).float() + self.dt_bias.float())
        return -split_heads(step, self.heads) * self.log_rate.float().exp().unsqueeze(1)


def read_kda(spelling: str, argument: str | None) -> StageSpec:
    """`kda`, or `kda:N` with a state expansion N."""
    structure = first_order("kda", spelling, argument, state_flops=6)
    look = look_by_state("kda", "#0000CC", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(KDAMixing, structure), structure, look)
