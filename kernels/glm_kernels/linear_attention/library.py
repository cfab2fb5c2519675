"""The operators as torch sees them: `torch.ops.glm_kernels.linear_attention` and `.log_linear_attention`.

Backward passes compute the forward one again, under `torch.func.vjp` since nothing below autograd's keys records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glm_kernels.checks import check_packing_values
from glm_kernels.linear_attention import chunkwise, levels
from glm_kernels.linear_attention.state import LevelState
from glm_kernels.precision import accumulation_dtype
from glm_kernels.registration import Gradients, Operator, Outputs

LARGEST_NUMBERS = 1 << 27
"""Numbers that products of rows channel by channel may have at once; heads beyond that are computed in turn."""


def _linear(*arguments: Any) -> Outputs:
    q, *_, starts, _, output_final_state = arguments
    check_packing_values(q.shape[1], None, starts)
    found = [_of_heads(arguments, heads) for heads in _turns(arguments)]
    y, finals = (list(parts) for parts in zip(*found, strict=True))
    final = torch.cat(finals, 1) if output_final_state else _empty(q)
    return torch.cat(y, 2) if len(y) > 1 else y[0], final


def _linear_backward(grad: Tensor | None, final_grad: Tensor | None, *arguments: Any) -> Gradients:
    *_, state, output_final_state = arguments
    final_grad = final_grad if output_final_state else None
    found = []
    for heads in _turns(arguments):
        tensors = _slices(arguments, heads)
        given = [x is not None for x in tensors]

        def again(*changing: Tensor, heads: slice = heads, given: list[bool] = given) -> tuple[Tensor, Tensor]:
            rest = iter(changing)
            return _of_heads(arguments, heads, [next(rest) if there else None for there in given])

        grads = (
            None if grad is None else grad[:, :, heads],
            None if final_grad is None else final_grad[:, heads],
        )
        found.append(_pulled_back(again, [x for x in tensors if x is not None], grads))
    parts = list(map(list, zip(*found, strict=True)))
    of_state = [] if state is None else [torch.cat(parts.pop(), 1)]
    return [torch.cat(part, 2) for part in parts] + of_state


def _of_heads(
    arguments: tuple[Any, ...], heads: slice, tensors: list[Tensor | None] | None = None
) -> tuple[Tensor, Tensor]:
    """y and the final state of some heads; tensors: in place of theirs of the arguments."""
    *_, scale, starts, _, _ = arguments
    q, k, v, log_decay, beta, state = tensors or _slices(arguments, heads)
    assert q is not None
    assert k is not None
    assert v is not None
    assert log_decay is not None
    starts = None if starts is None else starts.to(q.device)
    return chunkwise.run(q, k, v, log_decay, beta, scale, starts, state)


def _slices(arguments: tuple[Any, ...], heads: slice) -> list[Tensor | None]:
    """q, k, v, log_decay, beta and the state, of some heads."""
    *rows, _, _, state, _ = arguments
    return [None if x is None else x[:, :, heads] for x in rows] + [None if state is None else state[:, heads]]


def _turns(arguments: tuple[Any, ...]) -> list[slice]:
    """The heads that are computed together; follows from shapes alone."""
    q, _, _, log_decay, *_ = arguments
    channels = q.shape[3] * (chunkwise.BLOCK + chunkwise.CHUNK // chunkwise.BLOCK)
    each = q.shape[0] * q.shape[1] * (channels if log_decay.ndim == 4 else chunkwise.CHUNK)
    together = max(LARGEST_NUMBERS // each, 1)
    return [slice(first, first + together) for first in range(0, q.shape[2], together)]


def _linear_shapes(*arguments: Any) -> Outputs:
    q, _, v, *_, output_final_state = arguments
    final = q.new_empty(q.shape[0], *q.shape[2:], v.shape[3], dtype=accumulation_dtype(q.dtype))
    return v.new_empty(v.shape), final if output_final_state else _empty(q)


def _log_linear(*arguments: Any) -> Outputs:
    q, *_, starts, _, _, _ = arguments
    check_packing_values(q.shape[1], None, starts)
    y, final = _by_level(arguments, arguments[:5])
    return y, _empty(q) if final is None else final


def _log_linear_backward(grad: Tensor | None, final_grad: Tensor | None, *arguments: Any) -> Gradients:
    *rows, _, _, state_levels, _, output_final_state = arguments
    changing = [*rows, *([] if state_levels is None else [state_levels])]

    def again(*tensors: Tensor) -> tuple[Tensor, ...]:
        y, final = _by_level(arguments, tensors[:5], tensors[5] if len(tensors) > 5 else None)
        return (y,) if final is None else (y, final)

    return _pulled_back(again, changing, (grad, final_grad) if output_final_state else (grad,))


def _by_level(
    arguments: tuple[Any, ...], rows: tuple[Tensor, ...], state_levels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    *_, scale, starts, of_state, position, output_final_state = arguments
    of_state = of_state if state_levels is None else state_levels
    state = None if of_state is None else LevelState(of_state, position)
    starts = None if starts is None else starts.to(rows[0].device)
    q, k, v, log_decay, level = rows
    return levels.run(q, k, v, log_decay, level, scale, starts, state, output_final_state)


def _log_linear_shapes(*arguments: Any) -> Outputs:
    q, _, v, _, level, *_, output_final_state = arguments
    shape = (q.shape[0], q.shape[2], level.shape[3], q.shape[3], v.shape[3])
    final = q.new_empty(shape, dtype=accumulation_dtype(q.dtype)) if output_final_state else _empty(q)
    return v.new_empty(v.shape), final


def _pulled_back(
    run: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], grads: tuple[Tensor | None, ...]
) -> Gradients:
    """The gradients of `run`'s inputs from those of its results; None: of a result that is not used."""
    made: Any = torch.func.vjp(run, *inputs)
    results, pull = made
    given = tuple(torch.zeros_like(y) if g is None else g.to(y.dtype) for y, g in zip(results, grads, strict=True))
    return [gradient.contiguous() for gradient in pull(given)]


def _empty(x: Tensor) -> Tensor:
    """In place of a result that there is not."""
    return x.new_empty(0)


linear_attention = Operator(
    "linear_attention",
    "Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor? beta, float scale, Tensor? document_starts, "
    "Tensor? state, bool output_final_state",
    _linear,
    _linear_backward,
    _linear_shapes,
    results=2,
    differentiable=("q", "k", "v", "log_decay", "beta", "state"),
    needs_results=False,
)
"""y `[B, T, H, V]` and the final state `[B, H, K, V]`, empty if it is not asked for."""

log_linear_attention = Operator(
    "log_linear_attention",
    "Tensor q, Tensor k, Tensor v, Tensor log_decay, Tensor level, float scale, Tensor? document_starts, "
    "Tensor? levels, Tensor? position, bool output_final_state",
    _log_linear,
    _log_linear_backward,
    _log_linear_shapes,
    results=2,
    differentiable=("q", "k", "v", "log_decay", "level", "levels"),
    needs_results=False,
)
"""y `[B, T, H, V]` and the final levels `[B, H, L, K, V]`, empty if they are not asked for."""
