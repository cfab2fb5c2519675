"""`gated_deltanet:N`: the gated delta rule (arXiv 2412.06464), a baseline.

S_i = α_i (I − β_i k_i k_iᵀ) S_{i−1} + β_i k_i v_iᵀ
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_scale.layers.conv import ShortConv
from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.fla_mixing import FlaMixing, bounds_of, read
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters
from glm_scale.mixers.ssm.spec import first_order, look_by_state
from glm_scale.mixers.structure import Structure

CONV_WIDTH = 4


class DeltaCache(NamedTuple):
    """state `[B, H, N, head_dim]`, fp32; rows: the last tokens before the convolution, `[B, 3, channels]`."""

    state: Tensor
    rows: Tensor


class GatedDeltaNetMixing(FlaMixing):
    """The gated delta rule: writing a value first takes out what the state holds for its key."""

    name, operator_name = "gated_deltanet", "gated_delta_rule"
    of_input = ("q", "k", "dt", "beta", "gate")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        assert structure.state is not None
        super().__init__(structure.state, dims)
        self.structure = structure
        self.dt = Projection(dims.width, dims.heads)
        self.beta = Projection(dims.width, dims.heads)
        self.conv = ShortConv(dims.heads * (2 * self.state_dim + dims.head_dim), CONV_WIDTH)
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _channels(self, project: Project, v: Tensor) -> Tensor:
        heads = (split_heads(project(self.q), self.heads), split_heads(project(self.k), self.heads), v)
        return torch.cat(heads, -1).flatten(-2)

    def _operands(self, project: Project, mixed: Tensor) -> tuple[Tensor, ...]:
        sizes = [self.state_dim, self.state_dim, self.head_dim]
        q, k, v = F.silu(split_heads(mixed, self.heads)).split(sizes, -1)
        q, k = (F.normalize(y.float(), dim=-1).to(y.dtype) for y in (q, k))
        step = F.softplus(project(self.dt).float() + self.dt_bias.float())
        return q, k, v, -step * self.log_rate.float().exp(), project(self.beta).sigmoid()

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        mixed = self.conv(self._channels(project, v), sequence)
        return self._output(project, self._run(self._operands(project, mixed), bounds_of(sequence, *x.shape[:2])))

    def extend(
        self, project: Project, v: Tensor, cache: DeltaCache, rotation: Rotation | None = None
    ) -> tuple[Tensor, DeltaCache]:
        mixed, rows = self.conv.extend(self._channels(project, v), cache.rows)
        y, state = self._rows(delta_row, self._operands(project, mixed), cache.state)
        return self._output(project, y.to(v.dtype)), DeltaCache(state, rows)

    def empty_cache(self, batch: int, length: int | None = None) -> DeltaCache:
        return DeltaCache(self._empty_state(batch), self.conv.empty_cache(batch))

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers + self.conv.cache_bytes()


def delta_row(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of q, k `[B, H, N]`, v `[B, H, head_dim]`, log_decay and beta `[B, H]` that continues the state."""
    state = log_decay.exp()[..., None, None] * state
    change = beta[..., None] * (v - torch.einsum("bhk,bhkv->bhv", k, state))
    state = state + k[..., None] * change[:, :, None]
    return read(q, state), state


def read_gated_deltanet(spelling: str, argument: str | None) -> StageSpec:
    """`gated_deltanet`, or `gated_deltanet:N` with a state expansion N."""
    # Taking out what a key holds costs one more product with the state than an SSM's outer product and read-out.
    structure = first_order("gated_deltanet", spelling, argument, state_flops=6)
    look = look_by_state("gated_deltanet", "#6666FF", structure.state)
    return StageSpec(structure.spelling, "outputs", partial(GatedDeltaNetMixing, structure), structure, look)
