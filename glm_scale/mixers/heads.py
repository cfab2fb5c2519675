"""The frame that the mixers of this project share: project to values per head, mix them, project back.

    v = W_v x      v ← stage(x, v) for every stage      y = W_o v

One stage is an ordinary mixer. Two are a composition, V ← A X by attention and then a recurrence that reads V.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Literal, cast

from torch import Tensor, nn

from glm_scale.layers.projection import is_projection, projection_flops, residual_projection, split_heads
from glm_scale.layers.rotary import Rotation
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Project, Token, added, projecting
from glm_scale.mixers.contract import Cache, Look, Mixer, MixerDims, MixerError, Spreadable, nearest_below
from glm_scale.mixers.queries_keys import RowWeights
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.graph_breaks import between_graphs
from glm_scale.parallel.sequence.costs import Spread
from glm_scale.parallel.sequence.strategies import SequenceStrategy


class HeadMixing(nn.Module, Spreadable):
    """A stage: mixes head values v `[B, T, H, head_dim]` with coefficients that it computes from x `[B, T, D]`.

    If the sequence has an axis, T are the tokens of one of its ranks, and its strategy is one of `sequence_strategies`.
    `extend` continues the documents of a cache by T ≥ 1 tokens, given the projections of x and, if it is known already,
    the rotation of their positions. The rest is as in `Mixer`.

    structure: of its matrices, from which its cost follows; None for a stage that counts its own.
    """

    structure: Structure | None
    heads: int
    head_dim: int

    of_input: tuple[str, ...] = ()
    """Names of the projections of x, all that `extend` reads of it, if they are to be computed at once."""

    def __init__(self) -> None:
        super().__init__()
        self._strategies: dict[Spread, SequenceStrategy] = {}

    @property
    def value_heads(self) -> int:
        """Of the values that it takes; fewer than `heads` if several have one together."""
        return self.heads

    @abstractmethod
    def forward(self, x: Tensor, v: Tensor, sequence: Sequence) -> Tensor: ...

    @abstractmethod
    def extend(
        self, project: Project, v: Tensor, cache: Cache, rotation: Rotation | None = None
    ) -> tuple[Tensor, Cache]: ...

    @abstractmethod
    def empty_cache(self, batch: int, length: int | None = None) -> Cache: ...

    def row_weights(self, x: Tensor, sequence: Sequence) -> RowWeights | None:
        """How the rows of few tokens x `[B, T, D]` weigh what they read; None where rows are no averages."""
        return None

    def flops_per_token(self, length: int) -> float:
        assert self.structure is not None, f"{type(self).__name__} has no structure and has to count its own FLOPs"
        mixing = self.structure.flops_per_token(length, self.head_dim, self.head_dim)
        return self._projection_flops() + self.heads * mixing

    def _projection_flops(self) -> int:
        return projection_flops(*(m for m in self.modules() if is_projection(m)))  # type: ignore[arg-type]

    @between_graphs
    def cheapest_strategy(self, ranks: int, v: Tensor) -> SequenceStrategy:
        """By which this rank's v is spread, unless another one is asked for."""
        batch, length, heads, head_dim = v.shape
        spread = Spread(ranks, batch, length, heads, head_dim, v.element_size())
        if spread not in self._strategies:
            self._strategies[spread] = self.choose_strategy(spread)[0]
        return self._strategies[spread]

    @abstractmethod
    def cache_bytes(self, length: int) -> int: ...

    def cache_rows(self, length: int) -> int | None:
        if self.structure is None or self.structure.state is not None:
            return None
        return self.structure.cache_rows(length)


