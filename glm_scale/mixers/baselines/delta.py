"""What mixers by the gated delta rule share: `gated_deltanet`, `kda`."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from glm_scale.layers.conv import ShortConv
from glm_scale.layers.projection import Projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, projecting
from glm_scale.mixers.baselines.linear_mixing import LinearMixing, continued, mixed
from glm_scale.mixers.baselines.traffic import DECAY_BYTES, linear_traffic
from glm_scale.mixers.contract import MixerDims
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.sequence.costs import Spread, Traffic, tokens_before_traffic
from glm_scale.parallel.sequence.strategies import SequenceStrategy
from glm_scale.parallel.tensor.splitting import mark_split

CONV_WIDTH = 4


class DeltaCache(NamedTuple):
    """state `[B, H, N, head_dim]`, fp32; rows: the last tokens before the convolution, `[B, 3, channels]`."""

    state: Tensor
    rows: Tensor


class DeltaMixing(LinearMixing):
    """The gated delta rule, writing a value first takes out what the state holds for its key: queries, keys and values
    pass a short convolution and SiLU, and queries and keys have length 1. Its channels lie head by head."""

    sequence_strategies = ("scan", "ring", "a2a")
    decays_per_head: int
    """Log decays of a token and head."""

    def __init__(self, structure: Structure, dims: MixerDims, gate: Projection | None = None) -> None:
        assert structure.state is not None
        super().__init__(structure.state, dims, gate)
        self.structure = structure
        self.beta = dims.projection(dims.heads)
        self.conv = ShortConv(dims.heads * self._channels_per_head, CONV_WIDTH, silu=True)
        mark_split(self.conv.weight, dims.tensor, 1)

    @abstractmethod
    def _log_decay(self, project: Project) -> Tensor:
        """fp32 `[B, T, H]` or `[B, T, H, N]`."""

    @property
    def _channels_per_head(self) -> int:
        return 2 * self.state_dim + self.head_dim

    def _channels(self, project: Project, v: Tensor) -> Tensor:
        heads = (split_heads(project(self.q), self.heads), split_heads(project(self.k), self.heads), v)
        return torch.cat(heads, -1).flatten(-2)

    def _operands(self, project: Project, mixed: Tensor) -> tuple[Tensor, ...]:
        sizes = [self.state_dim, self.state_dim, self.head_dim]
        q, k, v = split_heads(mixed, self.heads).split(sizes, -1)
        q, k = (F.normalize(y.float(), dim=-1).to(y.dtype) for y in (q, k))
        return q, k, v, self._log_decay(project), project(self.beta).sigmoid()

    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor:
        project = projecting(x)
        convolved = self.conv(self._channels(project, v), sequence)
        return self._output(project, mixed(self._operands(project, convolved), sequence))

    def extend(
        self, project: Project, v: Tensor, cache: DeltaCache, rotation: Rotation | None = None
    ) -> tuple[Tensor, DeltaCache]:
        convolved, rows = self.conv.extend(self._channels(project, v), cache.rows)
        y, state = continued(self._operands(project, convolved), cache.state)
        return self._output(project, y), DeltaCache(state, rows)

    def empty_cache(self, batch: int, length: int | None = None) -> DeltaCache:
        return DeltaCache(self._empty_state(batch), self.conv.empty_cache(batch))

    def cache_bytes(self, length: int) -> int:
        return 4 * self._state_numbers + self.conv.cache_bytes()

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        before = tokens_before_traffic(spread, (CONV_WIDTH - 1) * self.heads * self._channels_per_head)
        gates = [DECAY_BYTES * self.decays_per_head, spread.itemsize]
        return before + linear_traffic(strategy, spread, self.state_dim, gates, self.state_dim**2)
