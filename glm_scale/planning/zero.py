"""Memory and exchanges of DeepSpeed's ZeRO stages, as `training.engine` sets them up.

What is modelled is DeepSpeed 0.19: stages 1 and 2 all-reduce gradients and keep their part of the sum; bf16 in stage 1
is an optimizer of its own, with fp32 gradients of everything on every rank. Weights are partitioned in a flat group for
each of the optimizer's, padded to a multiple of twice the ranks; in stage 3 one by one. Groups of Muon have one moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from glm_scale.layers.activation_checkpointing import ActivationCheckpointing
from glm_scale.planning.exchanges import Axis, Exchange, all_gather, all_reduce, reduce_scatter
from glm_scale.planning.gathering import Gathering, gathering, visits
from glm_scale.planning.parts import Part, Weight
from glm_scale.planning.updating import Passes, passes
from glm_scale.training.bf16_gradients import PIECES, SENT_AT_ONCE
from glm_scale.training.groups import VECTOR, GroupKey, ordered
from glm_scale.training.orthogonal import orthogonalizing_flops

__all__ = ["State", "Zero"]

_ALIGNMENT = 2
_BUCKET = 200_000_000
"""Numbers: the largest bucket that `training.engine` asks for."""
_ENGINE_BUCKET = 500_000_000
"""Numbers: the bucket of DeepSpeed's engine, which sums gradients where no ZeRO optimizer does."""
_SUB_GROUP = 1_000_000_000
_PERSISTS = 100_000
"""Stage 3 keeps weights of so few numbers on every rank."""