class MultiHead(Mixer):
    """Value projection, stages, output projection. The weights of all lie head by head, or serve all heads and are
    the same on every tensor rank (`layers.projection.SharedProjection`)."""

    def __init__(self, name: str, dims: MixerDims, stages: SequenceOf[HeadMixing]) -> None:
        super().__init__()
        self.name = name
        self.heads = dims.heads
        self.v = dims.projection(stages[0].value_heads * dims.head_dim)
        self.stages = nn.ModuleList(stages)
        self.o = residual_projection(dims.heads * dims.head_dim, dims.width, tensor=dims.tensor)
        self.sequence_strategies = tuple(
            strategy
            for strategy in stages[-1].sequence_strategies
            if all(strategy in stage.sequence_strategies for stage in stages)
        )

    @property
    def value_heads(self) -> int:
        """Of the values that the first stage takes."""
        return self._stages()[0].value_heads

    def _stages(self) -> list[HeadMixing]:
        return cast(list[HeadMixing], list(self.stages))

    def forward(self, x: Tensor, sequence: Sequence) -> Tensor:
        values = split_heads(self.v(x), self.value_heads)
        for stage in self._stages():
            values = stage(x, values, self._with_strategy(sequence, stage, values))
        return self.o(values.flatten(-2))

    def _with_strategy(self, sequence: Sequence, stage: HeadMixing, v: Tensor) -> Sequence:
        """If tokens are spread over ranks: by the strategy that was asked for, or by the cheapest for this stage."""
        axis = sequence.axis
        if axis is None or axis.strategy is not None:
            return sequence
        return replace(sequence, axis=replace(axis, strategy=stage.cheapest_strategy(axis.ranks.size, v)))

    def prefill(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        values, after = self._extend(projecting(x), cache, None)
        return self.o(values), after

    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        return self.prefill(x, cache)

    def advance(self, stream: Tensor, token: Token, cache: Cache) -> tuple[Tensor, Cache]:
        values, after = self._extend(token.projected(self.read_together()), cache, token.rotation)
        return added(stream, self.o, values), after

    def _extend(self, project: Project, cache: Cache, rotation: Rotation | None) -> tuple[Tensor, Cache]:
        """What the output projection reads, `[B, T, H · head_dim]`."""
        values = split_heads(project(self.v), self.value_heads)
        caches = []
        for stage, before in zip(self._stages(), cache, strict=True):
            values, after = stage.extend(project, values, before, rotation)
            caches.append(after)
        return values.flatten(-2), tuple(caches)

    def read_together(self) -> list[nn.Linear]:
        return [self.v, *(getattr(stage, name) for stage in self._stages() for name in stage.of_input)]

    def empty_cache(self, batch: int, length: int | None = None) -> Cache:
        return tuple(stage.empty_cache(batch, length) for stage in self._stages())

    def spread_parts(self) -> list[HeadMixing]:
        return self._stages()

    def require_tensor_parallel(self, ranks: int) -> None:
        super().require_tensor_parallel(ranks)
        if self.value_heads % ranks:
            raise MixerError(
                f"mixer {self.name!r} cannot split its {self.value_heads} heads of keys and values (model.kv_heads) "
                f"over {ranks} tensor-parallel ranks; the nearest size below that divides them is "
                f"{nearest_below(ranks, self.value_heads)}"
            )

    def flops_per_token(self, length: int) -> float:
        own = projection_flops(self.v, self.o)
        return own + sum(stage.flops_per_token(length) for stage in self._stages())

    def cache_bytes(self, length: int) -> int:
        return sum(stage.cache_bytes(length) for stage in self._stages())

    def cache_rows(self, length: int) -> int | None:
        rows = [stage.cache_rows(length) for stage in self._stages()]
        return sum(filter(None, rows)) if any(count is not None for count in rows) else None


@dataclass(frozen=True)
class StageSpec:
    """A mixer that is one stage.

    `mixes` says which matrix of Y = (I − B)⁻¹ A X the stage is: "inputs" for A, "outputs" for the recurrence B.
    `stage` builds it.
    """

    name: str
    mixes: Literal["inputs", "outputs"]
    stage: Callable[[MixerDims], HeadMixing]
    structure: Structure | None
    look: Look

    def build(self, dims: MixerDims) -> Mixer:
        """A mixer of this one stage."""
        return MultiHead(self.name, dims, [self.stage(dims)])
