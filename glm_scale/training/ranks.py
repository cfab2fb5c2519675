"""The processes of a run among themselves: which share each has, and what they have to agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from glm_data import Batch, PackedSequences, batches
from glm_scale.errors import UserError
from glm_scale.parallel.mesh import Mesh
from glm_scale.training.micro_batch import DeviceBatch

__all__ = ["LostRankError", "OtherRankError", "Ranks"]

T = TypeVar("T")


class OtherRankError(UserError):
    """Rank 0 could not go on, and has said why."""


class LostRankError(RuntimeError):
    """Another rank is gone, so that what all do together cannot be done any more."""


class Ranks:
    """This process and the others of its run. Without a mesh it is the only one.

    What they tell one another here are small things on the CPU, over a group of their own: it works beside a GPU that
    is busy, and does not wait for it. A thread takes an `apart` of its own.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self._group = dist.new_group(backend="gloo") if mesh else None

    def apart(self) -> Ranks:
        """The same ranks over another group, so that both can be used at the same time. Collective."""
        return Ranks(self.mesh)

    def together(self, collective: Callable[[Any], T]) -> T:
        """What `collective` returns when it is given the group (None: there is one process).

        If it fails a rank is gone. Then this one leaves the group, so that those who wait for it fail as well, and
        nobody waits on in a circle, and raises LostRankError.
        """
        if self.mesh is not None and self._group is None:
            raise LostRankError("another rank is gone")
        try:
            return collective(self._group)
        except RuntimeError as error:
            reason = str(error)
        # Its connections are closed when nothing refers to the group any more: no variable, and no traceback either.
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None
        raise LostRankError(f"another rank is gone: {reason}")

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks to the user."""
        return self.mesh is None or dist.get_rank() == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0, on all ranks. If it raises there, the others raise OtherRankError."""
        if self.mesh is None:
            return make()
        answer: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.first:
            try:
                answer[0] = make()
            except Exception as error:
                failure, answer[1] = error, str(error)
        self.together(lambda group: dist.broadcast_object_list(answer, src=0, group=group))
        if failure is not None:
            raise failure
        if answer[1] is not None:
            raise OtherRankError(f"rank 0 could not go on: {answer[1]}")
        return answer[0]

    def gathered(self, brought: T) -> list[T]:
        """What every rank brings, by rank."""
        if self.mesh is None:
            return [brought]
        everyones: list[Any] = [None] * dist.get_world_size()
        self.together(lambda group: dist.all_gather_object(everyones, brought, group))
        return everyones

    def largest(self, number: int) -> int:
        """The largest of the numbers that the ranks bring."""
        if self.mesh is None:
            return number
        largest = torch.tensor(number)
        self.together(lambda group: dist.all_reduce(largest, dist.ReduceOp.MAX, group))
        return int(largest)

    def totals(self, numbers: Iterable[float]) -> list[float]:
        """Sums over the ranks that hold different tokens, in fp64."""
        sums = torch.tensor(list(numbers), dtype=torch.float64)
        if self.mesh is not None:
            # Tensor ranks hold the same tokens, and count once.
            sums = sums if self.mesh.tensor_rank == 0 else torch.zeros_like(sums)
            self.together(lambda group: dist.all_reduce(sums, group=group))
        return sums.tolist()

    def batches(
        self, sequences: PackedSequences, start: int, micro_batch: int, stop: int | None = None
    ) -> Iterator[Batch]:
        """This rank's part of batches of `micro_batch` sequences for each data rank, from sample `start` of all on."""
        if self.mesh is None:
            yield from batches(sequences, start, micro_batch, stop=stop)
            return
        data = self.mesh.layout.data
        stream = batches(
            sequences, start, micro_batch * data, stop=stop, rank=self.mesh.data_rank, world_size=data
        )  # fmt: skip
        try:
            yield from map(self.own_part, stream)
        finally:
            stream.close()  # type: ignore[attr-defined]  # ends the worker processes

    def every_other(self, batches: Iterable[T]) -> Iterator[T]:
        """Of batches that data ranks take turns with those that are this rank's turn; each has as many if their number
        is a multiple of `data_ranks`."""
        return islice(batches, self.mesh.data_rank if self.mesh else 0, None, self.data_ranks)

    @property
    def data_ranks(self) -> int:
        """How many ranks hold different sequences."""
        return self.mesh.layout.data if self.mesh else 1

    def sequences_of(self, batches: Sequence[Batch | DeviceBatch]) -> int:
        """Sequences that all ranks together have when this one has these."""
        return sum(len(batch.tokens) for batch in batches) * (self.mesh.layout.data if self.mesh else 1)

    def own_columns(self, x: Tensor) -> Tensor:
        """Of numbers of whole sequences `[B, T]` those of the tokens that this rank holds."""
        if self.mesh is None or self.mesh.layout.sequence == 1:
            return x
        return x.chunk(self.mesh.layout.sequence, 1)[self.mesh.sequence_rank].contiguous()

    def own_part(self, batch: Batch) -> Batch:
        """The tokens of a sequence that this rank holds; its labels are those of the next tokens, wherever they are."""
        if self.mesh is None or self.mesh.layout.sequence == 1:
            return batch
        return replace(
            batch,
            tokens=self.own_columns(batch.tokens),
            labels=self.own_columns(batch.labels),
            document_starts=self.own_columns(batch.document_starts),
            whole=batch,
        )