@dataclass(frozen=True)
class State:
    """Bytes that a rank holds from step to step, and gradients: as many as there are before the optimizer's step or, if
    that is more, between two micro-batches. buffers: the largest that ZeRO fills with gradients or gathered weights;
    late_buffers: those that it fills when the backward pass is over, and activations are gone."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    late_buffers: int = 0


@dataclass(frozen=True)
class Zero:
    """A part of a model over `ranks` ranks that have the same one.

    precision: "fp32" or "bf16". tensor: ranks with other parts. policy: of activation checkpointing. keys: of each of
    the part's weights the group of the optimizer.
    """

    part: Part
    stage: int
    precision: str
    ranks: int
    tensor: int
    policy: ActivationCheckpointing
    keys: Sequence[GroupKey]

    @property
    def _itemsize(self) -> int:
        return 2 if self.precision == "bf16" else 4

    @property
    def passes(self) -> Passes:
        """What the update of the weights moves beside AdamW."""
        return passes(self.stage, self._itemsize, self.part.numbers, self.updated, self.ranks)

    @property
    def updated(self) -> int:
        """Numbers that a rank updates, padding among them."""
        return self.part.numbers if self.stage == 0 else sum(self._partitions)

    @property
    def normed(self) -> int:
        """Numbers of the gradients of which a rank takes the norm."""
        return self.ranks * self.updated if self._sums_everything else self.updated

    @property
    def _sums_everything(self) -> bool:
        """Whether all ranks have all sums of gradients, padding among them."""
        return self.stage == 1 and self.precision == "bf16"

    @property
    def _groups(self) -> list[list[Weight]]:
        """As the optimizer has them, `groups.parameter_groups`."""
        weights = list(zip(self.part.weights, self.keys, strict=True))
        weights.sort(key=lambda pair: -math.gcd(pair[0].numbers, VECTOR))
        return [[weight for weight, key in weights if key == group] for group in ordered(self.keys)]

    @property
    def _hidden(self) -> int:
        """Numbers of hidden matrices that a rank updates."""
        of_groups = [_numbers(group) for group in self._groups] if self.stage == 0 else self._partitions
        return sum(numbers for numbers, key in zip(of_groups, ordered(self.keys), strict=True) if key.hidden)

    @property
    def orthogonalizing_flops(self) -> float:
        """Of a rank and step: what Muon does with hidden matrices, shared by all ranks that have parts of one."""
        stepped = (weight.hidden for weight, key in zip(self.part.weights, self.keys, strict=True) if key.hidden)
        # A tensor rank has a part of the rows or of the columns; the products differ by little.
        whole = sum(orthogonalizing_flops(rows * self.tensor, columns) for rows, columns in filter(None, stepped))
        return whole if self._holds_all_matrices else whole / (self.ranks * self.tensor)

    @property
    def _holds_all_matrices(self) -> bool:
        return self.stage == 0 and self.tensor == 1

    @property
    def _partitions(self) -> list[int]:
        """Numbers of each group that a rank updates, padded."""
        if self.stage == 3:
            return [sum(map(self._partition, group)) for group in self._groups]
        each = _ALIGNMENT * self.ranks
        return [-(-_numbers(group) // each) * _ALIGNMENT for group in self._groups]

    def _partition(self, weight: Weight) -> int:
        """Stage 3: every weight is padded by itself."""
        return -(-weight.numbers // self.ranks)

    @cached_property
    def _gathered(self) -> Gathering:
        """Stage 3: weights that are gathered in one forward and one backward pass."""
        numbers = [weight.numbers for weight in self.part.weights]
        return gathering(visits(self.part.modules, self.policy), numbers, [count <= _PERSISTS for count in numbers])

    # Memory ------------------------------------------------------------------------------------------------------

    def state(self, rank: int = 0) -> State:
        """Of one of the ranks."""
        numbers, size, ranks = self.part.numbers, self._itemsize, self.ranks
        bucket = min(numbers, _BUCKET) * size
        if self.stage == 0:
            # Moments, and the number of steps of each parameter.
            moments = 8 * numbers - 4 * self._hidden + 4 * len(self.part.weights)
            return State(4 * numbers, 4 * numbers, moments, 0, 4 * min(numbers, _ENGINE_BUCKET))
        own, steps = sum(self._partitions), 4 * len(self._groups)
        # The fp32 weights that are updated, and their moments.
        optimizer = 3 * 4 * own - 4 * self._hidden + steps
        if self.stage == 3:
            kept = sum(self._partition(weight) for weight in self.part.weights if weight.numbers <= _PERSISTS)
            # One rank computes with the partitions themselves.
            weights = size * (own + ranks * kept * (ranks > 1))
            return State(weights, 4 * own, optimizer, bucket + size * self._gathered.most)
        weights = size * own * ranks
        if self._sums_everything:
            # Those in bf16 are there until the backward pass is over; then sums are sent in bf16, piece by piece.
            summed = own * ranks
            sent = size * min(summed, PIECES * SENT_AT_ONCE) * (ranks > 1)
            return State(weights, 4 * summed, optimizer, 0, max(size * numbers, sent))
        if self.stage == 2 and self.precision == "bf16":
            return State(weights, 4 * own, optimizer, bucket)
        # A gradient of which this rank needs a part is kept whole.
        parts = zip(self._groups, self._partitions, strict=True)
        touched = 4 * sum(_touched(group, partition, rank) for group, partition in parts)
        return State(weights, touched if self.stage == 2 else max(4 * numbers, touched), optimizer, bucket)

    # Exchanges ---------------------------------------------------------------------------------------------------

    def of_micro_batch(self) -> Iterator[Exchange]:
        """In the forward and the backward pass of every micro-batch."""
        numbers, size, ranks = self.part.numbers, self._itemsize, self.ranks
        if self.stage == 2:
            yield all_reduce("replicas", ranks, size * numbers, _calls(numbers))
        if self.stage == 3:
            padded = ranks * sum(self._partitions)
            yield reduce_scatter("replicas", ranks, size * padded, _calls(numbers))
            weights = self.part.weights
            for index, times in self._gathered.times.items():
                yield all_gather("replicas", ranks, size * times * self._partition(weights[index]), times)

    def of_step(self) -> Iterator[Exchange]:
        """Once a step: gradients, norms, new weights; and the engine's counts of labels (int64) and loss (fp32)."""
        numbers, size, ranks = self.part.numbers, self._itemsize, self.ranks
        yield all_reduce("replicas", ranks, 8 + 4, 2)
        if self.stage < 2:
            if self._sums_everything:
                numbers = ranks * sum(self._partitions)
            yield all_reduce("replicas", ranks, size * numbers, _calls(numbers))
        yield from self._norms()
        yield from self._matrices()
        if self.stage in (1, 2):
            for partition in self._partitions:
                yield all_gather("replicas", ranks, size * partition)
        if self.stage == 3:
            for weight in self.part.weights:
                if weight.numbers <= _PERSISTS:
                    yield all_gather("replicas", ranks, size * self._partition(weight))

    def _matrices(self) -> Iterator[Exchange]:
        """What Muon sends to those that work on a matrix, and back, on GPUs in bf16: about, since where ZeRO cuts a
        group of whole matrices the few that it hits are left out."""
        apart = self.tensor * (self.ranks if self.stage == 3 else 1)
        if self._hidden and apart > 1:
            axis: Axis = "tensor" if self.stage < 3 else "replicas"
            yield Exchange(axis, "all_to_all", 2 * 2 * self._hidden * (apart - 1) / apart, 2)

    def _norms(self) -> Iterator[Exchange]:
        """Sums of squares, a number each, and whether a gradient is finite, a byte."""
        groups = len(self._groups)
        over_replicas, over_tensor = 4 * groups, 4 * groups
        if self.stage == 0 or self._sums_everything:
            over_replicas, over_tensor = 0, 4
        elif self.stage == 2 and self.precision == "bf16":
            over_replicas, over_tensor = 4 * groups + 1, 4 * groups + 1
        elif self.stage == 3:
            over_replicas = over_tensor = 8 * sum(-(-partition // _SUB_GROUP) for partition in self._partitions)
        yield all_reduce("replicas", self.ranks, over_replicas, groups)
        yield all_reduce("tensor", self.tensor, over_tensor, groups)


def _numbers(weights: Sequence[Weight]) -> int:
    return sum(weight.numbers for weight in weights)


def _calls(numbers: int) -> int:
    return -(-numbers // _BUCKET)


def _touched(group: Sequence[Weight], partition: int, rank: int) -> int:
    """Numbers of the weights of which a partition has any, and its padding."""
    first, end = rank * partition, (rank + 1) * partition
    ends = accumulate(weight.numbers for weight in group)
    whole = sum(w.numbers for w, stop in zip(group, ends, strict=True) if stop > first and stop - w.numbers < end)
    return whole + max(0, end - max(first, _numbers(group)))
