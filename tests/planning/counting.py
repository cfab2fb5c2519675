"""Counts what a rank sends, at the places where every collective passes: the methods of torch's process groups, and the
functional collectives of tensor ranks, which go past them.

DeepSpeed, megatron-core and this project reach the former by different functions of `torch.distributed`. Knows nothing
of the planner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import distributed as dist

from glm_scale.parallel.tensor import exchange


def _bytes(tensors: Any) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(map(_bytes, tensors))


Count = Callable[[int, tuple[Any, ...]], float]


def _all_reduce(ranks: int, arguments: tuple[Any, ...]) -> float:
    return 2 * (ranks - 1) / ranks * _bytes(arguments[0])


def _all_gather(ranks: int, arguments: tuple[Any, ...]) -> float:
    return (ranks - 1) * _bytes(arguments[1])


def _parts(ranks: int, arguments: tuple[Any, ...]) -> float:
    return (ranks - 1) / ranks * _bytes(arguments[1])


def _message(ranks: int, arguments: tuple[Any, ...]) -> float:
    return _bytes(arguments[0]) if ranks > 1 else 0


# Of each method: the collective, and the bytes that a rank sends under a ring algorithm.
_SENT: dict[str, tuple[str, Count]] = {
    "allreduce": ("all_reduce", _all_reduce),
    "allreduce_coalesced": ("all_reduce", _all_reduce),
    "allgather": ("all_gather", _all_gather),
    "allgather_coalesced": ("all_gather", _all_gather),
    "all_gather_single": ("all_gather", _all_gather),
    "all_gather_single_coalesced": ("all_gather", _all_gather),
    "reduce_scatter": ("reduce_scatter", _parts),
    "reduce_scatter_single": ("reduce_scatter", _parts),
    "reduce_scatter_single_coalesced": ("reduce_scatter", _parts),
    "alltoall": ("all_to_all", _parts),
    "all_to_all_single": ("all_to_all", _parts),
    "send": ("send", _message),
    "broadcast": ("broadcast", _message),
    "reduce": ("reduce", _message),
    "gather": ("gather", _message),
    "scatter": ("scatter", _message),
    # By these names torch before 2.13 knew the same.
    "_allgather_base": ("all_gather", _all_gather),
    "allgather_into_tensor_coalesced": ("all_gather", _all_gather),
    "_reduce_scatter_base": ("reduce_scatter", _parts),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", _parts),
    "alltoall_base": ("all_to_all", _parts),
}


_FUNCTIONAL: dict[str, tuple[str, Count]] = {
    "all_reduce": ("all_reduce", lambda ranks, given: 2 * (ranks - 1) / ranks * _bytes(given[0])),
    "all_gather_into_tensor": ("all_gather", lambda ranks, given: (ranks - 1) * _bytes(given[0])),
    "reduce_scatter_tensor": ("reduce_scatter", lambda ranks, given: (ranks - 1) / ranks * _bytes(given[0])),
}


@contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Bytes sent by this rank within the block, by collective. A collective that moves nothing is not counted."""
    sent: dict[str, float] = defaultdict(float)
    # As they lie in the class: what `getattr` gives could not be put back.
    originals = {name: vars(dist.ProcessGroup)[name] for name in _SENT if name in vars(dist.ProcessGroup)}
    calls = {name: getattr(dist.ProcessGroup, name) for name in originals}

    def watched(name: str) -> Callable[..., Any]:
        collective, count = _SENT[name]

        def call(group: dist.ProcessGroup, *args: Any, **options: Any) -> Any:
            amount = count(group.size(), args)
            if amount:
                sent[collective] += amount
            return calls[name](group, *args, **options)

        return call

    def functional(name: str) -> Callable[..., Any]:
        original = getattr(exchange._ops, name)
        collective, count = _FUNCTIONAL[name]

        def call(x: torch.Tensor, *rest: Any) -> Any:
            sent[collective] += count(_ranks_of(rest[-1]), (x,))
            return original(x, *rest)

        return call

    for name in originals:
        setattr(dist.ProcessGroup, name, watched(name))
    try:
        operators = {name: functional(name) for name in _FUNCTIONAL}
        waiting = exchange._ops.wait_tensor
        with mock.patch.object(exchange, "_ops", SimpleNamespace(**operators, wait_tensor=waiting)):
            yield sent
    finally:
        for name, method in originals.items():
            setattr(dist.ProcessGroup, name, method)


def _ranks_of(group: str) -> int:
    """How many are in the group of a name."""
    (found,) = [pg for pg, name in dist.distributed_c10d._world.pg_names.items() if name == group]
    return found.size()
