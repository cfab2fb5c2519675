"""Exchanges of tensor ranks that gradients flow back through, inside the graphs of a compiler.

They are torch's functional collectives (`torch.ops._c10d_functional`, what DTensor is made of): a compiler knows what
each reads and gives, compiles what stands between them, and may let others run while one is under way. All ranks of a
group have the same graphs, and so the same order of exchanges. Sums are in the dtype of what is summed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glm_scale.parallel.axis import TensorAxis

__all__ = ["copied_rows", "every_rank", "gathered_rows", "scattered_sum", "summed_rows"]

_ops = torch.ops._c10d_functional


def gathered_rows(x: Tensor, axis: TensorAxis, *, every_rank_differs: bool) -> Tensor:
    """`[P · n, …]` of every rank's x `[n, …]`. Its gradient is the sum of all ranks' where they do different things
    with it, else this rank's part of it."""
    rows: Tensor = _Gathered.apply(x, axis.name, axis.size, axis.rank, every_rank_differs)
    return rows


def scattered_sum(x: Tensor, axis: TensorAxis) -> Tensor:
    """This rank's rows `[n, …]` of the sum over ranks of x `[P · n, …]`."""
    rows: Tensor = _Scattered.apply(x, axis.name, axis.size)
    return rows


def summed_rows(x: Tensor, axis: TensorAxis) -> Tensor:
    """The sum over ranks, with which all of them do the same."""
    total: Tensor = _Summed.apply(x, axis.name)
    return total


def copied_rows(x: Tensor, axis: TensorAxis) -> Tensor:
    """x, the same on all ranks, whose gradient is the sum of all ranks' gradients."""
    copy: Tensor = _Copied.apply(x, axis.name)
    return copy


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


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str, size: int, rank: int, every_rank_differs: bool) -> Tensor:
        ctx.group, ctx.size, ctx.rank, ctx.sums = group, size, rank, every_rank_differs
        return _all_gather(x, group, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.sums:
            return _reduce_scatter(grad, ctx.group, ctx.size), None, None, None, None
        return grad.chunk(ctx.size)[ctx.rank], None, None, None, None


class _Scattered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str, size: int) -> Tensor:
        ctx.group, ctx.size = group, size
        return _reduce_scatter(x, group, size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _all_gather(grad, ctx.group, ctx.size), None, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        return _all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Copied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(grad, ctx.group), None
