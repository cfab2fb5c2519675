"""`log_linear:N`: log-linear attention (arXiv 2506.04761), a baseline.

y_i = Σ_l λ_il q_iᵀ S_i^(l), one Mamba-2 state for each power of two of the tokens before i
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glm_scale.layers.fused import in_one_kernel
from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.fla_mixing import FlaMixing, bounds_of, read
from glm_scale.mixers.contract import MixerDims, MixerError
from glm_scale.mixers.heads import StageSpec
from glm_scale.mixers.ssm.mixing import decay_parameters, discretized
from glm_scale.mixers.ssm.spec import look_by_state, spelled, state_of


class LevelCache(NamedTuple):
    """levels `[B, H, LEVELS, N, head_dim]`, fp32: the state of every level; position int64 `[B]`: tokens seen."""

    levels: Tensor
    position: Tensor


class LogLinearMixing(FlaMixing):
    """The recurrence of `ssm` with states of its own for the last token, the 1, 2, 4, … tokens before, which it weighs.

    Token i has one level for itself and one for every bit of i (counted from 0), as in a Fenwick tree: the decays are
    those of the single state, but how much a level is heard is chosen for every token. λ = softplus(L W x) as
    published.
    """

    name, operator_name = "log_linear", "log_linear"
    of_input = ("q", "k", "dt", "level", "gate")

    LEVELS = 18
    """Enough for documents of 2¹⁷ tokens, the longest that fla's kernel takes."""

    structure = None

    def __init__(self, state: int, dims: MixerDims) -> None:
        super().__init__(state, dims)
        if dims.head_dim & (dims.head_dim - 1) or state % 64:
            raise MixerError(
                f"mixer 'log_linear' with heads of {dims.head_dim} and a state of {state}: fla's kernel needs heads of "
                "a power of two and a state of a multiple of 64"
            )
        self.dt = Projection(dims.width, dims.heads)
        self.level = Projection(dims.width, dims.heads * self.LEVELS)
        self.level_scale = nn.Parameter(torch.ones(dims.heads, self.LEVELS))
        self.log_rate, self.dt_bias = decay_parameters(dims)

    def _operands(self, project: Project, v: Tensor) -> tuple[Tensor, ...]:
        q, k = split_heads(project(self.q), self.heads), split_heads(project(self.k), self.heads)
        level = F.softplus(self.level_scale * split_heads(project(self.level), self.heads)).to(v.dtype)
        k, log_decay = in_one_kernel(discretized, project(self.dt), k, self.dt_bias, self.log_rate)
        return q, k, v, log_decay, level

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        return self._output(project, self._run(self._operands(project, v), bounds_of(sequence, *x.shape[:2])))

    def extend(
        self, project: Project, v: Tensor, cache: LevelCache, rotation: Rotation | None = None
    ) -> tuple[Tensor, LevelCache]:
        y, after = self._rows(level_row, self._operands(project, v), cache)
        return self._output(project, y.to(v.dtype)), after

    def empty_cache(self, batch: int, length: int | None = None) -> LevelCache:
        levels = self._empty_state(batch).unsqueeze(2).repeat(1, 1, self.LEVELS, 1, 1)
        return LevelCache(levels, torch.zeros(batch, dtype=torch.int64, device=levels.device))

    def flops_per_token(self, length: int) -> float:
        heard = sum(1 + i.bit_count() for i in range(length)) / max(length, 1)
        return self._projection_flops() + (2 + 2 * heard) * self._state_numbers

    def cache_bytes(self, length: int) -> int:
        return 4 * self.LEVELS * self._state_numbers + 8


def level_row(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, level: Tensor, cache: LevelCache
) -> tuple[Tensor, LevelCache]:
    """One token of q, k `[B, H, N]`, v `[B, H, head_dim]`, log_decay `[B, H]`, level `[B, H, LEVELS]`.

    Counting the tokens in binary: when bit b of the position becomes one, all that lower levels hold moves to b + 1.
    """
    levels, position = cache
    size = 2 ** torch.arange(levels.shape[2], device=position.device)
    moves = (position[:, None] % size == 0)[:, None, :, None, None]  # levels 0 … b
    arrives = moves.roll(1, 2) & ~moves
    levels = log_decay.exp()[..., None, None, None] * levels
    moved = (levels * moves).sum(2, keepdim=True)
    levels = levels.masked_fill(moves, 0) + moved * arrives
    levels = torch.cat([(k[..., None] * v[:, :, None])[:, :, None], levels[:, :, 1:]], 2)
    y = read(q, (level[..., None, None] * levels).sum(2))
    return y, LevelCache(levels, position + 1)


def read_log_linear(spelling: str, argument: str | None) -> StageSpec:
    """`log_linear`, or `log_linear:N` with a state expansion N."""
    state = state_of("log_linear", spelling, argument)
    # A token reads several states, of as many tokens as there are bits in its position: no pattern over tokens.
    look = look_by_state("log_linear", "#117733", state)
    return StageSpec(spelled("log_linear", state), "outputs", partial(LogLinearMixing, state), None, look)
