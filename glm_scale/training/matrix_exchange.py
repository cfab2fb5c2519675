"""Whole matrices out of pieces that are spread over ranks, and back: which rank works on which, and what is sent.

ZeRO cuts the numbers of a group of parameters, and tensor ranks have parts of the weights; who works on a matrix needs
all of it. All ranks know the same plan: of every matrix who holds what, and who works on it. A rank that holds all of a
matrix works on it itself. Any other is given to one of its holders, in turn to the one that has least to do, so that
the work is shared and nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from glm_scale.checkpoint.pieces import Box, boxes_of_run

__all__ = ["Bucket", "Exchange", "Held", "Matrix", "planned"]

Shape = tuple[int, ...]
_TOGETHER = 2**26
"""Numbers that a rank has of other ranks' at a time, or works on: 128 MiB of bf16."""


@dataclass(frozen=True)
class Held:
    """A run of a matrix that a rank holds: numbers `start` … `start + count` − 1, row by row, of the box `part` of the
    matrix `name`, which as a whole has this shape."""

    name: str
    shape: Shape
    part: Box
    start: int
    count: int


@dataclass(frozen=True)
class Matrix:
    """A matrix of the plan. holders: rank and run, of every rank that holds some. workers: ranks that work on it."""

    name: str
    shape: Shape
    holders: tuple[tuple[int, Held], ...]
    workers: tuple[int, ...]

    def sources(self) -> Iterator[tuple[int, Held]]:
        """Of runs that several ranks hold the first one."""
        seen = set()
        for rank, held in self.holders:
            place = held.part.offsets, held.start
            if place not in seen:
                seen.add(place)
                yield rank, held


Route = tuple[int, int, Held]
"""From which rank to which a run is sent."""


@dataclass(frozen=True)
class Bucket:
    """Matrices that are exchanged at once."""

    matrices: tuple[Matrix, ...]

    def to_workers(self) -> Iterator[Route]:
        """What each worker needs."""
        for matrix in self.matrices:
            for worker in matrix.workers:
                own = next(held for rank, held in matrix.holders if rank == worker)
                if own.count == prod(matrix.shape):
                    yield worker, worker, own
                else:
                    yield from ((rank, worker, held) for rank, held in matrix.sources())

    def to_holders(self) -> Iterator[Route]:
        """What each holder gets of what was made."""
        for matrix in self.matrices:
            for rank, held in matrix.holders:
                yield rank if rank in matrix.workers else matrix.workers[0], rank, held


def planned(held_by_ranks: Sequence[Sequence[Held]]) -> list[Bucket]:
    """The plan for matrices that the ranks hold, listed by rank, each in the same order of names.

    A pure function of what all ranks hold, so that all that know this have the same plan.
    """
    names = list(dict.fromkeys(held.name for ranks in held_by_ranks for held in ranks))
    holders: dict[str, list[tuple[int, Held]]] = {name: [] for name in names}
    for rank, runs in enumerate(held_by_ranks):
        for held in runs:
            holders[held.name].append((rank, held))
    load = [0] * len(held_by_ranks)
    matrices = []
    for name in names:
        shape = holders[name][0][1].shape
        size = prod(shape)
        workers = tuple(rank for rank, held in holders[name] if held.count == size)
        if not workers:
            workers = (min((rank for rank, _ in holders[name]), key=lambda rank: (load[rank], rank)),)
        for rank in workers:
            load[rank] += size
        matrices.append(Matrix(name, shape, tuple(holders[name]), workers))
    return list(_buckets(matrices, len(held_by_ranks)))


def _buckets(matrices: Sequence[Matrix], ranks: int) -> Iterator[Bucket]:
    """In order, as many at once as leave no rank with more than `_TOGETHER` numbers, but at least one."""
    members: list[Matrix] = []
    load = [0] * ranks
    for matrix in matrices:
        size = prod(matrix.shape)
        if members and any(load[rank] + size > _TOGETHER for rank in matrix.workers):
            yield Bucket(tuple(members))
            members, load = [], [0] * ranks
        members.append(matrix)
        for rank in matrix.workers:
            load[rank] += size
    if members:
        yield Bucket(tuple(members))


class Exchange:
    """Works on whole matrices among the ranks of a process group; of one process alone if it is None.

    dtype: in which matrices are sent and worked on, on `device`.
    """

    def __init__(self, group: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._group = group
        self.dtype = dtype
        self._nothing = torch.empty(0, dtype=dtype, device=device)
        self._rank = 0 if group is None else dist.get_rank(group)
        self._size = 1 if group is None else dist.get_world_size(group)

    def plan(self, held: Sequence[Held]) -> list[Bucket]:
        """The plan for what this rank and the others hold. Collective."""
        if self._group is None:
            return planned([held])
        found: list[Sequence[Held]] = [()] * self._size
        dist.all_gather_object(found, list(held), group=self._group)
        return planned(found)

    def worked(
        self,
        bucket: Bucket,
        runs: Mapping[str, Tensor],
        work: Callable[[list[Tensor]], list[Tensor]],
    ) -> dict[str, Tensor]:
        """What `work` makes of the matrices of a bucket, by name, of each the run that this rank holds. Collective.

        runs: of each matrix this rank's run `[count]`. work: of whole matrices `[rows, columns]` as many of the same
        shapes.
        """
        whole = {m.name: self._nothing.new_empty(m.shape) for m in bucket.matrices if self._rank in m.workers}
        for held, run in self._sent(list(bucket.to_workers()), lambda held: runs[held.name]):
            for box, where in boxes_of_run(held.part, held.start, held.count):
                _part(whole[held.name], box).copy_(run[where].view(box.sizes))
        done = dict(zip(whole, work(list(whole.values())), strict=True))
        arrived = self._sent(list(bucket.to_holders()), lambda held: _run(done[held.name], held))
        return {held.name: run for held, run in arrived}

    def _sent(self, routes: Sequence[Route], numbers: Callable[[Held], Tensor]) -> list[tuple[Held, Tensor]]:
        """What comes to this rank: runs, with their numbers. `numbers`: of a run that it sends."""
        if all(source == target for source, target, _ in routes):
            return [(held, numbers(held)) for source, _, held in routes if source == self._rank]
        ranks = range(self._size)
        there = [[held for source, target, held in routes if (source, target) == (self._rank, r)] for r in ranks]
        here = [[held for source, target, held in routes if (source, target) == (r, self._rank)] for r in ranks]
        lengths, sizes = ([sum(held.count for held in runs) for runs in side] for side in (there, here))
        sent = torch.cat([self._nothing, *(numbers(held) for runs in there for held in runs)])
        arrived = self._nothing.new_empty(sum(sizes))
        dist.all_to_all_single(arrived, sent, sizes, lengths, group=self._group)
        coming = [held for runs in here for held in runs]
        return list(zip(coming, arrived.split([held.count for held in coming]), strict=True))


def _part(matrix: Tensor, box: Box) -> Tensor:
    """A view of a box of it."""
    return matrix[tuple(slice(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True))]


def _run(matrix: Tensor, held: Held) -> Tensor:
    """The numbers of a run, `[count]`."""
    return torch.cat([_part(matrix, box).reshape(-1) for box, _ in boxes_of_run(held.part, held.start, held.count)])
