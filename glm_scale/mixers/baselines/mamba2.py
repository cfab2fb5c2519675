"""`mamba2:N`: Mamba-2's token mixing as published (Dao & Gu 2024, arXiv 2405.21060), a baseline.

The recurrence is the one of `ssm` and runs on the same kernels. What differs is around it, as in the paper: queries
and keys (C and B) belong to all heads together, which makes their projections small; they and the values pass a short
convolution and SiLU; and the gate comes before the norm. In this frame the inner width is heads · head_dim
(Mamba-2 alone, without a feed-forward network, takes twice the model's width).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_kernels import ssm, ssm_step
from glm_scale.layers.conv import HeadsAndSharedConv
from glm_scale.layers.fused import in_one_kernel
from glm_scale.layers.norm import AllHeadsNorm
from glm_scale.layers.projection import SharedProjection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import HeadMixing, StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters, discretized, mixed_by_ssm
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.ssm.traffic import ssm_traffic
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.costs import Spread, Traffic, tokens_before_traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.parallel.tensor.splitting import mark_split

CONV_WIDTH = 4


class Mamba2Cache(NamedTuple):
    """state `[B, H, N, head_dim]`, fp32; rows: the last tokens before the convolution, `[B, 3, channels]`."""

    state: Tensor
    rows: Tensor


class Mamba2Mixing(HeadMixing):
    """The selective recurrence of Mamba-2 with its convolution, skip, gate and norm.

    Over tensor ranks queries and keys, their projections and channels of the convolution, are the same on all of them,
    and the norm is one over the heads of all.

    `groups`: heads that have queries, keys and a norm together, as many in each. What is projected lies group by group.
    """

    sequence_strategies = ("scan", "ring", "a2a")
    of_input = ("q", "k", "dt", "gate")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        super().__init__()
        assert structure.state is not None
        self.structure, self.state_dim = structure, structure.state
        self.heads, self.head_dim, self.groups = dims.heads, dims.head_dim, 1
        inner = dims.heads * dims.head_dim
        self.q = SharedProjection(dims.width, self.state_dim, dims.tensor)
        self.k = SharedProjection(dims.width, self.state_dim, dims.tensor)
        self.dt = dims.projection(dims.heads)
        self.gate = dims.projection(inner)
        self.conv = HeadsAndSharedConv(inner, 2 * self.state_dim, CONV_WIDTH, dims.tensor, silu=True)
        self.norm = AllHeadsNorm(inner, dims.norm_eps, dims.tensor)
        self.log_rate, self.dt_bias = decay_parameters(dims)
        self.skip = mark_split(nn.Parameter(torch.ones(dims.heads)), dims.tensor)

    def _channels(self, project: Project, v: Tensor) -> Tensor:
        """What the convolution mixes, `[B, T, channels]`."""
        values = split_heads(v.flatten(-2), self.groups)
        queries, keys = (split_heads(y, self.groups) for y in (project(self.q), project(self.k)))
        return torch.cat([values, queries, keys], -1).flatten(-2)

    def _operands(self, project: Project, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q, k `[B, T, H, N]`, the values and the values times Δ `[B, T, H, head_dim]`, log decay `[B, T, H]`."""
        mixed = split_heads(mixed, self.groups)
        together = self.heads // self.groups
        v, q, k = mixed.split([together * self.head_dim, self.state_dim, self.state_dim], -1)
        v = split_heads(v, together).flatten(2, 3)
        q, k = (y.unsqueeze(3).expand(-1, -1, -1, together, -1).flatten(2, 3) for y in (q, k))
        stepped, log_decay = in_one_kernel(discretized, project(self.dt), v, self.dt_bias, self.log_rate)
        return q, k, v, stepped, log_decay

    def _output(self, project: Project, y: Tensor, v: Tensor) -> Tensor:
        gated = (y + self.skip[:, None] * v).flatten(-2) * F.silu(project(self.gate))
        return split_heads(self.norm(gated), self.heads)

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        mixed = self.conv(self._channels(project, v), sequence)
        q, k, v, stepped, log_decay = self._operands(project, mixed)
        return self._output(project, mixed_by_ssm(q, k, stepped, log_decay, sequence, scale=1.0), v)

    def extend(
        self, project: Project, v: Tensor, cache: Mamba2Cache, rotation: Rotation | None = None
    ) -> tuple[Tensor, Mamba2Cache]:
        mixed, rows = self.conv.extend(self._channels(project, v), cache.rows)
        q, k, v, stepped, log_decay = self._operands(project, mixed)
        if v.shape[1] == 1:
            y, state = ssm_step(q, k, stepped, log_decay, cache.state, scale=1.0)
            return self._output(project, y, v), Mamba2Cache(state, rows)
        y, final = ssm(q, k, stepped, log_decay, scale=1.0, initial_state=cache.state, output_final_state=True)
        assert final is not None
        return self._output(project, y, v), Mamba2Cache(final, rows)

    def empty_cache(self, batch: int, length: int | None = None) -> Mamba2Cache:
        shape = (batch, self.heads, self.state_dim, self.head_dim)
        state = torch.zeros(shape, device=self.k.weight.device, dtype=torch.float32)
        return Mamba2Cache(state, self.conv.empty_cache(batch))

    def cache_bytes(self, length: int) -> int:
        return 4 * self.heads * self.state_dim * self.head_dim + self.conv.cache_bytes()

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        channels = self.heads * self.head_dim + 2 * self.state_dim
        convolution = tokens_before_traffic(spread, (CONV_WIDTH - 1) * channels)
        return convolution + ssm_traffic(strategy, spread, self.state_dim)


def read_mamba2(spelling: str, argument: str | None) -> StageSpec:
    """`mamba2`, or `mamba2:N` with a state expansion N."""
    structure = first_order("mamba2", spelling, argument)
    look = look_by_state("mamba2", "#332288", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(Mamba2Mixing, structure), structure, look)
