"""The operators as torch sees them: `torch.ops.glm_kernels.recurrence` and `.ssm`, made by `registration`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glm_kernels.checks import check_packing_values, check_positions, check_room
from glm_kernels.dispatch import kept_shapes, recurrence_kernel, ssm_kernel
from glm_kernels.kernel_interface import RecurrenceCall, SSMCall
from glm_kernels.patterns import parse_pattern
from glm_kernels.precision import accumulation_dtype
from glm_kernels.registration import Gradients, Operator, Outputs
from glm_kernels.state import RecurrenceState

_PACKING = "Tensor? cu_seqlens, Tensor? document_starts"


def _recurrence_call(
    q: Tensor, k: Tensor, v: Tensor, d: Tensor, pattern: str, scale: float, cu_seqlens: Tensor | None,
    document_starts: Tensor | None, state_k: Tensor | None, state_y: Tensor | None, state_position: Tensor | None,
    state_room: int | None,
) -> RecurrenceCall:  # fmt: skip
    state = None
    if state_k is not None and state_y is not None and state_position is not None:
        state = RecurrenceState(state_k.contiguous(), state_y.contiguous(), state_position.long(), state_room)
    q, k, v, d = (x.contiguous() for x in (q, k, v, d))
    cu_seqlens, document_starts = _on_device(cu_seqlens, q), _on_device(document_starts, q)
    return RecurrenceCall(q, k, v, d, parse_pattern(pattern), scale, cu_seqlens, document_starts, state)


def _on_device(packing: Tensor | None, q: Tensor) -> Tensor | None:
    return None if packing is None else packing.to(q.device)


def _recurrence(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    q, *_, cu_seqlens, document_starts, _, _, _, _ = operands
    check_packing_values(q.shape[1], cu_seqlens, document_starts)
    call = _recurrence_call(*operands)
    if call.state is not None:
        check_room(call.state, call.pattern)
        if call.state.room is None or not q.is_cuda:
            check_positions(call.state, call.pattern)
    y, *kept = recurrence_kernel(call, backend).forward(call)
    return y, *_conforming(kept, call, backend)


def _recurrence_backward(
    grad: Tensor | None, _kept: None, _more: None, y: Tensor, kept: Tensor, more: Tensor, *arguments: Any
) -> Gradients:
    *operands, backend = arguments
    call = _recurrence_call(*operands)
    grad = torch.zeros_like(y) if grad is None else grad.contiguous()
    return recurrence_kernel(call, backend).backward(call, y, grad, kept, more)


def _recurrence_shapes(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    call = _recurrence_call(*operands)
    return call.v.new_empty(call.v.shape), *_conforming([], call, backend)


def _conforming(kept: list[Tensor], call: RecurrenceCall, backend: str) -> list[Tensor]:
    """Two tensors of the shapes that were announced: those kept, zeros for one that is not, empty without a shape."""
    shapes = kept_shapes(call, backend)
    given = kept[: len(shapes)]
    given += [call.q.new_zeros(shape, dtype=dtype) for shape, dtype in shapes[len(given) :]]
    return given + [_empty(call.q) for _ in range(2 - len(given))]


def _empty(x: Tensor) -> Tensor:
    """In place of a result that there is not."""
    return x.new_empty(0)


def _ssm_call(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, scale: float, cu_seqlens: Tensor | None,
    document_starts: Tensor | None, state: Tensor | None, output_final_state: bool,
) -> SSMCall:  # fmt: skip
    q, k, v, log_decay = (x.contiguous() for x in (q, k, v, log_decay))
    state = None if state is None else state.contiguous()
    cu_seqlens, document_starts = _on_device(cu_seqlens, q), _on_device(document_starts, q)
    return SSMCall(q, k, v, log_decay, scale, cu_seqlens, document_starts, state, output_final_state)


def _ssm(*arguments: Any) -> Outputs:
    *operands, backend = arguments
    q, *_, cu_seqlens, document_starts, _, _ = operands
    check_packing_values(q.shape[1], cu_seqlens, document_starts)
    call = _ssm_call(*operands)
    y, final = ssm_kernel(call, backend).forward(call)
    return y, _empty(call.q) if final is None else final


def _ssm_backward(grad: Tensor | None, final_grad: Tensor | None, *arguments: Any) -> Gradients:
    *operands, backend = arguments
    call = _ssm_call(*operands)
    return ssm_kernel(call, backend).backward(call, grad, final_grad if call.output_final_state else None)


def _ssm_shapes(*arguments: Any) -> Outputs:
    q, _, v, _, _, cu_seqlens, _, _, output_final_state, _ = arguments
    if not output_final_state:
        return v.new_empty(v.shape), _empty(q)
    carried = q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    final = q.new_empty(carried, q.shape[2], q.shape[3], v.shape[3], dtype=accumulation_dtype(q.dtype))
    return v.new_empty(v.shape), final


recurrence = Operator(
    "recurrence",
    f"Tensor q, Tensor k, Tensor v, Tensor d, str pattern, float scale, {_PACKING}, "
    "Tensor? state_k, Tensor? state_y, Tensor? state_position, int? state_room, str backend",
    _recurrence,
    _recurrence_backward,
    _recurrence_shapes,
    results=3,
    differentiable=("q", "k", "v", "d", "state_k", "state_y"),
    needs_results=True,
    rehearsed=True,
)
"""y `[B, T, H, V]` and what `RecurrenceKernel.forward` gives beside it, for the backward pass."""

ssm = Operator(
    "ssm",
    f"Tensor q, Tensor k, Tensor v, Tensor log_decay, float scale, {_PACKING}, "
    "Tensor? state, bool output_final_state, str backend",
    _ssm,
    _ssm_backward,
    _ssm_shapes,
    results=2,
    differentiable=("q", "k", "v", "log_decay", "state"),
    needs_results=False,
    rehearsed=True,
)
"""y `[B, T, H, V]` and the final state `[N, H, K, V]`, empty if it is not asked for."""
