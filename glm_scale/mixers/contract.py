"""What the model, the trainer, the planner and the ladder know of a mixer, and all they know."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn

from glm_scale.errors import UserError
from glm_scale.layers.projection import Projection, projection
from glm_scale.layers.rotary import Rotary
from glm_scale.layers.sequence import Sequence
from glm_scale.layers.token import Token
from glm_scale.mixers.structure import Structure
from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.sequence.costs import Spread, Traffic, cheapest
from glm_scale.parallel.sequence.strategies import SequenceStrategy, possible

Cache = Any
"""What a mixer carries from token to token while decoding: a tensor or a NamedTuple of tensors, opaque outside it."""


class MixerError(UserError, ValueError):
    """A mixer that is misspelled, or asked for something it cannot do."""


@dataclass(frozen=True)
class MixerDims:
    """The sizes a mixer is built from.

    `kv_heads`: attention has keys and values of as many heads, each for several queries' heads; None: of every head.
    `qk_norm`: whether queries and keys that a softmax compares are normalised. `tensor`: the ranks over which heads are
    split; then `heads` and `kv_heads` are those of this rank, see `over`.
    """

    width: int
    heads: int
    head_dim: int
    rotary: Rotary
    norm_eps: float
    kv_heads: int | None = None
    qk_norm: bool = False
    tensor: TensorAxis | None = None

    def over(self, tensor: TensorAxis | None) -> MixerDims:
        """The sizes of one rank's part of a mixer of these sizes."""
        if tensor is None:
            return self
        shared = None if self.kv_heads is None else self.kv_heads // tensor.size
        return replace(self, heads=self.heads // tensor.size, kv_heads=shared, tensor=tensor)

    def projection(self, outputs: int, bias: bool = False) -> Projection:
        """From the model's width to `outputs` numbers of this rank's heads."""
        return projection(self.width, outputs, bias=bias, tensor=self.tensor)


class Spreadable(ABC):
    """What can be computed with the tokens of a sequence spread over ranks, by one strategy or another."""

    sequence_strategies: tuple[SequenceStrategy, ...]
    """The strategies under which it is exact over sequence shards; empty if it needs whole sequences."""

    def traffic(self, strategy: SequenceStrategy, spread: Spread) -> Traffic:
        """What ranks send one another under one of `sequence_strategies`. Raises ValueError for any other."""
        raise ValueError(f"{type(self).__name__} cannot be spread over ranks by {strategy!r}")

    def mixing_flops(self, spread: Spread) -> float:
        """A rank's share of mixing tokens, forward and backward; projections are not among it. 0 where its time makes
        no difference between strategies."""
        return 0.0

    def choose_strategy(
        self, spread: Spread, strategy: SequenceStrategy | None = None
    ) -> tuple[SequenceStrategy, Traffic]:
        """The strategy by which it is spread, and what ranks send: `strategy`, or if that is None the cheapest."""
        able = possible(self.sequence_strategies, spread.heads, spread.ranks) if strategy is None else (strategy,)
        traffic = {candidate: self.traffic(candidate, spread) for candidate in able}
        chosen = cheapest(traffic, self.mixing_flops(spread))
        return chosen, traffic[chosen]


class Mixer(nn.Module, Spreadable):
    """Mixes information between the tokens of a sequence; never from a later one, never from another document."""

    name: str
    """The canonical spelling, as in configs, tags and error messages."""

    heads: int
    """Every weight is laid out head by head, so that tensor parallelism can give each rank some heads."""

    @abstractmethod
    def forward(self, x: Tensor, sequence: Sequence) -> Tensor:
        """Whole sequences: x `[B, T, D]` to `[B, T, D]`.

        Over tensor ranks x has passed `parallel.tensor.splitting.entering`, and what comes out is summed over them.
        """

    @abstractmethod
    def prefill(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """T more tokens x `[B, T, D]` of the documents in `cache`, one document for each sequence of the batch.

        Returns the outputs and the cache after them. The cache given is used up: its storage may be reused.
        """

    @abstractmethod
    def step(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """One more token: `prefill` for x `[B, 1, D]`, at the cost of decoding."""

    def advance(self, stream: Tensor, token: Token, cache: Cache) -> tuple[Tensor, Cache]:
        """stream `[B, 1, D]` + `step` of a token, as blocks ask for it; for a mixer that can do it in fewer launches.

        To be captured in a CUDA graph it must ask nothing of the device, and leave what is no tensor in a cache made
        for a length as it is; tensors need not stay where they are.
        """
        mixed, cache = self.step(token.normed(), cache)
        return stream + mixed, cache

    @abstractmethod
    def empty_cache(self, batch: int, length: int | None = None) -> Cache:
        """The cache before the first token of `batch` documents, on the device and in the dtype of the weights.

        Its tensors are zero, and their first dimension is that of documents.
        length: no document will come to more tokens, so that room can be made for them once; else the cache grows.
        """

    @abstractmethod
    def flops_per_token(self, length: int) -> float:
        """Forward FLOPs of one token, the mean over a document of `length` tokens.

        Matrix multiplications at two FLOPs per multiply–add, over the tokens a token may read and no others: what the
        definition asks for, not what an implementation spends on masked tiles. Softmax, norms, gates, rotations
        and decays are not counted.
        """

    @abstractmethod
    def cache_bytes(self, length: int) -> int:
        """Bytes that the cache of one document needs after `length` tokens; what is allocated may be more."""

    def cache_rows(self, length: int) -> int | None:
        """Rows that the cache of one document remembers after `length` tokens; None if it is a state of one size."""
        return None

    def read_together(self) -> SequenceOf[nn.Linear]:
        """Projections of x that `advance` computes at once, if their weights lie one behind the other."""
        return ()

    def spread_parts(self) -> SequenceOf[Spreadable]:
        """What is spread over sequence ranks one after the other, each by a strategy of its own: this mixer itself, or
        the parts that it consists of."""
        return (self,)

    def require_sequence_strategy(self, strategy: SequenceStrategy | None, ranks: int, tensor_ranks: int = 1) -> None:
        """Refuse to spread tokens over `ranks` by a strategy, or by any if it is None, under which this mixer would not
        be exact.

        tensor_ranks: over which the heads that this mixer has are yet to be split. Asks for neither weights nor
        processes.
        """
        if not self.sequence_strategies:
            raise MixerError(
                f"mixer {self.name!r} cannot split the sequence axis (context parallelism); the nearest setting that "
                "works is one rank"
            )
        if strategy is not None and strategy not in self.sequence_strategies:
            raise MixerError(
                f"mixer {self.name!r} cannot split the sequence axis (context parallelism) by {strategy!r}; "
                f"it can by {' or '.join(map(repr, self.sequence_strategies))}"
            )
        heads = self.heads // tensor_ranks
        if not possible(self.sequence_strategies if strategy is None else (strategy,), heads, ranks):
            nearest = nearest_below(ranks, heads)
            others = possible(self.sequence_strategies, heads, ranks)
            raise MixerError(
                f"mixer {self.name!r} cannot exchange tokens for heads ('a2a') over {ranks} sequence ranks (context "
                f"parallelism), which do not divide its {heads} heads{' of each tensor rank' * (tensor_ranks > 1)}; "
                f"the nearest number of ranks that does is {nearest}"
                + (f", and over {ranks} it can by {' or '.join(map(repr, others))}" if others else "")
            )

    def require_tensor_parallel(self, ranks: int) -> None:
        """Refuse a tensor-parallel size that does not give every rank the same number of whole heads."""
        if self.heads % ranks:
            raise MixerError(
                f"mixer {self.name!r} cannot split its {self.heads} heads over {ranks} tensor-parallel ranks; "
                f"the nearest size below that divides them is {nearest_below(ranks, self.heads)}"
            )


def nearest_below(ranks: int, heads: int) -> int:
    """The largest number of ranks below `ranks` that divides the heads."""
    return max(size for size in range(1, ranks) if heads % size == 0)


@dataclass(frozen=True)
class Look:
    """How a mixer looks in every figure: the family that it belongs to, the family's colour, and which of it it is.

    The colours are those of Okabe and Ito (2008), which people with colour vision deficiencies can tell apart, and
    where they end, others that keep away from them. `member`: any integer; figures have a few shades, lines and markers
    for it, in turn, and 0 is the family's colour itself.
    """

    family: str
    colour: str = "#888888"
    member: int = 0

    @classmethod
    def of_width(cls, family: str, colour: str, width: int, usual: int) -> Look:
        """Of a family whose members differ in a width: a step for every doubling of the `usual` one."""
        return cls(family, colour, round(math.log2(width / usual)))


class MixerSpec(Protocol):
    """All that can be said of a mixer without building it. Equal names are equal mixers."""

    @property
    def name(self) -> str:
        """The canonical spelling."""

    @property
    def structure(self) -> Structure | None:
        """The sparsity of its matrices; None if it is not of the form Y = (I − B)⁻¹ A X over single tokens."""

    @property
    def look(self) -> Look:
        """In figures."""

    def build(self, dims: MixerDims) -> Mixer:
        """The module, with weights that are yet to be drawn."""
