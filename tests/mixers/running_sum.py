"""A mixer of one's own, all of it in one file: what a newcomer writes, beside one line of the registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MappingProxyType
from unittest import mock

import torch
from torch import Tensor

from glm_scale.layers.sequence import Sequence
from glm_scale.mixers import Look, Mixer, MixerDims, MixerError, Structure, registry
from glm_scale.parallel.sequence.costs import Spread, Traffic, pipeline
from glm_scale.parallel.sequence.exchange import receive_from, send_to
from glm_scale.parallel.sequence.strategies import SequenceStrategy


class RunningSum(Mixer):
    """y_i = W Σ_{j ≤ i} x_j within a document. Over sequence ranks the sum of the open document is handed on."""

    name = "sum"
    sequence_strategies = ("ring",)

    def __init__(self, dims: MixerDims) -> None:
        super().__init__()
        self.heads = dims.heads
        self.weight = torch.nn.Parameter(torch.eye(dims.width) / 10)

    def forward(self, x: Tensor, sequence: Sequence) -> Tensor:
        axis = sequence.axis
        first = 0 if axis is None else axis.ranks.rank * x.shape[1]
        starts = torch.zeros(x.shape[:2]) if sequence.document_starts is None else sequence.document_starts
        own_starts = (starts - first).clamp(min=0).long()[..., None].expand_as(x)
        sums = x.cumsum(1)
        sums = sums - (sums - x).gather(1, own_starts)
        if axis is None:
            return sums @ self.weight
        ranks = axis.ranks
        if ranks.rank > 0:
            (carried,) = receive_from(ranks.rank - 1, ranks, x, torch.zeros_like(x[:, :1]))
            sums = sums + (starts < first)[..., None] * carried
        y = sums @ self.weight
        return send_to(ranks.rank + 1, ranks, y, sums[:, -1:]) if ranks.rank + 1 < ranks.size else y

    def prefill(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        sums = cache + x.cumsum(1)
        return sums @ self.weight, sums[:, -1:]

    def step(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        return self.prefill(x, cache)

    def empty_cache(self, batch: int, length: int | None = None) -> Tensor:
        return self.weight.new_zeros(batch, 1, len(self.weight))

    def flops_per_token(self, length: int) -> float:
        return 2 * self.weight.numel()

    def cache_bytes(self, length: int) -> int:
        return self.weight[0].nbytes

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        return pipeline(spread, spread.itemsize * spread.head_dim, groups=1)

    def require_tensor_parallel(self, ranks: int) -> None:
        if ranks > 1:
            raise MixerError(f"mixer 'sum' has one matrix for all heads, and cannot be split over {ranks} tensor ranks")


class RunningSumSpec:
    """The spelling `sum`."""

    name = "sum"
    structure = Structure("sum", input_width=None, pattern=None)
    look = Look("sum", "#117733")

    def build(self, dims: MixerDims) -> Mixer:
        return RunningSum(dims)


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """The one line of the registry."""
    line = {"sum": registry.Registered("sum", lambda spelling, argument: RunningSumSpec())}
    with mock.patch.object(registry, "MIXERS", MappingProxyType({**registry.MIXERS, **line})):
        registry.parse_mixer.cache_clear()
        yield
    registry.parse_mixer.cache_clear()
