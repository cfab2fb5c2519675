"""`ssm`: a first-order diagonal state-space model with state expansion, the selective recurrence of Mamba-2.

    S_i = exp(−A Δ_i) S_{i−1} + Δ_i k_i v_iᵀ      y_i = scale · q_iᵀ S_i + skip · v_i      Δ_i = softplus(W_dt x_i + b)

Per head a state of `state_dim` × head_dim numbers and one data-dependent decay (Dao & Gu 2024, arXiv 2405.21060).
Queries (Mamba's C) and keys (B) belong to each head, so that heads split over ranks. The decay carries the distance
between tokens, so nothing is rotated. The sum over the past is not normalised, unlike a softmax: its size varies with
the decay, so every head is normalised by itself and then gated, as RetNet (arXiv 2307.08621), GLA (arXiv 2312.06635)
and Mamba-2 found necessary. The gate costs one more width² than attention has; state_dim = head_dim / 2 makes the
parameters equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_kernels import ssm, ssm_step
from glm_scale.layers.fused import in_one_kernel
from glm_scale.layers.norm import RMSNorm, rms_norm
from glm_scale.layers.projection import split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.heads import HeadMixing
from glm_scale.mixers.ssm.traffic import ssm_traffic
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.costs import Spread, Traffic
from glm_scale.parallel.sequence.ssm import sharded_ssm
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.parallel.tensor.splitting import mark_split, split_parameter

RATE_RANGE = (1.0, 16.0)
STEP_RANGE = (1e-3, 1e-1)
"""Initial ranges of A and Δ in Mamba-2: memories from about one token to a thousand."""


class SSMMixing(HeadMixing):
    """The first-order recurrence with its skip, norm and gate. The cache is the state `[B, H, N, head_dim]`, fp32.

    `log_rate` (log A) and `dt_bias` set decays close to one: whatever their dtype the decay is computed in fp32, and
    training in bf16 must keep fp32 master weights of them. Both spread over the heads of a layer on a grid through
    Mamba-2's ranges rather than at random, so that few heads cover them too (ours).
    """

    sequence_strategies = ("scan", "ring", "a2a")
    of_input = ("q", "k", "dt", "gate")

    def __init__(self, structure: Structure, dims: MixerDims) -> None:
        super().__init__()
        assert structure.state is not None
        self.structure, self.state_dim = structure, structure.state
        self.heads, self.head_dim = dims.heads, dims.head_dim
        inner = dims.heads * dims.head_dim
        self.q = dims.projection(dims.heads * self.state_dim)
        self.k = dims.projection(dims.heads * self.state_dim)
        self.dt = dims.projection(dims.heads)
        self.gate = dims.projection(inner)
        self.norm = RMSNorm(inner, dims.norm_eps, groups=dims.heads)
        mark_split(self.norm.weight, dims.tensor)
        self.log_rate, self.dt_bias = decay_parameters(dims)
        self.skip = mark_split(nn.Parameter(torch.ones(dims.heads)), dims.tensor)

    def _coefficients(self, project: Project) -> tuple[Tensor, Tensor, Tensor]:
        """q, k `[B, T, H, N]` and the logarithm of the decay `[B, T, H]`, fp32."""
        q, k = split_heads(project(self.q), self.heads), split_heads(project(self.k), self.heads)
        k, log_decay = in_one_kernel(discretized, project(self.dt), k, self.dt_bias, self.log_rate)
        return q, k, log_decay

    def _output(self, project: Project, y: Tensor, v: Tensor) -> Tensor:
        # The norm itself is called: with ZeRO-3 it has its weight no sooner.
        return _normed_and_gated(y, v, project(self.gate), self.skip, self.norm)

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        q, k, log_decay = self._coefficients(project)
        return self._output(project, mixed_by_ssm(q, k, v, log_decay, sequence), v)

    def extend(
        self, project: Project, v: Tensor, cache: Tensor, rotation: Rotation | None = None
    ) -> tuple[Tensor, Tensor]:
        q, k, log_decay = self._coefficients(project)
        if v.shape[1] == 1:
            y, state = ssm_step(q, k, v, log_decay, cache)
            weight, eps = self.norm.weight, self.norm.eps
            return in_one_kernel(_by_weight, y, v, project(self.gate), self.skip, weight, eps), state
        y, final = ssm(q, k, v, log_decay, initial_state=cache, output_final_state=True)
        assert final is not None
        return self._output(project, y, v), final

    def empty_cache(self, batch: int, length: int | None = None) -> Tensor:
        shape = (batch, self.heads, self.state_dim, self.head_dim)
        return torch.zeros(shape, device=self.k.weight.device, dtype=torch.float32)

    def cache_bytes(self, length: int) -> int:
        return 4 * self.heads * self.state_dim * self.head_dim

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        return ssm_traffic(strategy, spread, self.state_dim)


def discretized(dt: Tensor, x: Tensor, dt_bias: Tensor, log_rate: Tensor) -> tuple[Tensor, Tensor]:
    """Δ x of keys or values x `[B, T, H, …]`, and the logarithm of the decay `[B, T, H]`, fp32; dt `[B, T, H]`."""
    step = F.softplus(dt.float() + dt_bias.float())
    return x * step[..., None].to(x.dtype), -step * log_rate.float().exp()


def _normed_and_gated(y: Tensor, v: Tensor, gate: Tensor, skip: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    """`[B, T, H, head_dim]` of y and v of that shape and gate `[B, T, H · head_dim]`; norm: of every head by itself."""
    return split_heads(norm((y + skip[:, None] * v).flatten(-2)) * F.silu(gate), y.shape[2])


def _by_weight(y: Tensor, v: Tensor, gate: Tensor, skip: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same with the weight of the norm."""
    return _normed_and_gated(y, v, gate, skip, lambda x: rms_norm(x, weight, eps, groups=y.shape[2]))


def mixed_by_ssm(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, sequence: Sequence, scale: float | None = None
) -> Tensor:
    """`glm_kernels.ssm` of the tokens that this rank has."""
    starts, axis = sequence.all_document_starts, sequence.axis
    if axis is None:
        return ssm(q, k, v, log_decay, scale=scale, document_starts=starts)[0]
    assert axis.strategy is not None
    return sharded_ssm(q, k, v, log_decay, axis.ranks, axis.strategy, scale=scale, document_starts=starts)


def decay_parameters(dims: MixerDims, channels: int | None = None) -> tuple[nn.Parameter, nn.Parameter]:
    """Initial log A and bias of Δ `[H]`, of this rank's heads; channels: of a Δ for each of so many, `[H · channels]`,
    spread over those of every head."""
    heads = dims.heads * (dims.tensor.size if dims.tensor else 1)
    rate = _grid(heads, *RATE_RANGE)
    step = _grid(heads, *STEP_RANGE) if channels is None else _grid(channels, *STEP_RANGE).repeat(heads)
    bias = step + torch.log(-torch.expm1(-step))
    return split_parameter(rate.log(), dims.tensor), split_parameter(bias, dims.tensor)


def _grid(points: int, low: float, high: float) -> Tensor:
    """`points` values, evenly spaced in the logarithm, at the middles of equal parts of [low, high]."""
    middles = (torch.arange(points) + 0.5) / points
    return torch.exp(math.log(low) + middles * math.log(high / low))
