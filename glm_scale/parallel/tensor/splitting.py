"""Work of one layer split over tensor ranks.

Every rank computes with its part of the weights from the same tokens, and what they give is summed. So a split layer
begins with `entering`, whose gradient is the sum of all ranks' gradients, and ends with a projection that sums.
Tokens `[B, T, D]`; with `TensorAxis.shards_tokens` each rank has `[B, T / size, D]` of them outside: of the B · T
tokens, one sequence behind the other, those of its part. So nothing has to be moved to be exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glm_scale.parallel.axis import TensorAxis
from glm_scale.parallel.tensor.exchange import copied_rows, gathered_rows, scattered_sum, summed_rows


def entering(x: Tensor, axis: TensorAxis | None) -> Tensor:
    """All tokens, at the beginning of a split layer."""
    if axis is None:
        return x
    return _gathered(x, axis, every_rank_differs=True) if axis.shards_tokens else copied_rows(x, axis)


def copied(x: Tensor, axis: TensorAxis | None) -> Tensor:
    """x, the same on all ranks, whose gradient is the sum of all ranks' gradients."""
    return x if axis is None else copied_rows(x, axis)


def all_tokens(x: Tensor, axis: TensorAxis | None) -> Tensor:
    """All tokens where all ranks do the same with them, so that each needs the gradient of its own tokens alone."""
    if axis is None or not axis.shards_tokens:
        return x
    return _gathered(x, axis, every_rank_differs=False)


def of_all_tokens(weight: Tensor, axis: TensorAxis | None) -> Tensor:
    """A weight that every rank applies to the tokens it has: with parts of the tokens it needs the sum of gradients."""
    return copied(weight, axis) if axis is not None and axis.shards_tokens else weight


def summed(x: Tensor, axis: TensorAxis) -> Tensor:
    """The sum over ranks of x `[B, T, D]`: of all tokens, or with `TensorAxis.shards_tokens` of this rank's."""
    if not axis.shards_tokens:
        return summed_rows(x, axis)
    return scattered_sum(x.flatten(0, 1), axis).unflatten(0, (len(x), -1))


def summed_among_heads(x: Tensor, axis: TensorAxis | None) -> Tensor:
    """The sum over ranks of x, inside a split layer: every rank goes on with it in its own way."""
    return x if axis is None else copied_rows(summed_rows(x, axis), axis)


def _gathered(x: Tensor, axis: TensorAxis, *, every_rank_differs: bool) -> Tensor:
    """All tokens `[B, T, D]` of those of each rank; their gradients are summed where ranks do different things."""
    rows = gathered_rows(x.flatten(0, 1), axis, every_rank_differs=every_rank_differs)
    return rows.unflatten(0, (len(x), -1))


# Parts of parameters ---------------------------------------------------------------------------------------------


def split_parameter(whole: Tensor, axis: TensorAxis | None, dimension: int = 0) -> nn.Parameter:
    """This rank's part of a parameter that is laid out head by head along `dimension`."""
    if axis is None:
        return nn.Parameter(whole)
    return mark_split(nn.Parameter(_part(whole, axis, dimension).clone()), axis, dimension)


def mark_split(parameter: nn.Parameter, axis: TensorAxis | None, dimension: int = 0) -> nn.Parameter:
    """Says that a parameter is one of the parts of a whole, by the attributes that megatron-core and DeepSpeed know."""
    if axis is not None:
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
        parameter.partition_dim = dimension  # type: ignore[attr-defined]
        parameter.partition_stride = 1  # type: ignore[attr-defined]
    return parameter


def split_dimension(parameter: nn.Parameter) -> int | None:
    """The dimension along which a parameter is split over tensor ranks; None if every rank has all of it."""
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None  # type: ignore


def whole_shape(shape: tuple[int, ...], parameter: nn.Parameter, axis: TensorAxis | None) -> tuple[int, ...]:
    """The shape of the whole of which `parameter`, of this shape, is a part."""
    dimension = split_dimension(parameter)
    if axis is None or dimension is None:
        return shape
    return tuple(size * axis.size if d == dimension else size for d, size in enumerate(shape))


def own_part(whole: Tensor, parameter: nn.Parameter, axis: TensorAxis | None) -> Tensor:
    """What of a whole this rank's `parameter` holds."""
    dimension = split_dimension(parameter)
    return whole if axis is None or dimension is None else _part(whole, axis, dimension)


def gathered(part: Tensor, parameter: nn.Parameter, axis: TensorAxis | None) -> Tensor:
    """The whole of which every rank has a part shaped like `parameter`; without gradients. Collective."""
    dimension = split_dimension(parameter)
    if axis is None or dimension is None:
        return part
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(axis.size)]
    torch.distributed.all_gather(parts, part.contiguous(), axis.group)
    return torch.cat(parts, dimension)


def _part(whole: Tensor, axis: TensorAxis, dimension: int) -> Tensor:
    return whole.tensor_split(axis.size, dimension)[axis.rank]
