"""Exchanges of tensor ranks that gradients flow back through, inside the graphs of a compiler.

They are torch's functional collectives (`torch.ops._c10d_functional`, what DTensor is made of): a compiler knows what
each reads and gives, compiles what stands between them, and may let others run while one is under way. All ranks of a
group have the same graphs, and so the same order of exchanges. Sums are in the dtype of what is summed.

Each is an operator of `torch.library`, since a graph with a `torch.autograd.Function` in it is not found in torch's
cache when a run starts again: it would be traced and taken apart anew, for ten seconds or more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.functional_tensor import FunctionalTensorMode

from glm_scale.parallel.axis import TensorAxis

__all__ = ["copied_rows", "every_rank", "gathered_rows", "scattered_sum", "summed_rows"]

_ops = torch.ops._c10d_functional
# Caches know operators by their names, and those here are part of what is kept.
_STATE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def gathered_rows(x: Tensor, axis: TensorAxis, *, every_rank_differs: bool) -> Tensor:
    """`[P · n, …]` of every rank's x `[n, …]`. Its gradient is the sum of all ranks' where they do different things
    with it, else this rank's part of it."""
    if every_rank_differs:
        return _gathered(x, axis.name, axis.size)
    return _gathered_alike(x, axis.name, axis.size, axis.rank)


def scattered_sum(x: Tensor, axis: TensorAxis) -> Tensor:
    """This rank's rows `[n, …]` of the sum over ranks of x `[P · n, …]`."""
    return _scattered(x, axis.name, axis.size)


def summed_rows(x: Tensor, axis: TensorAxis) -> Tensor:
    """The sum over ranks, with which all of them do the same."""
    return _summed(x, axis.name)


def copied_rows(x: Tensor, axis: TensorAxis) -> Tensor:
    """x, the same on all ranks, whose gradient is the sum of all ranks' gradients."""
    return _copied(x, axis.name)


def every_rank(x: Tensor, axis: TensorAxis) -> Tensor:
    """`[P, …]` of every rank's x; without gradients."""
    return _all_gather(x[None], axis.name, axis.size)


def _all_gather(x: Tensor, group: str, size: int) -> Tensor:
    found: Tensor = _ops.wait_tensor(_ops.all_gather_into_tensor(x.contiguous(), size, group))
    return found


def _reduce_scatter(x: Tensor, group: str, size: int) -> Tensor:
    found: Tensor = _ops.wait_tensor(_ops.reduce_scatter_tensor(x.contiguous(), "sum", size, group))
    return found


def _all_reduce(x: Tensor, group: str) -> Tensor:
    found: Tensor = _ops.wait_tensor(_ops.all_reduce(x.contiguous(), "sum", group))
    return found


def _operator(gradient: Callable[..., Tensor]) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """An operator of a function of x and numbers, and of that which makes x's gradient of a result's and the same
    numbers. A compiler sees the collectives in both."""

    def made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.numbers = inputs[1:]

        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            return gradient(grad, *ctx.numbers), *(None for _ in ctx.numbers)

        def taken_apart(mode: Any, op: Any, types: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
            with mode:
                return function(*inputs, **options)

        name = f"glm_scale::{function.__name__.strip('_')}_{_STATE}"
        operator = torch.library.custom_op(name, function, mutates_args=())
        operator.register_fake(function)
        operator.register_autograd(backward, setup_context=save)
        operator.register_torch_dispatch(FunctionalTensorMode, taken_apart)
        return operator

    return made


@_operator(_reduce_scatter)
def _gathered(x: Tensor, group: str, size: int) -> Tensor:
    return _all_gather(x, group, size)


def _own_part(grad: Tensor, group: str, size: int, rank: int) -> Tensor:
    return grad.chunk(size)[rank]


@_operator(_own_part)
def _gathered_alike(x: Tensor, group: str, size: int, rank: int) -> Tensor:
    return _all_gather(x, group, size)


@_operator(_all_gather)
def _scattered(x: Tensor, group: str, size: int) -> Tensor:
    return _reduce_scatter(x, group, size)


def _unchanged(grad: Tensor, group: str) -> Tensor:
    return grad


@_operator(_unchanged)
def _summed(x: Tensor, group: str) -> Tensor:
    return _all_reduce(x, group)


@_operator(_all_reduce)
def _copied(x: Tensor, group: str) -> Tensor:
    # What an operator gives must not be what it was given.
    return x.clone()
